"""Knowledge amalgamation on a GPU: the choice of teachers, discrepancies of common features, and a step of stage 2."""

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.amalgamation import adam_step, both_ways, gradients, least_entropy
from benchmarks.gpu_report import Report
from hetlib.amalgamation import choose_teacher, softmax_entropy
from hetlib.kernels.mmd import SIGMAS, mmd

LOOPED = 64
"""Images that the loop chooses for one by one; the time of all is extrapolated from them."""


def choice(report: Report) -> None:
    """Two teachers, all images at once and 64 at a time: no wait, 50 times as fast as image by image."""
    count = 128 if report.toy else 6400
    logits = torch.randn(2, count, 2, generator=torch.Generator().manual_seed(0))
    there, entropies = logits.to(report.device), softmax_entropy(logits)
    report.check("choice", f"entropies of {count} images", [(softmax_entropy(there), entropies)], at_most=1e-5)
    found = entropies.gather(0, choose_teacher(there).cpu()[None])[0]
    report.check("choice", "entropies of who is chosen", [(found, entropies.min(0).values)], at_most=1e-5)
    loop = report.milliseconds(lambda: [least_entropy(list(there[:, image])) for image in range(LOOPED)], repeats=3)
    print(f"the loop's time is that of {LOOPED} of {count} images, extrapolated", flush=True)
    for size in (count, 64):
        work = lambda size=size: [choose_teacher(batch) for batch in there.split(size, 1)]
        ours, looped = report.milliseconds(work), loop * count / LOOPED
        facts = {"ms": ours, "loop_ms": looped, "times": looped / ours, **report.counts(work)}
        held = looped >= 50 * ours and not facts["syncs"]
        report.say("choice", f"{count} images, {size} at a time", **facts, bar="0 syncs, >= 50x", holds=held)


def discrepancies(report: Report) -> None:
    """Two teachers at four layers, forward and backward: at most 16 launches, 20 times as fast as the plain form."""
    from hetlib.kernels import mmd_triton

    samples, widths = (5, (3, 40, 17, 8)) if report.toy else (64, (8192,) * 4)
    draw = lambda seed: [_normal(samples, width, seed=seed + n) for n, width in enumerate(widths)]
    student, teachers = draw(0), [draw(10), draw(20)]
    here = [each.double().requires_grad_() for each in student]
    expected = mmd([*here, *here], [each.double() for each in (*teachers[0], *teachers[1])])
    changes = torch.autograd.grad(expected.sum(), here)
    ours = [each.to(report.device).requires_grad_() for each in student]
    theirs = [each.to(report.device) for side in teachers for each in side]
    rows = [each.detach() for pair in zip([*ours, *ours], theirs, strict=True) for each in pair]
    found, coefficients = mmd_triton.forward(rows, SIGMAS)
    report.check("mmd", "2 teachers x 4 layers", [(found, expected.detach())], at_most=2e-5)
    moved = mmd_triton.backward(rows, coefficients, torch.ones_like(found))[::2]
    scales = [float(change.abs().max()) for change in changes]
    pairs = [
        ((first + second) / scale, change / scale)
        for first, second, change, scale in zip(moved[:4], moved[4:], changes, scales, strict=True)
    ]
    report.check("mmd", "the student's gradients, in parts of the largest", pairs, at_most=1e-3)
    work = lambda: torch.autograd.grad(mmd([*ours, *ours], theirs).sum(), ours)
    plain = lambda: torch.autograd.grad(sum(map(_plain_mmd, [*ours, *ours], theirs)), ours)
    taken, slow = report.milliseconds(work), report.milliseconds(plain, repeats=5)
    facts = {"ms": taken, "plain_ms": slow, "times": slow / taken, **report.counts(work)}
    facts["plain_launches"] = report.counts(plain)["launches"]
    held = slow >= 20 * taken and (facts["launches"] or 0) <= 16
    report.say("mmd", "2 teachers x 4 layers", **facts, bar="<= 16 launches, >= 20x", holds=held)


def stage_2(report: Report) -> None:
    """A step of a 90-wide ResNet-18 with four components: one forward of the target, beside one for every component."""
    torch.manual_seed(0)
    ways = both_ways(**({"width": 0.125} if report.toy else {"images": 64}), device=report.device)
    losses = [loss() for _, loss in ways]
    ours, slow = (loss.detach().cpu() for loss in losses)
    report.check("stage 2", "loss, in parts of itself", [(ours / slow, torch.ones_like(slow))], at_most=1e-3)
    for loss in losses:
        loss.backward()
    pairs = [
        (own / other.norm(), (other / other.norm()).cpu())
        for own, other in zip(*(gradients(modules) for modules, _ in ways), strict=True)
    ]
    report.check("stage 2", "gradients, each in parts of its length", pairs, at_most=0.02)  # TF32 keeps three digits
    joint, apart = (adam_step(modules, loss) for modules, loss in ways)
    ours, slow = report.milliseconds(joint), report.milliseconds(apart)
    facts = {"ms": ours, "apart_ms": slow, "times": slow / ours, **report.counts(joint)}
    report.say("stage 2", "a step with 4 components", **facts, bar=">= 2.3x", holds=slow >= 2.3 * ours)


def _plain_mmd(x: Tensor, y: Tensor) -> Tensor:
    """One pair's discrepancy from all differences, a kernel and a bandwidth after the other."""
    x, y = (F.normalize(each, dim=1) for each in (x, y))
    return _kernels(x, x) + _kernels(y, y) - 2 * _kernels(x, y)


def _kernels(u: Tensor, v: Tensor) -> Tensor:
    distances = (u[:, None] - v).square().sum(2)
    return torch.stack([(-distances / (2 * sigma**2)).exp().mean() for sigma in SIGMAS]).sum()


def _normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
