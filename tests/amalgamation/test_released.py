"""What the released code does by accident: settings that bring it back have its recorded effects."""

import numpy as np
import pytest
import torch

from hetlib.amalgamation import RECIPE, RELEASED_ATTRIBUTES, RELEASED_CLASSES, Amalgamation, ByResolution, Teacher
from tests.amalgamation.cast import net
from tests.kernels.test_write import Syncs

MATCH = ByResolution(4)


@pytest.fixture(scope="module")
def released(vectors):
    return np.load(vectors / "amalgamation.npz")


def make(student, **how):
    cast = [Teacher(f"source {k}", net(2, 1 + k)) for k in range(2)]
    return Amalgamation(student, cast, torch.randn(2, 3, 8, 8), match=MATCH, sizes=[4, 2], **how)


def test_rates_fall_by_steps_and_not_by_epochs(released):
    expected = released["behaviour/lr_per_iteration_official"]
    recipe = RECIPE.changed(schedule="iterations")
    assert [recipe.lr_at(step, 8) for step in range(len(expected))] == pytest.approx(expected.tolist())
    assert [RECIPE.lr_at(epoch * 8, 8) for epoch in range(len(expected))] == pytest.approx(expected.tolist())


def test_students_are_in_evaluation_mode_from_the_second_epoch_on(released):
    expected = released["behaviour/student_training_flag"].tolist()
    student = net(2)
    objective, x, found = (
        make(student, steps=sum(expected), freeze_norms=RELEASED_ATTRIBUTES.freeze_norms),
        torch.randn(6, 3, 8, 8),
        [],
    )
    for step in range(len(expected)):
        if step % sum(expected) == 0:
            student.train()  # as at the beginning of every epoch
        objective(student, x, None)
        found.append(student.training)
    assert found == expected


def test_for_classes_the_norm_counts_six_times(vectors):
    multiplier = float(np.load(vectors / "amalgamation_peers.npz")["class_step/wn_multiplier"])
    assert pytest.approx(multiplier) == RELEASED_CLASSES.norm
    student = net(2).eval()
    torch.manual_seed(0)
    objective = make(student)
    x = torch.randn(6, 3, 8, 8)
    terms, once = objective.terms(student, x), objective(student, x, None)
    objective.factors[:, -1] = RELEASED_CLASSES.norm
    torch.testing.assert_close(objective(student, x, None) - once, (multiplier - 1) * terms[:, -1].sum())


@pytest.mark.parametrize("joint", [False, True])
def test_a_step_never_makes_the_host_wait(joint):
    """The released step waits for a number six times for every teacher."""
    student = net(2)
    objective, x = make(student, joint=joint, epochs=1), torch.randn(6, 3, 8, 8)
    objective(student, x, None)
    with Syncs() as syncs:
        objective(student, x, None).backward()
    assert not syncs.counts
