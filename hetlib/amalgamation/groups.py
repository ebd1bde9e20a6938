"""The paper's experiments as data: which attributes each source of a group knows, and how classes are divided."""

import random
from collections.abc import Sequence

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
}
"""For every group its wanted attributes, and for each of these the side attributes of its sources."""


def sources_of(group: str) -> dict[int, tuple[str, ...]]:
    """The sources of a group by their number in the paper's scripts, from 1: their attributes, the wanted one first."""
    known = [(wanted, *beside) for wanted, sources in GROUPS[group].items() for beside in sources]
    return dict(enumerate(known, start=1))


def class_parts(classes: Sequence[str], parts: int, seed: int = 0) -> list[tuple[str, ...]]:
    """Divide classes at random into equal parts, as in the class experiment.

    The names are sorted first: the released code shuffles them in the order in which the disk lists them.

    Parameters
    ----------
    classes : sequence of str
        Names of all classes.
    parts : int
        How many; each has ``round(len(classes) / parts)`` classes, the last what is left.
    seed : int
        Of the shuffle; 0 is the released one.

    Returns
    -------
    list of tuple of str

    Raises
    ------
    ValueError
        If a part would be empty.
    """
    order = sorted(classes)
    random.Random(seed).shuffle(order)
    size = round(len(order) / parts) if parts > 0 else 0
    found = [tuple(order[part * size : (part + 1) * size if part < parts - 1 else None]) for part in range(parts)]
    if not size or not all(found):
        raise ValueError(f"{len(order)} classes cannot be divided into {parts} parts")
    return found
