"""One call from a pool to a target: what it makes, that it repeats and resumes itself, and what it refuses."""

import multiprocessing
import signal
from functools import partial

import pytest
import torch

from hetlib import zoo
from hetlib.amalgamation import (
    GROUPS,
    METHODS,
    RELEASED_ATTRIBUTES,
    RELEASED_CLASSES,
    ByResolution,
    Settings,
    Source,
    covering,
    customise,
    sources_of,
    train_source,
)
from hetlib.data import Images
from hetlib.files import load_tensors
from tests.amalgamation.cast import NAMES, RECIPE, images, net, pool, same
from tests.killing import kill_after

BUILD = partial(zoo.build, "resnet8", width=0.125)
WANTED = ("Young", "Bangs")
HOW = {"component": BUILD, "target": BUILD, "recipe": RECIPE, "match": ByResolution(4)}


def make(cast=None, wanted=WANTED, data=None, test=None, **how):
    return customise(cast or pool(), wanted, data or images(), test, **{**HOW, **how})


@pytest.fixture(scope="module")
def whole():
    return make(test=images(64, seed=1, split="test"))


def test_it_makes_a_component_for_every_task_and_a_target_with_a_head_for_each(whole):
    assert list(whole.components) == list(whole.heads) == list(WANTED)
    assert whole.heads == {"Young": slice(0, 2), "Bangs": slice(2, 4)}
    assert whole.target.linear.out_features == 4
    assert all(component.linear.out_features == 2 for component in whole.components.values())
    assert [*whole.histories] == [*whole.curves] == ["Young", "Bangs", "target"]
    assert whole.curves["Young"].shape == (2, 2, 6)
    assert whole.curves["target"].shape == (2, 2, 6)
    for task, names in (("Young", ["second", "third"]), ("Bangs", ["first", "second"])):
        assert list(whole.metrics["images"][task]) == list(whole.metrics["sources"][task]) == names
        assert sum(whole.metrics["images"][task].values()) == 48
        assert whole.member[task].sum(1).tolist() == [1] * 48
    assert set(whole.metrics["target"]) == set(whole.metrics["components"]) == set(WANTED)
    assert whole.metrics["parameters"]["target"] == sum(p.numel() for p in whole.target.parameters())


def test_the_same_call_gives_the_same_bits_and_another_seed_does_not(whole):
    assert same(make().target, whole.target)
    assert not same(make(seed=1).target, whole.target)


def test_labels_are_not_looked_at(whole):
    data = images()
    blind = type(data)(data.name, data.split, data.images, data.labels * 0 + 77, NAMES, data.mean, data.std)
    assert same(make(data=blind).target, whole.target)


def test_sources_are_left_as_they_are():
    cast, fresh = pool(), pool()
    make(cast)
    for one, other in zip(cast, fresh, strict=True):
        assert same(one.network, other.network)
        assert all(parameter.requires_grad for parameter in one.network.parameters())


LONGER = RECIPE.changed(epochs=6, lr=1e-2, schedule="one-cycle")


def test_it_learns_from_sources_what_nobody_labelled():
    made = make(data=images(200, seed=2), test=images(200, seed=1, split="test"), recipe=LONGER)
    for task in WANTED:
        assert min(made.metrics["sources"][task].values()) > 95
        assert made.metrics["components"][task] > 90
        assert made.metrics["target"][task] > 90
        assert made.histories[task].top1[-1] == pytest.approx(made.metrics["components"][task])


@pytest.mark.parametrize("method", [method for method in METHODS if method != "amalgamation"])
def test_peers_make_a_target_by_the_same_call(method):
    test = images(200, seed=1, split="test")
    made = make(data=images(200, seed=2), test=test, method=method, recipe=LONGER)
    assert made.components == {}
    assert list(made.histories) == ["target"]
    assert made.histories["target"].loss[-1] < made.histories["target"].loss[0]
    assert min(made.metrics["target"].values()) > 85
    assert set(made.member) == (set(WANTED) if method == "direct" else set())


VARIANTS = (
    {"rule": "random"},
    {"rule": "average"},
    {"view": "augmented"},
    {"temperatures": {"second": 1.1}},
    {"common": 1.0},
    {"scale": False},
    {"norm": 0.0},
    {"joint": True},
    {"tasks": {"Young": 5.0}},
    {"epoch": "all"},
    {"freeze_norms": True},
)


@pytest.mark.parametrize("change", VARIANTS, ids=str)
def test_every_setting_changes_the_target(change, whole):
    assert not same(make(**change).target, whole.target)


def test_one_forward_of_the_target_gives_the_loss_of_one_for_each_component(whole):
    slow = make(one_forward=False)
    for task in WANTED:
        assert same(slow.components[task], whole.components[task])
    assert slow.histories["target"].loss[0] == pytest.approx(whole.histories["target"].loss[0], rel=0.02)


