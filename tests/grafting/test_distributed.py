"""Grafting with one network a process: the same numbers as in one process, also after an interruption; and refusals."""

import os
import signal
import warnings
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from multiprocessing import get_context

import pytest
import torch

from hetlib import zoo
from hetlib.data import few_shot, load
from hetlib.grafting import AfterEpoch, Grafting, recipes
from hetlib.grafting.distributed import check_alike, checkpoints, over_ranks, train
from hetlib.grafting.exchange import joined
from hetlib.grafting.flat import Flat
from hetlib.grafting.processes import meeting_place, start
from hetlib.training import Lockstep, Loop, Recipe

RECIPE = Recipe(epochs=3, lr=0.05, precision="fp32", batch_size=64)
STEPS = {
    "layer": AfterEpoch(),
    "every second": AfterEpoch(Grafting(criterion="activation"), every=2, update_bn=True, reset_momentum=True),
    "filter": AfterEpoch(Grafting(level="filter")),
    "aligned": AfterEpoch(Grafting(criterion="l1", align=True)),
    "noise": AfterEpoch(Grafting(scion="noise", threshold=2.0)),
    "network": AfterEpoch(Grafting(level="network")),
}
DEADLINE = 300.0


@cache
def digits():
    return few_shot(load("digits"), 20), few_shot(load("digits", "test"), 10)


def loop(rank, size, width=0.125, **changes):
    """The training of one network of a ring."""
    with torch.random.fork_rng():
        torch.manual_seed(rank)
        model = zoo.build("plainnet5", in_channels=1, width=width, kernel_size=3)
    return Loop(model, *digits(), recipes("dlr", size, RECIPE)[rank].changed(**changes), seed=rank)


@cache
def together(size, step="layer"):
    """All networks of a ring in one process."""
    ring = Lockstep([loop(rank, size) for rank in range(size)], STEPS[step])
    ring.run()
    return ring


def ring_of(exchange, step="layer", **changes):
    """The ring as one rank has it."""
    after = STEPS[step]
    between = AfterEpoch(
        over_ranks(after.grafting, exchange), after.every, after.update_bn, after.reset_momentum, after.watch
    )
    return Lockstep([loop(exchange.rank, exchange.size, **changes)], between, first=exchange.rank)


def told(ring):
    """What came of one rank's training, or what it was refused for."""
    (only,) = ring.loops
    return {"model": only.model.state_dict(), "history": vars(only.history), "facts": ring.facts}


@dataclass
class Words:
    """What a rank says of its trainings, in a file that outlives it."""

    path: str

    def __post_init__(self):
        self.said = {}

    def note(self, name, thing):
        self.said[name] = thing
        torch.save(self.said, self.path)

    def attempt(self, name, ring, exchange, *where, **how):
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                self.note(name, told(train(ring, exchange, *where, **how)))
            self.note(f"{name} warned", [str(each.message) for each in caught])
        except (ValueError, ConnectionError) as error:
            self.note(name, str(error))


def two(folder):
    """What two ranks go through, in one start."""
    with joined(DEADLINE) as exchange:
        rank = exchange.rank
        words = Words(f"{folder}/{rank}.pt")
        for step in STEPS:
            words.attempt(step, ring_of(exchange, step), exchange, f"{folder}/{step}/{rank}")
        words.note("kept", sorted(checkpoints(rank, folder / "layer" / str(rank))))
        voters = exchange.all_networks(ring_of(exchange).loops[0].model)
        words.note("all", [model.state_dict() for model in voters])
        words.attempt("wider", ring_of(exchange, width=0.125 + 0.125 * rank), exchange)
        words.attempt("steps", ring_of(exchange, ["layer", "noise"][rank]), exchange)
        words.attempt("foreign", ring_of(exchange, momentum=0.5), exchange, f"{folder}/layer/{rank}")
        words.attempt("other step", ring_of(exchange, "noise"), exchange, f"{folder}/layer/{rank}")
        own = folder / "layer" / str(rank)
        newest, older = (own / f"rank{rank}-epoch{epoch}.safetensors" for epoch in (3, 2))
        if rank:
            newest.write_bytes(newest.read_bytes()[:-9])
        words.attempt("damaged", ring_of(exchange), exchange, own)
        if rank:
            newest.unlink(), older.unlink()
        words.attempt("missing", ring_of(exchange), exchange, own)
        if not rank:  # the other does not come
            exchange._patience = timedelta(seconds=1)
            words.attempt("late", ring_of(exchange), exchange)


def three(folder):
    """A ring whose last rank is killed while it trains its second epoch, unless the ring has been here before."""
    with joined(DEADLINE) as exchange:
        words, first = Words(f"{folder}/{exchange.rank}.pt"), not checkpoints(exchange.rank, folder / "ring")
        seen = []

        def fall(ring):
            seen.append(ring.epochs)
            if first and exchange.rank == 2:
                os.kill(os.getpid(), signal.SIGKILL)

        words.attempt("ring", ring_of(exchange), exchange, folder / "ring", on_epoch=fall)
        words.note("seen", seen)


