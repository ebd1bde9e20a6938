"""Bridges: the loss of both stages is the released one, term by term, and so are its gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hetlib.amalgamation import Bridge, row_norm


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def released(vectors):
    return np.load(vectors / "amalgamation.npz")


def read(released, name, count=5):
    return [torch.from_numpy(released[name.format(tap)]).requires_grad_() for tap in range(count)]


def load(bridges, released, name):
    for tap, bridge in enumerate(bridges):
        for part, value in bridge.named_parameters():
            value.data.copy_(torch.from_numpy(released[f"{name}/conv{tap}.{part}"]))


def check_gradients(bridges, released, name):
    for tap, bridge in enumerate(bridges):
        for part, value in bridge.named_parameters():
            expected = torch.from_numpy(released[f"{name}/conv{tap}.{part}"])
            torch.testing.assert_close(value.grad, expected, rtol=1e-4, atol=1e-6)


def test_stage_1_is_the_released_one(released):
    teacher, student = read(released, "stage1/teacher_feat{}"), read(released, "stage1/student_feat{}")
    logits = [torch.from_numpy(released[f"stage1/{who}_logits"]).requires_grad_() for who in ("student", "teacher")]
    widths = [feature.shape[1] for feature in teacher]
    bridge = Bridge(widths, widths, [len(released[f"stage1/student_adapter/conv{tap}.bias"]) for tap in range(5)])
    load(bridge.ours, released, "stage1/student_adapter")
    load(bridge.theirs, released, "stage1/teacher_adapter")
    bridge.m.data.copy_(torch.from_numpy(released["stage1/student_adapter/m"]))
    terms = bridge(student, teacher, *logits)
    assert terms[:6].tolist() == pytest.approx(released["stage1/loss_layers_and_logits"].tolist(), rel=1e-6)
    assert float(terms[6].detach()) == pytest.approx(float(released["stage1/loss_wn"]), rel=1e-6)
    parts = [float(row_norm([one]).detach()) for one in bridge.theirs]
    assert parts == pytest.approx(released["stage1/loss_wn_parts"].tolist(), rel=1e-5)
    total = terms.sum()
    assert float(total.detach()) == pytest.approx(float(released["stage1/loss_total_attribute"]), rel=1e-6)
    total.backward()
    for tap, feature in enumerate(student):
        expected = torch.from_numpy(released[f"stage1/grad_student_feat{tap}"])
        torch.testing.assert_close(feature.grad, expected, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(logits[0].grad, torch.from_numpy(released["stage1/grad_student_logits"]))
    torch.testing.assert_close(bridge.m.grad, torch.from_numpy(released["stage1/student_adapter_grad/m"]))
    check_gradients(bridge.ours, released, "stage1/student_adapter_grad")
    check_gradients(bridge.theirs, released, "stage1/teacher_adapter_grad")


def test_stage_1_for_classes_differs_in_the_scale_and_in_six_times_the_norm(released):
    teacher, student = read(released, "stage1/teacher_feat{}"), read(released, "stage1/student_feat{}")
    logits = [torch.from_numpy(released[f"stage1/{who}_logits"]) for who in ("student", "teacher")]
    widths = [feature.shape[1] for feature in teacher]
    bridge = Bridge(widths, widths, [3, 3, 4, 5, 6], scale=False)
    load(bridge.ours, released, "stage1/student_adapter")
    load(bridge.theirs, released, "stage1/teacher_adapter")
    terms = bridge(student, teacher, *logits)
    assert bridge.m is None
    total = float(terms.detach() @ torch.tensor([1.0] * 6 + [6.0]))
    assert total == pytest.approx(float(released["stage1/loss_total_class"]), rel=1e-6)


def test_stage_2_is_the_released_one(released):
    target, component = read(released, "stage2/target_feat{}"), read(released, "stage2/component_feat{}")
    heads = torch.cat([torch.from_numpy(released[f"stage2/target_head{head}"]) for head in range(3)], 1)
    heads.requires_grad_()
    number = int(released["stage2/head_index"])
    bridge = Bridge([feature.shape[1] for feature in target], [feature.shape[1] for feature in component])
    load(bridge.ours, released, "stage2/adapter")
    bridge.m.data.copy_(torch.from_numpy(released["stage2/adapter/m"]))
    own = heads[:, 2 * number : 2 * number + 2]
    terms = bridge(target, component, own, torch.from_numpy(released["stage2/component_logits"]))
    assert terms[:6].tolist() == pytest.approx(released["stage2/loss_layers_and_logits"].tolist(), rel=1e-6)
    assert float(terms[6].detach()) == 0
    assert float(terms.sum().detach()) == pytest.approx(float(released["stage2/loss_total"]), rel=1e-6)
    terms.sum().backward()
    for tap, feature in enumerate(target):
        expected = torch.from_numpy(released[f"stage2/grad_target_feat{tap}"])
        torch.testing.assert_close(feature.grad, expected, rtol=1e-4, atol=1e-7)
    expected = torch.zeros_like(heads)
    expected[:, 2 * number : 2 * number + 2] = torch.from_numpy(released[f"stage2/grad_head{number}"])
    torch.testing.assert_close(heads.grad, expected)
    torch.testing.assert_close(bridge.m.grad, torch.from_numpy(released["stage2/adapter_grad/m"]))
    check_gradients(bridge.ours, released, "stage2/adapter_grad")


def test_the_norm_starts_where_the_released_one_does(released):
    """A row of default weights has an expected square of 1/3, whatever its width."""
    torch.manual_seed(0)
    bridge = Bridge([64, 64, 128, 256, 512], [64, 64, 128, 256, 512], [32, 32, 64, 128, 256])
    found = [float(row_norm([one]).detach()) for one in bridge.theirs]
    assert found == pytest.approx(released["behaviour/wn_default_init"].tolist(), abs=0.05)
    assert sum(parameter.numel() for parameter in bridge.ours.parameters()) == 176_640


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=3))
def test_the_norm_is_the_plain_loop(shapes):
    bridges = torch.nn.ModuleList(torch.nn.Conv2d(inputs, outputs, 1).double() for outputs, inputs in shapes)
    expected = 0.0
    for bridge in bridges:
        rows = bridge.weight[:, :, 0, 0].tolist()
        expected += sum((sum(w * w for w in row) - 1) ** 2 for row in rows) / len(rows)
    assert float(row_norm(bridges).detach()) == pytest.approx(expected)


@pytest.mark.parametrize("size", [(3, 3), (8, 8), (4, 4), (1, 1)])
def test_a_teacher_s_features_are_brought_to_the_student_s_size(size):
    torch.manual_seed(0)
    bridge = Bridge([3], [2], [4]).double()
    student, teacher, logits = [draw(2, 3, 4, 4)], [draw(2, 2, *size)], draw(2, 5)
    loss = bridge(student, teacher, logits, logits)
    resized = torch.nn.functional.adaptive_avg_pool2d(bridge.theirs[0](teacher[0]), (4, 4))
    torch.testing.assert_close(loss[0], (bridge.ours[0](student[0]) - resized).square().mean())
    assert float(loss[1].detach()) == 0


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="have 2, 1 and 2 taps"):
        Bridge([3, 4], [3], [2, 2])
    with pytest.raises(ValueError, match=r"logits of one shape, got \(2, 5\) and \(2, 4\)"):
        Bridge([3], [2])([draw(2, 3, 4, 4)], [draw(2, 2, 4, 4)], draw(2, 5), draw(2, 4))
