"""What it costs to pair layers, as written out, and layers that cannot be compared."""

import numpy as np
import ot
import pytest
import torch

from hetlib.clafusion import (
    layer_costs,
)
from tests.clafusion.plain import X, outputs, perceptron, weights


def test_layer_costs_as_written_out():
    deep, shallow = perceptron(9, 8, 7, 6, 4, seed=5), perceptron(9, 7, 5, seed=6)
    ours, theirs = outputs(weights(deep))[:-1], outputs(weights(shallow))[:-1]
    even = lambda a: np.full(a.shape[1], 1 / a.shape[1])
    moved = [[ot.emd2(even(a), even(b), torch.cdist(a.T, b.T).numpy()) for b in theirs] for a in ours]
    torch.testing.assert_close(
        layer_costs(deep, shallow, X, "wasserstein")[0], torch.tensor(moved, dtype=torch.float64)
    )
    places = torch.arange(5.0)[:, None] - torch.arange(3.0)
    torch.testing.assert_close(layer_costs(deep, shallow, X, "index")[0], places.square().double())


def test_layers_that_say_nothing_or_nonsense_are_named():
    deep, shallow = perceptron(9, 8, 7, 6, seed=1), perceptron(9, 7, seed=2)
    with torch.no_grad():
        deep.fc3.weight.zero_()
        with pytest.warns(UserWarning, match="fc3 puts out the same for all images"):
            costs = layer_costs(deep, shallow, X)[0]
        assert costs[2].eq(1).all()
        deep.fc2.weight.fill_(1e308)
    with pytest.raises(ValueError, match="fc2 puts out NaN or infinity"):
        layer_costs(deep, shallow, X, "wasserstein")
    with pytest.raises(ValueError, match="at least 4 are needed"):
        layer_costs(deep, shallow, X[:3], "debiased")
