"""OTFusion and merging written out for perceptrons without biases."""

import numpy as np
import ot
import torch

from hetlib import zoo
from hetlib.chain import chain

X = torch.randn(30, 1, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def perceptron(*hidden, seed=0, bias=False, inputs=8):
    torch.manual_seed(seed)
    return zoo.build("mlp", 10, 1, hidden=hidden, in_features=inputs, bias=bias).double()


def weights(model):
    return [layer.module.weight.detach() for layer in chain(model).layers]


def outputs(ws):
    values, h = [], X.flatten(1)
    for w in ws:
        values.append(h @ w.T)
        h = values[-1].relu()
    return values


def plain_fusion(ours, theirs, step, by_weights, last):
    """OTFusion written out, with the released code's correction; bias-free perceptrons."""
    transport, fused = None, []
    for i, (w0, w1, a0, a1) in enumerate(zip(ours, theirs, outputs(ours), outputs(theirs), strict=True)):
        moved = w0 if transport is None else w0 @ transport
        if last or i < len(ours) - 1:
            cost = torch.cdist(moved, w1) if by_weights else torch.cdist(a0.T, a1.T)
            n, m = cost.shape
            plan = torch.from_numpy(ot.emd(np.ones(n) / n, np.ones(m) / m, cost.numpy()))
            transport = plan / (plan.sum(0) + 1e-7)
            moved = transport.T @ moved
        fused.append((1 - step) * moved + step * w1)
    return fused


def plain_merge(ws, kept, relu):
    acts, factor, merged = outputs(ws), None, []
    for i, w in enumerate(ws):
        w = w if factor is None else w @ factor
        if i in kept or i == len(ws) - 1:
            merged.append(w)
            factor = None
            continue
        active = (acts[i] > 0).double().mean(0)
        diagonal = {"sum": (acts[i].sum(0) >= 0).double(), "majority": (active >= 0.5).double(), "average": active}
        factor = diagonal[relu][:, None] * w
    return merged


def close(mine, reference):
    for one, other in zip(mine, reference, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
