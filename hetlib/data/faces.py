"""Cartoon faces with CelebA's attributes: embedded images for knowledge amalgamation, rendered here.

Every attribute shows in the picture: in one place, such as the brows, or in a colour, such as that of the hair. Pose,
scale, gaze, sizes, colours, light and noise vary from face to face and say nothing, but make the attributes
harder to read. How often attributes come, and which come together, is as in real photographs
(`hetlib.data.face_attributes`).

``python -m hetlib.data.faces docs/faces.png`` draws every attribute, off and on.
"""

import sys
from os import PathLike

import torch
from torch import Tensor

from hetlib.data.face_attributes import NAMES, draw_attributes
from hetlib.data.face_canvas import BLOCK, Canvas, norm, rgb
from hetlib.errors import finite, known, positive, seed_of

MEAN, STD = (0.52, 0.45, 0.41), (0.23, 0.22, 0.22)
COUNT = {"train": 8000, "test": 2000}
SIZES = (32, 64)

_DRAWN = 8 * BLOCK  # faces whose attributes are drawn at once, before their images
_HAIR = {
    "Black_Hair": (0.07, 0.06, 0.07),
    "Blond_Hair": (0.88, 0.74, 0.38),
    "Brown_Hair": (0.36, 0.20, 0.09),
    "Gray_Hair": (0.66, 0.67, 0.70),
}
_OTHER_HAIR = (0.55, 0.23, 0.15)  # auburn


def render(
    split: str = "train", count: int | None = None, seed: int = 0, size: int = 32, noise: float = 0.05
) -> tuple[Tensor, Tensor]:
    """Draw a data set.

    Parameters
    ----------
    split : {"train", "test"}
        Two different streams of random numbers.
    count : int, optional
        Number of faces; default 8,000 and 2,000.
    seed : int
        The same arguments give the same faces, and a smaller count the first of them.
    size : {32, 64}
        Height and width in pixels.
    noise : float
        Standard deviation of the pixel noise; black to white is 1.

    Returns
    -------
    tuple of Tensor
        Images, uint8, (count, 3, size, size), and attributes, int64, (count, 31), 0 or 1, in the order of
        `hetlib.data.face_attributes.NAMES`.

    Raises
    ------
    ValueError
        If the split is unknown or a number is out of range.
    """
    known("split", split, COUNT)
    count = COUNT[split] if count is None else count
    positive("count", count)
    finite("noise", noise, 0)
    generator = torch.Generator().manual_seed((2 * seed_of(seed) + (split == "test")) % 2**64)
    images, labels = [], []
    for start in range(0, count, _DRAWN):
        labels.append(draw_attributes(_DRAWN, generator)[: count - start])
        images.append(draw(labels[-1], generator, size, noise))
    return torch.cat(images), torch.cat(labels)


def draw(labels: Tensor, generator: torch.Generator, size: int = 32, noise: float = 0.05) -> Tensor:
    """Draw faces with given attributes; the same state of the generator gives the same nuisances.

    Parameters
    ----------
    labels : Tensor
        (n, 31), 0 or 1.
    generator, size, noise
        See `render`.

    Returns
    -------
    Tensor
        uint8, (n, 3, size, size).
    """
    if size not in SIZES or noise < 0:
        raise ValueError(f"size must be one of {SIZES} and noise not negative; got {size}, {noise}")
    return torch.cat([_Faces(part, generator, size).draw(noise) for part in labels.split(BLOCK)])