def test_the_released_settings_do_what_the_released_code_does(whole):
    made = make(settings=RELEASED_ATTRIBUTES.changed(match=ByResolution(4)), match=ByResolution(4))
    lengths = made.member["Young"].sum(0)
    assert made.histories["Young"].epochs == 1  # it stops after two passes over the shortest subset
    assert made.histories["target"].epochs == 2
    assert lengths.sum() == 48
    assert (RELEASED_CLASSES.norm, RELEASED_CLASSES.scale, RELEASED_CLASSES.epoch) == (6.0, False, "shortest")


def classes_pool():
    """Halves of a data set of four classes; the networks were trained on something else."""
    first, second, _ = pool()
    halves = {"half 1": ("cat", "dog"), "half 2": ("elk", "bee")}
    return [Source("a", first.network, halves), Source("b", second.network, {**halves, "side": ("car", "van")})]


def animals(count=48, seed=0):
    data = images(count, seed=seed)
    labels = torch.arange(count) % 4
    return Images("animals", "train", data.images, labels, ("bee", "cat", "dog", "elk"), data.mean, data.std)


@pytest.mark.parametrize("own", [False, True])
def test_tasks_may_be_parts_of_the_classes(own):
    made = make(classes_pool(), ("half 1", "half 2"), animals(), animals(40, 1), own_images=own)
    taught = {task: member.any(1) for task, member in made.member.items()}
    labels = animals().labels
    expected = torch.isin(labels, torch.tensor([1, 2])) if own else torch.ones(48, dtype=torch.bool)
    assert torch.equal(taught["half 1"], expected)
    assert set(made.metrics["target"]) == {"half 1", "half 2"}


def test_the_oracle_needs_a_label_for_every_image():
    how = {"rule": "oracle", "cast": classes_pool(), "wanted": ("half 1",), "data": animals()}
    with pytest.raises(ValueError, match="animals has images without a label for half 1: the oracle needs own_images"):
        make(**how)
    assert make(**how, own_images=True).member["half 1"].sum() == 24


KILLED_AT = [
    ("hetlib.amalgamation.stages.save_tensors", 0),  # after the first choice, which is lost
    ("hetlib.training.loop.normalise", 0),  # after both choices, before the first component
    ("hetlib.files.os.replace", 1),  # inside the first component
    ("hetlib.amalgamation.stages.Amalgamation", 2),  # between the components and the target
    ("hetlib.training.loop.normalise", 4),  # inside the target
]
"""What is called when the process is killed, and after how many calls of it; each process goes on from the last."""


def killed(cast, folder, where, calls):
    kill_after(where, calls)
    make(cast, folder=folder)


