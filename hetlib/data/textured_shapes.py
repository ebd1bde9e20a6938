"""Textured shapes on clutter: the embedded images, rendered here so that nothing has to be downloaded.

A class is a shape with a texture. `source` and `target` are drawn by the same code from vocabularies that share
neither a shape nor a texture, so what a network learns on one helps on the other only through its filters. Place,
size, rotation, colours, background, clutter and noise vary from image to image and say nothing about the class.

``python -m hetlib.data.textured_shapes docs/shapes.png`` draws one image of every class.
"""

import math
import sys
from collections.abc import Callable
from os import PathLike

import torch
from torch import Tensor

from hetlib.errors import finite, known, positive, seed_of

MEAN, STD = (0.5,) * 3, (0.23,) * 3
COUNT = {"train": 8000, "test": 2000}

_SIZE = 32
_RADIUS = (9, 14)  # of a shape, in pixels
_PERIOD = (5, 11)  # of a texture, in pixels: wide, as a 3x3 filter stretched to 5x5 answers to longer periods
_BATCH = 256  # images drawn at once: few enough for the processor's cache

# A field maps coordinates to numbers. A shape's is negative inside, about the distance to the edge in units of its
# radius. A texture's swings around zero, with a period of 2 pi.
Field = Callable[[Tensor, Tensor], Tensor]


def _triangle(u: Tensor, v: Tensor) -> Tensor:
    third = math.pi / 3
    return torch.hypot(u, v) * torch.cos(torch.atan2(v, u) % (2 * third) - third) - 0.5


def _disk(u: Tensor, v: Tensor) -> Tensor:
    return torch.hypot(u, v) - 0.9


def _ring(u: Tensor, v: Tensor) -> Tensor:
    return (torch.hypot(u, v) - 0.72).abs() - 0.28


def _cross(u: Tensor, v: Tensor) -> Tensor:
    a, b = u.abs(), v.abs()
    return torch.maximum(torch.minimum(a, b) - 0.36, torch.maximum(a, b) - 1)


def _star(u: Tensor, v: Tensor) -> Tensor:
    return torch.hypot(u, v) - 0.75 + 0.25 * torch.cos(torch.atan2(v, u) * 5)


