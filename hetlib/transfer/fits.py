"""Fits that several papers share; each says what the tensors of paired layers become."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hetlib.chain.nested import kind_of
from hetlib.errors import finite, known
from hetlib.kernels.fill import Fill
from hetlib.kernels.resize_cyclic import RESIZERS, resized
from hetlib.kernels.write import write
from hetlib.transfer.transfer import Context, Pair, naming


@dataclass(frozen=True)
class Copy:
    """Every floating tensor of a paired module, copied: weights, biases, scales, shifts and running statistics."""

    def __call__(self, context: Context, pairs: list[Pair]) -> Iterator[Fill]:
        """The copies; a tensor that only one of the two has stays as it is.

        Raises
        ------
        ValueError
            If two tensors differ in shape; the layers are named with both.
        """
        for pair in pairs:
            source, target = context.layers(pair)
            given = _own_tensors(source)
            for key, out in _own_tensors(target).items():
                if key not in given:
                    continue
                if given[key].shape != out.shape:
                    shapes = f"{tuple(given[key].shape)} -> {pair.target}.{key} {tuple(out.shape)}"
                    raise ValueError(f"{pair.source}.{key} {shapes}: only equal shapes can be copied")
                copied = Fill(pair.target, out, given[key].detach(), note="copied")
                yield replace(copied, source=pair.source, kind=kind_of(target))


@dataclass(frozen=True)
class Cyclic:
    """HMT's fit: kernels resampled, output and input channels stacked cyclically. Paired Conv2d are fed, weights alone.

    Attributes
    ----------
    align_corners, resizer, antialias
        How kernels change size, see `hetlib.hmt.resize`.
    correct_gain : bool
        Multiply each weight by fan_in(source) / fan_in(target), so that a constant input keeps its response.
    batch_norm : bool
        Also place scale, shift and running statistics of the batch norm that follows each fed convolution.
    noise : float
        Standard deviation of Gaussian noise on repeated output filters, relative to that of the layer's weights.

    References
    ----------
    Wang et al., *Heterogeneous Model Transfer between Different Neural Networks*, 2020, released code.
    """

    align_corners: bool = False
    resizer: str = "bilinear"
    antialias: bool = False
    correct_gain: bool = False
    batch_norm: bool = False
    noise: float = 0.0

    def __post_init__(self):
        finite("noise", self.noise, 0)
        known("resizer", self.resizer, RESIZERS)

    def __call__(self, context: Context, pairs: list[Pair]) -> Iterator[Fill]:
        """One fill per pair of convolutions, and four per batch norm where these are placed too."""
        fed = [pair for pair in pairs if all(isinstance(layer, nn.Conv2d) for layer in context.layers(pair))]
        for pair in fed:
            with naming(context, pair):
                yield self._filled(context, pair)
        if self.batch_norm:
            yield from self._norms(context, fed)

    def _filled(self, context: Context, pair: Pair) -> Fill:
        source, target = context.layers(pair)
        how: dict[str, Any] = {"resizer": self.resizer, "antialias": self.antialias}
        how |= {"layer": pair.target, "source": pair.source}
        fill = resized(source.weight.detach(), target.weight, self.align_corners, **how)
        fill = replace(fill, note=_cyclic_note(source.weight, target.weight))  # once the axes are known to fit
        if not (self.correct_gain or self.noise):
            return fill
        made = torch.empty_like(target.weight)
        write([replace(fill, out=made)])
        if self.correct_gain:
            made.mul_(source.weight[0].numel() / target.weight[0].numel())
        if self.noise and target.out_channels > source.out_channels:
            copies = made[source.out_channels :]
            draw = torch.randn(copies.shape, generator=context.generator).to(copies)
            copies.add_(draw, alpha=self.noise * float(made.std()))
        return Fill(pair.target, target.weight, made, note=fill.note, source=pair.source)

    def _norms(self, context: Context, fed: list[Pair]) -> Iterator[Fill]:
        here, there = (
            {layer.name: layer.norm for layer in found.layers} for found in (context.source_chain, context.target_chain)
        )
        for pair in fed:
            donor, own = here.get(pair.source), there.get(pair.target)
            if donor is None or own is None:
                continue
            given = _own_tensors(context.source_modules[donor])
            for key, out in _own_tensors(context.target_modules[own]).items():
                if key in given:
                    note = "taken with its convolution"
                    yield resized(given[key].detach(), out, layer=own, source=donor, note=note)


def _own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Floating parameters and buffers that a module itself holds, by name, those of its children left out."""
    held = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    return {name: tensor for name, tensor in held if tensor.is_floating_point()}


def _cyclic_note(source: Tensor, target: Tensor) -> str:
    here, there = source.shape, target.shape
    steps = [f"kernel {_size(here)} -> {_size(there)}"] if here[2:] != there[2:] else []
    for axis, have, want in (("outputs", here[0], there[0]), ("inputs", here[1], there[1])):
        if have != want:
            steps.append(f"{axis} {'repeated' if want > have else 'cropped'} {have} -> {want}")
    return ", ".join(steps) or "copied"


def _size(shape: torch.Size) -> str:
    """The size of a kernel, as one number if it is square."""
    return f"{shape[2]}" if shape[2] == shape[3] else f"{shape[2]}x{shape[3]}"