def test_killed_at_any_moment_it_ends_in_the_same_bits(whole, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    kept = []
    for where, calls in KILLED_AT:
        process = context.Process(target=killed, args=(pool(), tmp_path, where, calls))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, where
        kept.append({path.stem for path in tmp_path.glob("*.safetensors")})
    choices = {"choice-Young", "choice-Bangs"}
    assert kept[:3] == [set(), choices, {*choices, "component-Young"}]
    assert kept[3] == {*choices, "component-Young", "component-Bangs"}
    assert kept[4] >= kept[3]
    made = make(folder=tmp_path)
    assert same(made.target, whole.target)
    assert made.histories["target"] == whole.histories["target"]
    assert all(torch.equal(made.curves[name], whole.curves[name]) for name in whole.curves)


def test_each_kind_may_have_a_folder_of_its_own(tmp_path):
    make(folder={"choice": tmp_path / "a", "target": tmp_path / "b"})
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.safetensors")}
    assert names == {"a/choice-Young.safetensors", "a/choice-Bangs.safetensors", "b/target.safetensors"}


def test_what_was_kept_is_used_again_and_only_for_the_same_call(tmp_path, monkeypatch):
    make(folder=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("hetlib.amalgamation.stages.task_logits", None)
        make(folder=tmp_path)
    assert load_tensors(tmp_path / "choice-Young.safetensors")[1]["sources"][0][0] == "second"
    with pytest.raises(ValueError, match=r"component-Young.safetensors started from other weights"):
        make(folder=tmp_path, seed=1)
    with pytest.raises(ValueError, match=r"component-Young.safetensors minimised another objective"):
        make(folder=tmp_path, norm=3.0)


def refuses(message, cast=None, wanted=WANTED, **how):
    with pytest.raises(ValueError, match=message):
        make(cast, wanted, **how)


def test_a_task_that_no_source_covers_is_named_with_those_covered():
    refuses("task: no source covers 'Bang': did you mean 'Bangs'.*Known: Bangs, Blurry, Young, Male", wanted=("Bang",))


def test_bad_pools_are_named():
    first, second, third = pool()
    turned = Source("turned", third.network, {"Young": ("yes", "no")})
    refuses(
        "sources second and turned list the classes of Young differently: no, yes and yes, no", [first, second, turned]
    )
    refuses("sources need names of their own, got second, second", [second, second])
    narrow = Source("narrow", third.network, ("Young", "Bangs"))
    refuses(r"source narrow gives \(2, 2\) for 2 images; its tasks \(Young, Bangs\) need 4 logits", [narrow])
    refuses("one task or more must be wanted, each once", wanted=())
    refuses("one task or more must be wanted, each once", wanted=("Young", "Young"))


def test_students_with_other_numbers_of_outputs_are_named():
    fixed = lambda outputs: BUILD(3)
    refuses(r"the target gives \(2, 3\) for 2 images; its tasks \(Young, Bangs\) need 4 logits", target=fixed)
    refuses(r"the component for Young gives \(2, 3\) for 2 images; its tasks \(Young\) need 2 logits", component=fixed)


def test_a_task_has_its_weight_for_peers_too():
    how = {"method": "distillation"}
    assert not same(make(**how, tasks={"Young": 5.0}).target, make(**how).target)


def test_networks_that_cannot_be_compared_are_named_before_anything_is_chosen(monkeypatch):
    monkeypatch.setattr("hetlib.amalgamation.stages.task_logits", None)
    wide = partial(zoo.build, "resnet18", width=0.125)
    refuses(r"the student Sequential has 5 taps .*, the teacher Sequential has 4", component=wide, match=ByResolution())
    refuses(
        r"the student Sequential has 4 taps .*, the teacher Sequential has 5",
        match=ByResolution(),
        cast=[Source("a", net(2, 1, "resnet18", 0.125), ("Young",))],
        wanted=("Young",),
    )


def test_a_source_that_wins_no_image_or_says_no_numbers_is_named():
    first, second, third = pool()
    second.network.linear.weight.data.zero_()
    second.network.linear.bias.data.zero_()
    refuses("second wins none of 48 images", [first, second, third])
    third.network.linear.bias.data.fill_(float("nan"))
    refuses("third gives image 0 logits that hold NaN or infinity", [first, second, third])


def test_unknown_words_are_named():
    refuses("unknown method 'amalgamate': did you mean 'amalgamation'", method="amalgamate")
    refuses("unknown setting of amalgamation 'rules': did you mean 'rule'", rules="entropy")
    refuses("unknown rule for choosing teachers 'entrpy'", rule="entrpy")
    refuses("unknown view 'center': did you mean 'centre'", view="center")
    refuses("unknown length of an epoch 'longest'", epoch="longest")
    refuses("unknown source with a temperature 'frist': did you mean 'first'", temperatures={"frist": 2.0})
    refuses("unknown task with a weight 'Bang': did you mean 'Bangs'", tasks={"Bang": 2.0})
    with pytest.raises(ValueError, match="unknown attribute of corners 'Yung': did you mean 'Young'"):
        train_source("x", net(2), ["Yung"], images(), RECIPE)
    with pytest.raises(ValueError, match=r"source x gives \(2, 2\) for 2 images.*need 4 logits"):
        train_source("x", net(2), ["Young", "Bangs"], images(), RECIPE)
    with pytest.raises(ValueError, match="unknown class of animals 'eel'"):
        make([Source("a", net(2), {"sea": ("eel", "elk")})], ("sea",), animals(), animals())


def test_groups_are_the_papers():
    assert {group: len(sources_of(group)) for group in GROUPS} == {"hair": 9, "eye": 7, "face": 6, "classes": 4}
    assert sources_of("hair")[6] == ("Brown_Hair", "Oval_Face", "Bushy_Eyebrows")
    assert sources_of("eye")[4] == ("Bushy_Eyebrows", "Young")
    assert sources_of("face")[6] == ("Heavy_Makeup", "Sideburns", "Double_Chin", "Attractive")
    cast = [Source(str(number), net(2), names) for number, names in sources_of("hair").items()]
    found = covering(cast, tuple(GROUPS["hair"]))
    numbers = {task: [source.name for source in sources] for task, sources in found.items()}
    assert numbers == {
        "Black_Hair": ["1", "2"],
        "Blond_Hair": ["3", "4"],
        "Brown_Hair": ["5", "6", "7"],
        "Bangs": ["8", "9"],
    }


@pytest.mark.parametrize(("outputs", "first", "millions"), [(2, 64, 11.18), (8, 90, 22.10), (100, 72, 14.20)])
def test_the_paper_s_networks_have_its_numbers_of_parameters(outputs, first, millions):
    model = zoo.build("torchvision/resnet18", outputs, width=first / 64)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)
    assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, outputs)
    assert float(model.conv1.weight.detach().std()) == pytest.approx((2 / (49 * first)) ** 0.5, rel=0.05)


def test_settings_are_strict():
    assert Settings().changed(norm=6.0).norm == 6.0
    assert isinstance(Settings().match, ByResolution)