def ranks(work, size, folder):
    """Run some work on ranks to its end; gives their exit codes and what they said."""
    with meeting_place(size):
        processes = []
        for rank in range(size):
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), OMP_NUM_THREADS="1")
            processes.append(get_context("spawn").Process(target=work, args=(folder,)))
            processes[-1].start()
        for process in processes:
            process.join(2 * DEADLINE)
    said = [torch.load(path) if (path := folder / f"{rank}.pt").exists() else {} for rank in range(size)]
    return [process.exitcode for process in processes], said


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    codes, said = ranks(two, 2, tmp_path_factory.mktemp("pair"))
    assert codes == [0, 0]
    return said


def assert_equal_to_one_process(said, size, step="layer"):
    whole = together(size, step)
    for rank, found in enumerate(said):
        expected = whole.loops[rank]
        assert found["history"] == vars(expected.history)
        for key, value in expected.model.state_dict().items():
            assert torch.equal(found["model"][key], value), key
        for own, facts in zip(found["facts"], whole.facts, strict=True):
            assert own["invalid"] == facts["invalid"][rank : rank + 1]
            for layer, shares in facts.get("coefficients", {}).items():
                assert own["coefficients"][layer] == shares[rank : rank + 1]


@pytest.mark.parametrize("step", STEPS)
def test_two_ranks_come_to_the_bits_of_one_process(pair, step):
    assert_equal_to_one_process([said[step] for said in pair], 2, step)


def test_each_rank_keeps_its_last_two_checkpoints(pair):
    assert [said["kept"] for said in pair] == [[2, 3], [2, 3]]


def test_every_rank_can_have_all_networks(pair):
    for said in pair:
        for rank, state in enumerate(said["all"]):
            expected = loop(rank, 2).model.state_dict()
            assert all(torch.equal(state[key], value) for key, value in expected.items())


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (
            "wider",
            "networks 0 and 1 differ in 'features.0.weight': (4, 1, 3, 3) of float32 and (8, 1, 3, 3) of float32",
        ),
        ("steps", "ranks 0 and 1 differ in between epochs: AfterEpoch("),
        ("foreign", "belongs to other settings: momentum was 0.9, is 0.5"),
        ("other step", "did something else between epochs"),
    ],
)
def test_every_rank_is_told_what_does_not_fit(pair, case, words):
    first, second = (said[case] for said in pair)
    assert first == second
    assert words in first


@pytest.mark.parametrize(
    ("case", "where"), [("damaged", "after epoch 2, the last that all ranks have"), ("missing", "at the beginning")]
)
def test_a_rank_without_a_checkpoint_takes_all_back_to_the_same_end(pair, case, where):
    assert_equal_to_one_process([said[case] for said in pair], 2)
    for said in pair:
        assert f"rank 1 without a checkpoint of epoch 3: all start {where}" in said[f"{case} warned"]


def test_a_rank_that_does_not_come_is_named(pair):
    assert pair[0]["late"].startswith("rank 1 did not reach the start: it has ended, or lags by more than 1 s")


@pytest.fixture(scope="module")
def trio(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trio")
    return ranks(three, 3, folder), ranks(three, 3, folder)


def test_the_survivors_name_the_rank_that_was_killed(trio):
    (codes, said), _ = trio
    assert codes == [0, 0, -signal.SIGKILL]
    for rank in (0, 1):
        assert said[rank]["ring"].startswith("rank 2 did not reach epoch 2: it has ended, or lags by more than 300 s")
        assert "the same command to resume" in said[rank]["ring"]


def test_three_ranks_that_start_again_come_to_the_bits_of_one_process(trio):
    _, (codes, said) = trio
    assert codes == [0, 0, 0]
    assert [each["seen"] for each in said] == [[2, 3]] * 3
    assert_equal_to_one_process([each["ring"] for each in said], 3)


def fail(rank):
    if os.environ["RANK"] == str(rank):
        raise ValueError("of no use: 7")
    signal.pause()


def fall(rank):
    if os.environ["RANK"] == str(rank):
        os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


@pytest.mark.parametrize(("work", "words"), [(fail, "rank 1: of no use: 7"), (fall, r"rank 1 has ended \(SIGKILL\)")])
def test_a_process_that_ends_ends_the_others(work, words):
    with pytest.raises(ChildProcessError, match=words):
        start(work, 2, 1)


def test_settings_of_a_group(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("RANK", "0")
    for how, words in (
        ({"timeout": 0.0}, "timeout must be positive"),
        ({"backend": "glo"}, "did you mean 'gloo'"),
        ({"backend": "nccl"}, "finds none"),
    ):
        with pytest.raises(ValueError, match=words), joined(**how):
            pass
    with meeting_place(1), pytest.raises(ValueError, match="a ring needs at least 2 ranks, got 1"):
        joined().__enter__()
    assert "WORLD_SIZE" not in os.environ
    check_alike([({}, {"epochs": 1})] * 2)


def test_a_networks_tensors_end_to_end_keep_how_they_lie_in_memory():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2).double())
    model.to(memory_format=torch.channels_last)
    flat = Flat(model)
    assert [buffer.numel() for buffer in flat.buffers] == [4 * 3 * 9 + 4 * 5, 10]
    with torch.no_grad():
        model[0].weight.mul_(2)
    twin, copied = Flat.copy(model)
    flat.read()
    for key, value in model.state_dict().items():
        for found in (flat.views.get(key, value), twin.state_dict()[key]):
            assert torch.equal(found, value)
            assert (found.stride(), found.dtype) == (value.stride(), value.dtype)
    copied.buffers[0].zero_()
    assert not twin[0].weight.any()
    assert model[0].weight.all()
