"""What faces are painted on: pose, background, light and noise, and how a layer is painted over the others."""

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate

BLOCK = 128
"""Faces painted at once: few enough for the processor's cache."""


class Canvas:
    """Images in the making: RGB in [0, 1], one layer painted over the other, each with a pose of its own.

    Lengths are in halves of the image. `u` points right and `v` down from the bridge of the nose; both turn with the
    head. `w` is the distance from the middle of the face, which is to one side when the head is turned: one number for
    both eyes, brows and cheeks. A layer is painted in a band of rows, as a small feature need not cost a whole image.

    Parameters
    ----------
    n : int
        How many images, at most `BLOCK`.
    generator : torch.Generator
        Of the CPU. What is drawn from it does not depend on `n`, the noise apart, which is drawn last.
    size : int
        Height and width in pixels.
    """

    def __init__(self, n: int, generator: torch.Generator, size: int):
        self.n, self.size, self.generator = n, size, generator
        axis = (torch.arange(size) + 0.5) * 2 / size - 1
        scale, angle, turn = self.uniform(0.95, 1.08), self.uniform(-0.1, 0.1), self.uniform(-0.05, 0.05)
        x, y = axis - self.uniform(-0.08, 0.08), axis.view(-1, 1) - self.uniform(-0.11, 0.01)
        cos, sin = angle.cos() / scale, angle.sin() / scale
        self.u, self.v = x * cos + y * sin, y * cos - x * sin
        self.w = (self.u - turn).abs_()
        first, second = self.uniform(0.1, 0.9, channels=3), self.uniform(0.1, 0.9, channels=3)
        across = (self.u * self.uniform(-0.5, 0.5)).add_(self.v, alpha=0.4).add_(0.5).clamp_(0, 1)
        self.pixels = (across.unsqueeze(1) * (second - first)).add_(first)

    def paint(self, band: slice, colour: Tensor, distance: Tensor, present: Tensor | None = None) -> None:
        """Paint what is inside an edge.

        Parameters
        ----------
        band : slice
            The rows that `distance` has.
        colour : Tensor
            (n or 1, 3, 1, 1).
        distance : Tensor
            (n, rows, size), from the edge; negative inside.
        present : Tensor, optional
            (n, 1, 1), how opaque the layer is in each image; default 1.
        """
        cover = self.cover(distance)
        if present is not None:
            cover.mul_(present)
        self.pixels[:, :, band].lerp_(colour, cover.unsqueeze(1))

    def cover(self, distance: Tensor) -> Tensor:
        """How much of each pixel is inside: it falls from 1 to 0 across the edge, within a pixel."""
        return torch.rsub(distance, 0.5, alpha=self.size / 2).clamp_(0, 1)

    def band(self, top: float, bottom: float) -> slice:
        """The rows that can show what lies between two heights of a face, whatever its pose."""
        first, last = ((height + 1) * self.size / 2 for height in (top - 0.23, bottom + 0.13))
        return slice(max(0, int(first)), min(self.size, int(last) + 1))

    def uniform(self, low: float, high: float, channels: int | None = None) -> Tensor:
        """One number for each image, (n, 1, 1), or one for each of its channels, (n, channels, 1, 1)."""
        # drawn for a whole block, so that the first images of a larger data set are those of a smaller one
        shape = (BLOCK, 1, 1) if channels is None else (BLOCK, channels, 1, 1)
        return torch.rand(shape, generator=self.generator)[: self.n] * (high - low) + low

    def photograph(self, blurry: Tensor, noise: float) -> Tensor:
        """Light the images from a side, blur those that are to be, add noise: uint8, (n, 3, size, size)."""
        light = self.uniform(0.85, 1.1) + self.uniform(-0.2, 0.2) * self.u + self.uniform(-0.12, 0.12) * self.v
        pixels = self.pixels.mul_(light.mul_(255).unsqueeze(1))
        if len(chosen := blurry.flatten().nonzero().flatten()):
            coarse = interpolate(pixels[chosen], 3 * self.size // 8, mode="area")
            pixels[chosen] = interpolate(coarse, self.size, mode="bilinear")
        # 64 bits are the noise of eight values, each from -128 to 127 with a deviation of 73.9: six times as fast as
        # normal noise, and like it to the eye
        bits = torch.empty(pixels.numel() // 8, dtype=torch.int64).random_(-(2**63), None, generator=self.generator)
        pixels.add_(bits.view(torch.int8).view(pixels.shape), alpha=255 * noise / 73.9)
        # by way of int16, as torch converts floats to uint8 one by one
        return pixels.clamp_(0, 255).to(torch.int16).to(torch.uint8)


def norm(a: Tensor, b: Tensor) -> Tensor:
    """The length of (a, b), of numbers near 1: torch.hypot, which minds overflow, takes three times as long."""
    return (a * a).addcmul_(b, b).sqrt_()


@cache
def rgb(red: float, green: float, blue: float) -> Tensor:
    """A colour for `Canvas.paint`."""
    return torch.tensor((red, green, blue)).view(1, 3, 1, 1)