def _crescent(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(torch.hypot(u, v) - 1, 0.75 - torch.hypot(u - 0.55, v))


def _half_disk(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(torch.hypot(u, v + 0.4) - 1, -v - 0.4)


def _corner(u: Tensor, v: Tensor) -> Tensor:
    box = torch.maximum(u.abs(), v.abs()) - 0.9
    return torch.maximum(box, torch.minimum(u, v) + 0.2)


SHAPES: dict[str, dict[str, Field]] = {
    "source": {"triangle": _triangle, "disk": _disk, "ring": _ring, "cross": _cross},
    "target": {"star": _star, "crescent": _crescent, "half-disk": _half_disk, "corner": _corner},
}
TEXTURES: dict[str, dict[str, Field]] = {
    "source": {
        "striped": lambda p, q: torch.sin(p),
        "checked": lambda p, q: 1.5 * torch.sin(p) * torch.sin(q),
        "dotted": lambda p, q: torch.cos(p) + torch.cos(q) - 0.7,
    },
    "target": {
        "ringed": lambda p, q: torch.sin(torch.hypot(p, q)),
        "gridded": lambda p, q: torch.maximum(torch.cos(p), torch.cos(q)) - 0.6,
        "zigzag": lambda p, q: torch.sin(p + 2 * torch.asin(torch.sin(q)).abs()),
    },
}


def classes(vocabulary: str) -> tuple[str, ...]:
    """Names of the twelve classes in the order of their labels, the first being "striped triangle"."""
    return tuple(f"{texture} {shape}" for shape in SHAPES[vocabulary] for texture in TEXTURES[vocabulary])


def render(
    vocabulary: str,
    split: str = "train",
    count: int | None = None,
    seed: int = 0,
    noise: float = 0.1,
    clutter: int = 6,
) -> tuple[Tensor, Tensor]:
    """Draw a data set.

    Parameters
    ----------
    vocabulary : {"source", "target"}
        Which shapes and textures.
    split : {"train", "test"}
        Two different streams of random numbers.
    count : int, optional
        Number of images, shared out evenly among the classes; default 8,000 and 2,000.
    seed : int
        The same arguments give the same images.
    noise : float
        Standard deviation of the pixel noise; black to white is 1.
    clutter : int
        Blobs strewn over the background of each image.

    Returns
    -------
    tuple of Tensor
        Images, uint8, (count, 3, 32, 32), and labels, int64, (count,), in random order.

    Raises
    ------
    ValueError
        If the vocabulary or the split is unknown, or a number is out of range.
    """
    known("vocabulary", vocabulary, SHAPES)
    known("split", split, COUNT)
    count = COUNT[split] if count is None else count
    positive("count", count)
    finite("noise", noise, 0)
    finite("clutter", clutter, 0)
    generator = torch.Generator().manual_seed(
        (4 * seed_of(seed) + 2 * (vocabulary == "target") + (split == "test")) % 2**64
    )
    labels = (torch.arange(count) % len(classes(vocabulary)))[torch.randperm(count, generator=generator)]
    images = [_Canvas(len(part), generator).draw(vocabulary, part, noise, clutter) for part in labels.split(_BATCH)]
    return torch.cat(images), labels


class _Canvas:
    """A batch of images in the making: RGB in [0, 1], one layer painted over the other."""

    def __init__(self, n: int, generator: torch.Generator):
        self.n, self.generator = n, generator
        centred = torch.arange(_SIZE) - (_SIZE - 1) / 2
        self.x, self.y = centred.view(1, 1, -1), centred.view(1, -1, 1)

    def draw(self, vocabulary: str, labels: Tensor, noise: float, clutter: int) -> Tensor:
        self.pixels = self._background()
        for _ in range(clutter):
            self._blob()
        self._shape(labels, SHAPES[vocabulary], TEXTURES[vocabulary])
        self.pixels += noise * torch.randn(self.pixels.shape, generator=self.generator)
        return self.pixels.mul_(255).round_().clamp_(0, 255).to(torch.uint8)

    def _background(self) -> Tensor:
        p, q = self._coordinates(16)
        waves = torch.sin(p * self._uniform(0.1, 0.5)) * torch.sin(q * self._uniform(0.1, 0.5))
        return self._between_two_colours(waves / 2 + 0.5)

    def _blob(self) -> None:
        u, v = self._coordinates(18)
        edge = torch.hypot(u / self._uniform(2, 8), v / self._uniform(1, 3)) - 1
        self._paint(self._uniform(0, 1, channels=3), 0.5 - 2 * edge)

    def _shape(self, labels: Tensor, outlines: dict[str, Field], textures: dict[str, Field]) -> None:
        u, v = self._coordinates(5)
        radius, frequency = self._uniform(*_RADIUS), 2 * math.pi / self._uniform(*_PERIOD)
        edge = _choose(list(outlines.values()), labels // len(textures), u / radius, v / radius)
        ink = _choose(list(textures.values()), labels % len(textures), u * frequency, v * frequency)
        self._paint(self._between_two_colours(ink + 0.5), 0.5 - edge * radius)

    def _paint(self, colour: Tensor, cover: Tensor) -> None:
        # a pixel's cover falls from 1 to 0 across the edge: antialiasing for the price of a clamp
        self.pixels = torch.lerp(self.pixels, colour, cover.clamp(0, 1).unsqueeze(1))

    def _between_two_colours(self, weight: Tensor) -> Tensor:
        first = self._uniform(0, 1, channels=3)
        second = (first + self._uniform(0.3, 0.7, channels=3)) % 1  # far enough in every channel to be seen
        return torch.lerp(first, second, weight.clamp(0, 1).unsqueeze(1))

    def _coordinates(self, reach: float) -> tuple[Tensor, Tensor]:
        """Pixel coordinates seen from a random place, at most `reach` off centre, in a random direction."""
        angle = self._uniform(0, 2 * math.pi)
        dx, dy = self.x - self._uniform(-reach, reach), self.y - self._uniform(-reach, reach)
        return angle.cos() * dx + angle.sin() * dy, angle.cos() * dy - angle.sin() * dx

    def _uniform(self, low: float, high: float, channels: int | None = None) -> Tensor:
        shape = (self.n, 1, 1) if channels is None else (self.n, channels, 1, 1)
        return torch.rand(shape, generator=self.generator) * (high - low) + low


def _choose(fields: list[Field], index: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Field `index[i]` at the coordinates of image i."""
    values = torch.empty_like(u)
    for number, field in enumerate(fields):
        at = (index == number).nonzero().flatten()
        values[at] = field(u[at], v[at])
    return values


def picture(path: str | PathLike) -> None:
    """Draw one image of every class, both vocabularies side by side, to an image file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.4), dpi=96, layout="constrained")
    halves = figure.add_gridspec(1, 2)
    for column, vocabulary in enumerate(SHAPES):
        panel = figure.add_subfigure(halves[column])
        panel.suptitle(vocabulary)
        rows, columns = list(SHAPES[vocabulary]), list(TEXTURES[vocabulary])
        grid = panel.subplots(len(rows), len(columns))
        images, labels = render(vocabulary, "test", count=len(rows) * len(columns), seed=1)
        for axes, image in zip(grid.flat, images[labels.argsort()], strict=True):
            axes.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
            place = axes.get_subplotspec()
            axes.set(xticks=[], yticks=[])
            if place.is_first_row():
                axes.set_title(columns[place.colspan.start], fontsize=10)
            if place.is_first_col():
                axes.set_ylabel(rows[place.rowspan.start])
    figure.savefig(path)


if __name__ == "__main__":
    picture(sys.argv[1])