class _Faces(Canvas):
    """What each attribute looks like; the first layer is the farthest."""

    def __init__(self, labels: Tensor, generator: torch.Generator, size: int):
        super().__init__(len(labels), generator, size)
        self.has = dict(zip(NAMES, labels.T.float()[..., None, None], strict=True))

    def draw(self, noise: float) -> Tensor:
        self._colours()
        self._hair_behind()
        self._neck()
        self._outline()
        self._ornaments()
        self._cheeks()
        self._wrinkles()
        self._nose()
        self._mouth()
        self._eyes()
        self._hair_in_front()
        self._brows()
        return self.photograph(self.has["Blurry"], noise)

    def _colours(self) -> None:
        # dark skin is rarer than light skin; pale skin is lighter and has less colour, some of it hardly so
        light, dark, pale = rgb(0.95, 0.76, 0.62), rgb(0.50, 0.32, 0.23), rgb(0.98, 0.94, 0.93)
        skin = torch.lerp(light, dark, self.uniform(0, 1).square().unsqueeze(1))
        skin = torch.lerp(skin, pale, self.uniform(0.4, 0.9).unsqueeze(1) * self._on("Pale_Skin"))
        self.skin = skin + self.uniform(-0.02, 0.02, channels=3)
        self.shade = self.skin * rgb(0.74, 0.66, 0.64)
        self.first, self.last = self._hair_colours()

    def _hair_colours(self) -> tuple[Tensor, Tensor]:
        """Colours of two kinds of strands: alike unless hair has two colours; of three, the first and the last."""
        first = last = rgb(*_OTHER_HAIR).expand(self.n, 3, 1, 1)
        for name, colour in _HAIR.items():
            last = torch.lerp(last, rgb(*colour), self._on(name))
        for name, colour in reversed(_HAIR.items()):
            first = torch.lerp(first, rgb(*colour), self._on(name))
        lightness, jitter = self.uniform(0.8, 1.2).unsqueeze(1), self.uniform(-0.03, 0.03, channels=3)
        return 1.06 * first * lightness + jitter, 0.92 * last * lightness + jitter

    def _hair_behind(self) -> None:
        length = self._between((0.3, 0.95), (-0.15, 0.15), "Male")
        width = self._between((0.66, 0.76), (0.58, 0.64), "Male")
        self.strands = (self.u * self.uniform(16, 22)).add_(self.uniform(0, 6)).sin_().mul_(0.5).add_(0.5)
        v = self.v + 0.08
        self.cap = norm(self.u, v - v.clamp(torch.zeros(1), length)).sub_(width)
        self._paint_hair(slice(None), self.cap)

    def _neck(self) -> None:
        band = self.band(0.45, 1.5)
        u, v = self.u[:, band].abs(), self.v[:, band]
        width = self._between((0.22, 0.27), (0.30, 0.36), "Male")
        self.paint(band, self.shade * 1.1, u - width)
        self.paint(band, self.uniform(0.1, 0.8, channels=3), 0.80 - v + (0.3 * (u - width)).clamp(-0.05))

    def _outline(self) -> None:
        width = self._between((0.53, 0.57), (0.46, 0.50), "Oval_Face")
        height = self._between((0.58, 0.62), (0.66, 0.70), "Oval_Face")
        corners = self._between((0.25, 0.45), (0.0, 0.08), "Oval_Face")
        jaw = self._between((-0.3, -0.12), (0.2, 0.36), "Chubby")
        # an ellipse, wider or narrower at the jaw; without the smaller of the two squares it would be a rectangle
        across, down = (self.u / (width + width * jaw * self.v)).square_(), (self.v / height).square_()
        radius = torch.maximum(across, down).addcmul_(torch.minimum(across, down), 1 - corners).sqrt_()
        self.face = radius.sub_(1).mul_(width)
        self.paint(slice(None), self.skin, self.face)
        band = self.band(0.4, 0.85)
        u, v = self.u[:, band], self.v[:, band]
        self.paint(band, self.skin, norm(u * 0.5, v - height + 0.05) - 0.17, self.has["Double_Chin"])
        crease = torch.maximum((self.face[:, band] + 0.01).abs_() - 0.035, u.abs() - 0.32)
        self.paint(band, self.shade * 0.7, torch.maximum(crease, 0.45 - v), self.has["Double_Chin"])

    def _ornaments(self) -> None:
        band = self.band(0.6, 1.5)
        u, v = self.u[:, band].abs(), self.v[:, band]
        beads = (v - 0.78).addcmul_(u, u).abs_().sub_(0.035)
        self.paint(band, rgb(1.0, 0.85, 0.15), torch.maximum(beads, u - 0.36), self.has["Wearing_Necklace"])
        top = 0.70 - v
        self.paint(band, rgb(0.95, 0.95, 0.97), torch.maximum(u - 0.28, top + 0.4 * u), self.has["Wearing_Necktie"])
        tie = torch.maximum(u - 0.09, top)
        self.paint(band, self.uniform(0.0, 0.5, channels=3), tie, self.has["Wearing_Necktie"])

    def _cheeks(self) -> None:
        band = self.band(0.0, 0.45)
        w, v = self.w[:, band], self.v[:, band]
        # light on the bone, which rises outwards, and a shadow in the hollow under it
        rising, out = v + 0.5 * (w - 0.34), w - 0.34
        bone, hollow = (norm(out * 0.35, rising - at) - 0.055 for at in (0.10, 0.23))
        self.paint(band, self.skin * 1.1 + 0.12, bone, 0.9 * self.has["High_Cheekbones"])
        self.paint(band, self.shade, hollow, 0.7 * self.has["High_Cheekbones"])
        rouge = norm(w - 0.28, v - 0.22) - self.uniform(0.10, 0.13)
        self.paint(band, self.skin * rgb(1.05, 0.5, 0.55), rouge, 0.8 * self.has["Rosy_Cheeks"])

    def _wrinkles(self) -> None:
        band = self.band(-0.4, 0.42)
        w, v = self.w[:, band], self.v[:, band]
        folds = torch.maximum((w - 0.17 - 0.35 * (v - 0.16)).abs_(), (v - 0.28).abs_() - 0.12)
        forehead = torch.maximum((v + 0.37).abs_(), w - 0.25)
        corners = torch.maximum(((v + 0.05).abs_() - 0.05).abs_(), (w - 0.43).abs_() - 0.05)
        lines = torch.minimum(torch.minimum(folds, forehead), corners).sub_(0.022)
        self.paint(band, self.shade * 0.72, lines, 1 - self.has["Young"])

    def _nose(self) -> None:
        band = self.band(-0.1, 0.25)
        w, v = self.w[:, band], self.v[:, band]
        width = self._between((0.07, 0.09), (0.14, 0.17), "Big_Nose")
        ball = (norm(w / width, (v - 0.16) / 0.075) - 1) * 0.075
        wedge = torch.maximum(w - width * (v + 0.14) / 0.34, v - 0.22)
        self.paint(band, self.shade * 0.7, torch.lerp(ball, wedge, self.has["Pointy_Nose"]))

    def _mouth(self) -> None:
        band = self.band(0.25, 0.65)
        w, v = self.w[:, band], self.v[:, band]
        goatee = norm(w * 0.6, v - 0.54) - self.uniform(0.09, 0.11)
        self.paint(band, self.first * 0.8, goatee, self.has["Goatee"])
        width = self._between((0.16, 0.19), (0.22, 0.26), "Smiling")
        bend = self._between((-0.9, 0.1), (1.6, 2.4), "Smiling")
        lips = self._between((0.03, 0.04), (0.07, 0.085), "Big_Lips")
        gap = self.uniform(0.04, 0.06) * self.has["Mouth_Slightly_Open"]
        square = w * w
        taper = (1 - square / (width * width)).clamp_(0)
        distance, beyond = (v - 0.40).addcmul_(bend, square).abs_(), w - width
        red = self._mix(rgb(0.75, 0.05, 0.12), rgb(0.95, 0.25, 0.5))
        colour = torch.lerp(self.shade * rgb(0.95, 0.75, 0.75), red, self._on("Wearing_Lipstick"))
        self.paint(band, colour, torch.maximum(distance - (gap + lips) * taper, beyond))
        within = torch.maximum(distance - gap * taper, beyond + 0.03)
        self.paint(band, rgb(0.2, 0.04, 0.04), within, self.has["Mouth_Slightly_Open"])

    def _eyes(self) -> None:
        band = self.band(-0.25, 0.1)
        w, v = self.w[:, band] - 0.23, self.v[:, band] + 0.04
        bags = torch.maximum((v - 0.14 + 1.8 * w * w).abs_() - 0.04, w.abs() - 0.13)
        self.paint(band, self.skin * rgb(0.5, 0.4, 0.55), bags, self.has["Bags_Under_Eyes"])
        makeup, attractive = self.has["Heavy_Makeup"], self.has["Attractive"]
        shadow = (norm(w / 0.18, (v + 0.06) / 0.13) - 1) * 0.13
        self.paint(band, self._mix(rgb(0.65, 0.15, 0.75), rgb(0.15, 0.35, 0.95)), shadow, 0.85 * makeup)
        height = self._between((0.075, 0.09), (0.02, 0.03), "Narrow_Eyes") * (1 + 0.15 * attractive)
        lid = (norm(w / 0.145, (v + 0.015 + 0.02 * makeup) / (height + 0.025)) - 1) * height
        self.paint(band, rgb(0.12, 0.08, 0.08), lid)
        white = (norm(w / 0.125, v / height) - 1) * height
        self.paint(band, rgb(0.96, 0.96, 0.96), white)
        radius = 0.055 + 0.025 * attractive
        iris = torch.maximum(norm(w, v) - radius, white)
        bright = self._mix(rgb(0.05, 0.45, 0.95), rgb(0.10, 0.75, 0.40))
        self.paint(band, torch.lerp(rgb(0.14, 0.09, 0.07), bright, self._on("Attractive")), iris)

    def _brows(self) -> None:
        band = self.band(-0.38, -0.15)
        w, v = self.w[:, band] - 0.25, self.v[:, band]
        arch = (1 - (w / 0.16).square_()).clamp_(0).mul_(0.11 * self.has["Arched_Eyebrows"])
        thickness = self._between((0.02, 0.028), (0.055, 0.07), "Bushy_Eyebrows")
        distance = (v + 0.21 + arch + self.uniform(-0.15, 0.15) * w).abs_() - thickness
        self.paint(band, self.first * 0.35, torch.maximum(distance, w.abs() - 0.15))

    def _hair_in_front(self) -> None:
        band = self.band(-1.5, 0.25)
        u, w, v = self.u[:, band], self.w[:, band], self.v[:, band]
        receding, bangs = self.has["Receding_Hairline"], self.has["Bangs"]
        bays = (1 - ((w - 0.25) / 0.15).square_()).clamp_(0).mul_(0.25).add_(0.04)
        line = self.uniform(-0.53, -0.45) + 0.4 * u * u - bays * receding
        tuft = self.uniform(-0.36, -0.28) - 3 * (w - self.uniform(0.3, 0.42) * (1 - 0.6 * receding)).clamp_(0)
        line = line + bangs * (tuft - line).clamp_(0)
        self._paint_hair(band, torch.maximum(self.cap[:, band], v - line))
        strip = torch.maximum((self.face[:, band] + 0.06).abs_() - 0.05, (v + 0.1).abs_() - 0.28)
        self.paint(band, self.first * 0.8, strip, self.has["Sideburns"])

    def _paint_hair(self, band: slice, distance: Tensor) -> None:
        cover = self.cover(distance).unsqueeze(1)
        self.pixels[:, :, band].lerp_(self.first, cover)
        self.pixels[:, :, band].lerp_(self.last, cover.mul_(self.strands[:, None, band]))

    def _between(self, off: tuple[float, float], on: tuple[float, float], attribute: str) -> Tensor:
        """A length drawn from one range without the attribute and from another with it."""
        drawn = self.uniform(0, 1)
        without, with_it = (low + (high - low) * drawn for low, high in (off, on))
        return torch.lerp(without, with_it, self.has[attribute])

    def _mix(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.lerp(first, second, self.uniform(0, 1).unsqueeze(1))

    def _on(self, attribute: str) -> Tensor:
        return self.has[attribute].unsqueeze(1)


def picture(path: str | PathLike) -> None:
    """Draw every attribute off and on, beside each other on an otherwise plain face, to an image file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.4), dpi=96, layout="constrained")
    for number, axes in enumerate(figure.subplots(5, 7).flat):
        axes.set_axis_off()
        if number < len(NAMES):
            pair = torch.zeros(2, len(NAMES), dtype=torch.int64)
            pair[:, NAMES.index("Young")] = 1
            pair[:, NAMES.index("Brown_Hair")] = not NAMES[number].endswith("_Hair")
            pair[:, number] = torch.arange(2)
            off, on = (draw(row[None], torch.Generator().manual_seed(number), noise=0)[0] for row in pair)
            axes.imshow(torch.cat((off, on), 2).permute(1, 2, 0).numpy(), interpolation="nearest")
            axes.set_title(NAMES[number].replace("_", " "), fontsize=8)
    figure.savefig(path)


if __name__ == "__main__":
    picture(sys.argv[1])
