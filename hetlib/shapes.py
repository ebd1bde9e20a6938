"""Textured shapes on clutter: the embedded images, rendered here so that nothing has to be downloaded.

A class is a shape with a texture. `source` and `target` are drawn by the same code from vocabularies that share
neither a shape nor a texture, so what a network learns on one helps on the other only through its filters.
Position, size, rotation, colours, background, clutter and noise vary from image to image and say nothing about
the class.

``python -m hetlib.shapes docs/shapes.png`` draws one image of every class.
"""

import math
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from hetlib.errors import unknown

SIZE = 32
MEAN, STD = (0.5,) * 3, (0.25,) * 3
COUNT = {"train": 8000, "test": 2000}
RADIUS, PERIOD = (9, 14), (5, 11)  # pixels
_BATCH = 256  # small enough for the cache: 16 times as many are rendered half as fast

Field = Callable[[Tensor, Tensor], Tensor]


def _polygon(sides: int) -> Field:
    half = math.pi / sides

    def signed(u: Tensor, v: Tensor) -> Tensor:
        return torch.hypot(u, v) * torch.cos(torch.atan2(v, u) % (2 * half) - half) - math.cos(half)

    return signed


def _star(points: int, depth: float) -> Field:
    def signed(u: Tensor, v: Tensor) -> Tensor:
        return torch.hypot(u, v) - 1 + depth * (1 + torch.cos(torch.atan2(v, u) * points))

    return signed


def _disk(u: Tensor, v: Tensor) -> Tensor:
    return torch.hypot(u, v) - 0.9


def _ring(u: Tensor, v: Tensor) -> Tensor:
    return (torch.hypot(u, v) - 0.72).abs() - 0.28


def _cross(u: Tensor, v: Tensor) -> Tensor:
    a, b = u.abs(), v.abs()
    return torch.maximum(torch.minimum(a, b) - 0.36, torch.maximum(a, b) - 1)


def _crescent(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(torch.hypot(u, v) - 1, 0.75 - torch.hypot(u - 0.55, v))


def _half(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(torch.hypot(u, v + 0.4) - 1, -v - 0.4)


def _corner(u: Tensor, v: Tensor) -> Tensor:
    box = torch.maximum(u.abs(), v.abs()) - 0.9
    return torch.maximum(box, torch.minimum(u, v) + 0.2)


SHAPES: dict[str, dict[str, Field]] = {
    "source": {"triangle": _polygon(3), "square": _polygon(4), "disk": _disk, "ring": _ring, "cross": _cross},
    "target": {
        "star": _star(5, 0.25),
        "clover": _star(3, 0.3),
        "crescent": _crescent,
        "half-disk": _half,
        "corner": _corner,
    },
}
# in radians: one period is 2 pi
TEXTURES: dict[str, dict[str, Field]] = {
    "source": {
        "striped": lambda p, q: torch.sin(p),
        "checked": lambda p, q: 1.5 * torch.sin(p) * torch.sin(q),
        "dotted": lambda p, q: torch.cos(p) + torch.cos(q) - 0.7,
        "wavy": lambda p, q: torch.sin(p + 1.5 * torch.sin(0.7 * q)),
    },
    "target": {
        "ringed": lambda p, q: torch.sin(torch.hypot(p, q)),
        "gridded": lambda p, q: torch.maximum(torch.cos(p), torch.cos(q)) - 0.6,
        "zigzag": lambda p, q: torch.sin(p + 2 * torch.asin(torch.sin(q)).abs()),
        "bricked": lambda p, q: (
            torch.maximum(torch.cos(2 * q), torch.cos(p + math.pi / 2 * torch.sign(torch.sin(q)))) - 0.6
        ),
    },
}


def classes(vocabulary: str) -> tuple[str, ...]:
    """Class names in the order of labels, for instance "striped triangle"."""
    return tuple(f"{texture} {shape}" for shape in SHAPES[vocabulary] for texture in TEXTURES[vocabulary])


def render(
    vocabulary: str,
    split: str = "train",
    count: int | None = None,
    seed: int = 0,
    noise: float = 0.08,
    clutter: int = 6,
) -> tuple[Tensor, Tensor]:
    if vocabulary not in SHAPES:
        raise unknown("vocabulary", vocabulary, SHAPES)
    count = COUNT[split] if count is None else count
    stream = 4 * seed + 2 * (vocabulary == "target") + (split == "test")
    generator = torch.Generator().manual_seed(stream)
    n = len(classes(vocabulary))
    labels = (torch.arange(count) % n)[torch.randperm(count, generator=generator)]
    parts = [_draw(vocabulary, part, generator, noise, clutter) for part in labels.split(_BATCH)]
    return torch.cat(parts), labels


def _draw(vocabulary: str, labels: Tensor, generator: torch.Generator, noise: float, clutter: int) -> Tensor:
    n = len(labels)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=generator).mul_(high - low).add_(low)

    def pair() -> Tensor:
        first = uniform(0, 1, 3, 1, 1)
        return first, (first + uniform(0.3, 0.7, 3, 1, 1)) % 1

    axis = torch.arange(SIZE) - (SIZE - 1) / 2
    y, x = axis.view(1, SIZE, 1), axis.view(1, 1, SIZE)

    def turned(reach: float) -> tuple[Tensor, Tensor]:
        angle = uniform(0, 2 * math.pi, 1, 1)
        dx, dy = x - uniform(-reach, reach, 1, 1), y - uniform(-reach, reach, 1, 1)
        c, s = angle.cos(), angle.sin()
        return c * dx + s * dy, c * dy - s * dx

    one, two = pair()
    p, q = turned(16)
    wave = torch.sin(p * uniform(0.1, 0.5, 1, 1)) * torch.sin(q * uniform(0.1, 0.5, 1, 1))
    canvas = torch.lerp(one, two, (wave / 2 + 0.5).unsqueeze(1))
    for _ in range(clutter):
        u, v = turned(18)
        d = torch.hypot(u / uniform(2, 8, 1, 1), v / uniform(1, 3, 1, 1)) - 1
        canvas = torch.lerp(canvas, uniform(0, 1, 3, 1, 1), (0.5 - 2 * d).clamp_(0, 1).unsqueeze(1))
    u, v = turned(5)
    radius, period = uniform(*RADIUS, 1, 1), uniform(*PERIOD, 1, 1)
    edge, print_ = torch.empty(n, SIZE, SIZE), torch.empty(n, SIZE, SIZE)
    textures = TEXTURES[vocabulary]
    k = 2 * math.pi / period
    for i, f in enumerate(SHAPES[vocabulary].values()):
        at = (labels // len(textures) == i).nonzero().flatten()
        edge[at] = f(u[at] / radius[at], v[at] / radius[at])
    for i, f in enumerate(textures.values()):
        at = (labels % len(textures) == i).nonzero().flatten()
        print_[at] = f(u[at] * k[at], v[at] * k[at])
    one, two = pair()
    body = torch.lerp(one, two, (0.5 + print_).clamp_(0, 1).unsqueeze(1))
    canvas = torch.lerp(canvas, body, (0.5 - edge * radius).clamp_(0, 1).unsqueeze(1))
    canvas += noise * torch.randn(canvas.shape, generator=generator)
    return canvas.mul_(255).round_().clamp_(0, 255).to(torch.uint8)
