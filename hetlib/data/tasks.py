"""Tasks made of a data set's classes: random parts of its main ones, and of the others beside them."""

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from hetlib.data.images import Images
from hetlib.data.subsets import class_split
from hetlib.errors import seed_of, whole

CREATURES = (
    *("beaver", "dolphin", "otter", "seal", "whale"),
    *("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    *("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    *("bear", "leopard", "lion", "tiger", "wolf"),
    *("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    *("fox", "porcupine", "possum", "raccoon", "skunk"),
    *("crab", "lobster", "snail", "spider", "worm"),
    *("baby", "boy", "girl", "man", "woman"),
    *("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    *("hamster", "mouse", "rabbit", "shrew", "squirrel"),
)
"""The main classes wherever all of them are, as in CIFAR-100: its superclasses of animals and people, one in a line."""
SHARE = 0.6
"""Elsewhere so many of the classes are main ones: the first."""


def class_parts(classes: Sequence[str], parts: int, seed: int = 0) -> list[tuple[str, ...]]:
    """Divide classes at random into equal parts, as in amalgamation's class experiment.

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
    whole("parts", parts)
    seed_of(seed)
    order = sorted(classes)
    random.Random(seed).shuffle(order)
    size = round(len(order) / parts) if parts > 0 else 0
    found = [tuple(order[part * size : (part + 1) * size if part < parts - 1 else None]) for part in range(parts)]
    if not size or not all(found):
        raise ValueError(f"{len(order)} classes cannot be divided into {parts} parts")
    return found


def of_tasks(data: Images, names: Sequence[str]) -> Images:
    """The images of some tasks' classes, labelled from 0 through the tasks in the given order.

    Parameters
    ----------
    data : Images
        Of any classes; which are main ones, `CREATURES` and `SHARE` say.
    names : sequence of str
        "main 1/2" is the first of two random halves of the main classes, "side 3/4" the third quarter of the others.

    Raises
    ------
    ValueError
        If a name is none of these forms, there are too few classes, or two tasks share some.
    """
    tasks = {name: _classes(data, name) for name in names}
    numbers = [data.classes.index(title) for titles in tasks.values() for title in titles]
    return replace(class_split(data, [numbers])[0], tasks=tasks)


def _classes(data: Images, name: str) -> tuple[str, ...]:
    known = re.fullmatch(r"(main|side) ([1-9]\d*)/([1-9]\d*)", name)
    if not known or int(known[2]) > int(known[3]):
        raise ValueError(f"unknown task of {data.name} {name!r}: tasks are called like 'main 1/2' or 'side 3/4'")
    first = data.classes[: round(SHARE * data.num_classes)]
    main = CREATURES if set(CREATURES) <= set(data.classes) else first
    chosen = [title for title in data.classes if (title in main) == (known[1] == "main")]
    return class_parts(chosen, int(known[3]))[int(known[2]) - 1]
