"""One call that makes a network of one's own from a pool of others: choice, components, target."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from hetlib import zoo
from hetlib.amalgamation.peers import PEERS
from hetlib.amalgamation.settings import RECIPE, Settings
from hetlib.amalgamation.sources import Source, accuracy, check_outputs, covering, labelled
from hetlib.amalgamation.stages import Stages
from hetlib.data import Images, sample
from hetlib.errors import check_callable, known, of_kind, seed_of
from hetlib.training import History, Recipe

METHODS = ("amalgamation", "direct", *PEERS)
KEPT = ("choice", "component", "target")


@dataclass
class Customised:
    """What `customise` made.

    Attributes
    ----------
    target : nn.Module
        Gives the logits of all wanted tasks side by side.
    heads : dict of str to slice
        For every wanted task which of the target's logits are its own.
    components : dict of str to nn.Module
        For every wanted task the network that merges its sources; empty for methods without components.
    member : dict of str to Tensor
        For every wanted task which images each source teaches: (images, sources), bool.
    histories : dict of str to History
        Of every training: of a component by its task, and of "target".
    curves : dict of str to Tensor
        By the same names every term of the loss, its mean over each epoch; the shape is the objective's.
    metrics : dict
        "parameters": of every network by the same names. "images": for every task how many each source teaches. With
        test images also "sources", "components" and "target": top-1 accuracy in percent by task, and by source.
    """

    target: nn.Module
    heads: dict[str, slice]
    components: dict[str, nn.Module] = field(default_factory=dict)
    member: dict[str, Tensor] = field(default_factory=dict)
    histories: dict[str, History] = field(default_factory=dict)
    curves: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)


def customise(
    pool: Sequence[Source],
    wanted: Sequence[str],
    data: Images,
    test: Images | None = None,
    *,
    method: str = "amalgamation",
    component: Callable[[int], nn.Module] | None = None,
    target: Callable[[int], nn.Module] | None = None,
    recipe: Recipe = RECIPE,
    target_recipe: Recipe | None = None,
    settings: Settings | None = None,
    seed: int = 0,
    folder: str | PathLike | Mapping[str, str | PathLike] | None = None,
    progress: bool = False,
    **changes: Any,
) -> Customised:
    """Make a network that knows the wanted tasks from a pool of networks of which each knows some of them.

    No label of the training images is looked at, except by the rule "oracle" and the setting `own_images`.

    Parameters
    ----------
    pool : sequence of Source
        Of any architecture. Those that know no wanted task are left out.
    wanted : sequence of str
        Tasks, in the order of the target's heads.
    data, test : Images
        What the students learn from, and what all networks are scored on (none: no scores); see `labelled`.
    method : str
        "amalgamation" merges the sources of each task in a component, and then the components in the target; "direct"
        merges all sources in the target at once. Peers, in which every source teaches every image: "distillation",
        "layer-wise", "common-features"; see `hetlib.amalgamation.peers`.
    component, target : callable
        Makes a network with so many outputs; by default the zoo's ResNet-18, and one 90/64 times as wide.
    recipe, target_recipe : Recipe
        How components are trained, and the target (default: alike). One without `rates` has those of the objective.
    settings : Settings
        Everything else; keyword `changes` replace single settings.
    seed : int
        Draws initial weights, bridges, the order of images and their augmentation.
    folder : path-like or mapping of str to path-like, optional
        Keeps what was chosen, and a checkpoint of every training; or a folder each for "choice", "component" and
        "target". The same call goes on from there after an interruption, between or inside stages, and ends in the same
        numbers.
    progress : bool
        Show a bar for every choice and every training.

    Returns
    -------
    Customised

    Raises
    ------
    ValueError
        Before anything is trained: for an unknown method or setting; as `covering`; for a source that gives another
        number of logits than its tasks need, or logits that are not finite; for one that wins no image; for networks
        whose taps differ in number. Later, for a checkpoint in the folder that another call left.
    """
    known("method", method, METHODS)
    for what, given, kind in (
        ("data", data, Images),
        ("test", test, Images | None),
        ("recipe", recipe, Recipe),
        ("target_recipe", target_recipe, Recipe | None),
        ("settings", settings, Settings | None),
        ("folder", folder, str | PathLike | Mapping | None),
    ):
        of_kind(what, given, kind)
    for what, make in (("component", component), ("target", target)):
        if make is not None:
            check_callable(what, make)
    seed_of(seed)
    settings = (settings or Settings()).changed(**changes)
    sources = covering(pool, wanted)
    settings.check([source.name for source in pool], wanted)
    for source in dict.fromkeys(source for several in sources.values() for source in several):
        check_outputs(f"source {source.name}", source.network, source.tasks, sample(data, 2))
    if not isinstance(folder, Mapping):
        folder = {} if folder is None else dict.fromkeys(KEPT, folder)
    for kind in folder:
        known("kind of folder", kind, KEPT)
    stages = Stages(sources, data, settings, seed, folder, progress)
    default = partial(zoo.build, "resnet18", in_channels=data.shape[0])
    outputs = sum(map(len, stages.classes.values()))
    made = Customised(stages.build(target or partial(default, width=90 / 64), 0, outputs), stages.heads)
    check_outputs("the target", made.target, stages.classes, sample(data, 2))
    tests = {} if test is None else {task: labelled(test, task, classes) for task, classes in stages.classes.items()}
    if method == "amalgamation":
        for number, (task, classes) in enumerate(stages.classes.items(), start=1):
            made.components[task] = network = stages.build(component or default, number, len(classes))
            check_outputs(f"the component for {task}", network, {task: classes}, sample(data, 2))
    _train(made, stages, method, recipe, target_recipe or recipe, tests)
    networks = {**made.components, "target": made.target}
    made.metrics["parameters"] = {name: sum(p.numel() for p in each.parameters()) for name, each in networks.items()}
    if tests:
        _score(made, sources, tests, (target_recipe or recipe).precision)
    return made


def _train(
    made: Customised, stages: Stages, method: str, recipe: Recipe, target_recipe: Recipe, tests: dict[str, Images]
) -> None:
    """Train all networks, and note what came of it."""

    def note(name: str, found: tuple[History, Tensor]) -> None:
        made.histories[name], made.curves[name] = found

    if method in PEERS:
        note("target", stages.train("target", made.target, **stages.teaching(made.target, target_recipe, method)))
        return
    stages.check_taps([*made.components.values()], made.target)
    for task, sources in stages.sources.items():
        made.member[task] = stages.choose(task)
        names = [source.name for source in sources]
        counts = made.member[task].sum(0).tolist()
        made.metrics.setdefault("images", {})[task] = dict(zip(names, counts, strict=True))
    if method == "direct":
        member = torch.cat(list(made.member.values()), 1)
        how = stages.merging(made.target, stages.of_target(), target_recipe, member)
        note("target", stages.train("target", made.target, **how))
        return
    for task, network in made.components.items():
        how = stages.merging(network, stages.of_component(task), recipe, made.member[task])
        note(task, stages.train(task, network, **how, test=tests.get(task)))
    how = stages.merging(made.target, stages.of_target(made.components), target_recipe)
    note("target", stages.train("target", made.target, **how))


def _score(made: Customised, sources: dict[str, list[Source]], tests: dict[str, Images], precision: str) -> None:
    """Score every network on each wanted task that it knows."""
    score = lambda network, head, task: accuracy(network, head, tests[task], precision)
    made.metrics["sources"] = {
        task: {source.name: score(source.network, source.head(task), task) for source in several}
        for task, several in sources.items()
    }
    made.metrics["components"] = {task: score(network, slice(None), task) for task, network in made.components.items()}
    made.metrics["target"] = {task: score(made.target, head, task) for task, head in made.heads.items()}
