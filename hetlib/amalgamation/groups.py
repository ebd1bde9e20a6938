"""The paper's experiments as data: which tasks are wanted, and what else each source knows."""

CLASSES = "classes"
GROUPS: dict[str, dict[str, tuple[tuple[str, ...], ...]]] = {
    "hair": {
        "Black_Hair": (("Arched_Eyebrows", "Attractive", "Big_Lips"), ("Bags_Under_Eyes", "Blurry")),
        "Blond_Hair": (("Pale_Skin", "Receding_Hairline"), ("High_Cheekbones",)),
        "Brown_Hair": (("Double_Chin",), ("Oval_Face", "Bushy_Eyebrows"), ("Narrow_Eyes", "Chubby")),
        "Bangs": (("Attractive", "Receding_Hairline", "Big_Nose"), ("Blurry", "Pale_Skin")),
    },
    "eye": {
        "Bags_Under_Eyes": (("Rosy_Cheeks", "Oval_Face", "Smiling"), ("Heavy_Makeup",)),
        "Bushy_Eyebrows": (("Big_Lips", "Pale_Skin"), ("Young",), ("Heavy_Makeup", "Wearing_Necklace")),
        "Narrow_Eyes": (("Wearing_Lipstick",), ("Mouth_Slightly_Open", "Wearing_Necktie")),
    },
    "face": {
        "Oval_Face": (("Male",), ("Big_Lips", "Pointy_Nose")),
        "Young": (("Wearing_Lipstick",), ("Gray_Hair", "Receding_Hairline", "Goatee")),
        "Heavy_Makeup": (("Male",), ("Sideburns", "Double_Chin", "Attractive")),
    },
    CLASSES: {
        "main 1/2": (("side 1/4",), ("side 2/4",)),
        "main 2/2": (("side 3/4",), ("side 4/4",)),
    },
}
"""For every group its wanted tasks, and for each of these the side tasks of its sources.

Tasks are attributes, but in the group "classes" halves of a data set's main classes and quarters of the others, as
`hetlib.data.load` names them; in the paper they are of two data sets.
"""


def sources_of(group: str) -> dict[int, tuple[str, ...]]:
    """The sources of a group by their number in the paper's scripts, from 1: their tasks, the wanted one first."""
    known = [(wanted, *beside) for wanted, sources in GROUPS[group].items() for beside in sources]
    return dict(enumerate(known, start=1))
