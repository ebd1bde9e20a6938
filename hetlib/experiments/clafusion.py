"""The experiments of CLAFusion's released scripts, as data; what each trains, as jobs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hetlib.clafusion.fusion import Fusion
from hetlib.errors import unknown
from hetlib.experiments.clafusion_perceptrons import perceptrons
from hetlib.lab.cache import Cache
from hetlib.lab.job import Job
from hetlib.lab.presets import SEEDS
from hetlib.lab.train import start, train_all
from hetlib.merging import Ensemble
from hetlib.training import DistilFrom, Recipe, evaluate
from hetlib.zoo.plain import VGG11_HALF, VGG13_DOUB, VGG13_STUDENT

Network = tuple[str, Mapping[str, Any]]
PLAIN = {"bn": False, "bias": False}
HALVES = tuple(range(30, 300, 30))

RESNET = Recipe(300, 256, lr=0.1, weight_decay=1e-4, schedule="steps", milestones=(150, 250))
VGG = Recipe(300, 128, lr=0.05, weight_decay=5e-4, schedule="steps", milestones=HALVES, gamma=0.5)
TUNED = {"epochs": 120, "milestones": (20, 40, 60, 80, 100), "gamma": 0.5}


@dataclass(frozen=True)
class Experiment:
    """Networks that are trained, fused, and trained on.

    Attributes
    ----------
    networks : tuple of (name, options)
        For `hetlib.zoo.build`, the deepest first.
    result : (name, options)
        What the fused network is.
    data : str
        Name for `hetlib.data.load`.
    recipe, finetune : Recipe
        Of the parents, and of what is trained on.
    distil : bool
        Whether the scripts distil as well.
    hmt : bool
        Whether they transfer by HMT as well.
    naive : bool
        Whether the networks have equal widths, so that they have an average without transport.
    data_options : dict
        For `hetlib.data.load` of the training images.
    """

    networks: tuple[Network, ...]
    result: Network
    data: str
    recipe: Recipe
    finetune: Recipe
    distil: bool = False
    hmt: bool = False
    naive: bool = False
    data_options: dict[str, Any] = field(default_factory=dict)

    def reduced(self, width: float, data: str, recipe: Recipe, finetune: Recipe, **data_options: Any) -> "Experiment":
        """The same experiment with narrower networks, other data and shorter trainings.

        The networks get batch norm: without it these need dozens of epochs before they learn anything.
        """

        def shrink(network: Network) -> Network:
            name, options = network
            return name, dict(options) | {"width": options.get("width", 1.0) * width, "bn": True}

        return replace(
            self,
            networks=tuple(map(shrink, self.networks)),
            result=shrink(self.result),
            data=data,
            recipe=recipe,
            finetune=finetune,
            data_options=data_options,
        )


R34, R18, HALF18, HALF34 = (
    (name, PLAIN | options)
    for name, options in (
        ("resnet34", {}),
        ("resnet18", {}),
        ("resnet18", {"width": 0.5}),
        ("resnet34", {"width": 0.5}),
    )
)
TEACHER, STUDENT, DEEPER = (
    (name, PLAIN | {"widths": widths})
    for name, widths in (("vgg13", VGG13_DOUB), ("vgg11", VGG11_HALF), ("vgg13", VGG13_STUDENT))
)
RESNET_ON, VGG_ON = RESNET.changed(**TUNED), VGG.changed(lr=0.01, **TUNED)

EXPERIMENTS = {
    "resnet-cifar10": Experiment((R34, R18), R34, "cifar10", RESNET, RESNET_ON, hmt=True, naive=True),
    "resnet-cifar100": Experiment((R34, R18), R34, "cifar100", RESNET, RESNET_ON, hmt=True, naive=True),
    "four": Experiment((R34, R18, R34, R18), R34, "cifar100", RESNET, RESNET_ON, naive=True),
    "six": Experiment((R34, R18) * 3, R34, "cifar100", RESNET, RESNET_ON, naive=True),
    "vgg-student": Experiment((TEACHER, STUDENT), DEEPER, "cifar10", VGG, VGG_ON, distil=True),
    "resnet-student": Experiment((R34, HALF18), HALF34, "cifar100", RESNET, RESNET_ON, distil=True),
}
ALPHAS = (0.05, 0.1, 0.5, 0.7, 0.95, 0.99)
TEMPERATURES = (20, 10, 8, 4, 1)
HMT_ARMS = {
    "hmt": {"hmt": "only"},
    "hmt chain": {"hmt": "only", "order": "chain"},
    "hmt random": {"hmt": "only", "order": "random"},
    "hmt average": {"hmt": "average"},
    "hmt transport": {"hmt": "transport"},
    "hmt add": {"hmt": "add"},
}


def find(name: str) -> Experiment | None:
    """One of `EXPERIMENTS` by name, or "none"; another name raises a ValueError that tells the nearest."""
    if name != "none" and name not in EXPERIMENTS:
        raise unknown("experiment", name, [*EXPERIMENTS, "none"])
    return EXPERIMENTS.get(name)


def parents(experiment: Experiment, seed: int) -> list[Job]:
    """The trainings of an experiment's networks; the same network twice starts from another seed."""
    jobs: list[Job] = []
    for name, options in experiment.networks:
        twins = sum(job.model == name for job in jobs)
        jobs.append(_job(experiment, (name, options), experiment.recipe, seed + 100 * twins))
    return jobs


def _job(experiment: Experiment, network: Network, recipe: Recipe, seed: int, **fed: Any) -> Job:
    name, options = network
    where, few = experiment.data, experiment.data_options
    return Job(model=name, options=dict(options), data=where, data_options=few, recipe=recipe, seed=seed, **fed)


def arms(
    experiment: Experiment, seed: int, alphas: Sequence[float] = (), temperatures: Sequence[float] = ()
) -> dict[str, Job]:
    """What an experiment trains on, by name: the fused network, its rivals, and its baselines.

    Parameters
    ----------
    experiment : Experiment
        One of `EXPERIMENTS`, or a reduced one.
    seed : int
        Of parents and finetuning alike.
    alphas, temperatures : sequences of float
        The grid of distillation, where the experiment has one: from the deep network into the shallow one, from
        scratch and pretrained, and into the fused network.

    Returns
    -------
    dict of str to Job
        "fused", "deep" and "shallow" (the parents, trained on), "aligned" (the shallow one, balanced), and as the
        experiment has them "naive", the variants of HMT, and "distilled ...".
    """
    born = parents(experiment, seed)
    first, second = born[:2]

    def tuned(network: Network, *sources: Job, **how: Any) -> Job:
        fed = {"sources": sources, "transfer": Fusion(how)} if sources else {}
        return _job(experiment, network, experiment.finetune, seed, **fed)

    found = {
        "fused": tuned(experiment.result, *born),
        "deep": tuned(experiment.networks[0], first),
        "shallow": tuned(experiment.networks[1], second),
        "aligned": tuned(experiment.result, second),
    }
    if experiment.naive:
        found["naive"] = tuned(experiment.result, *born, scheme="naive")
    if experiment.hmt:
        shapes = {"hmt add": experiment.result}
        found |= {
            name: tuned(shapes.get(name, experiment.networks[0]), first, second, **how)
            for name, how in HMT_ARMS.items()
        }
        found["hmt from scratch"] = tuned(experiment.networks[0], second, hmt="only")
    if experiment.distil:
        starts = {"scratch": tuned(experiment.networks[1]), "pretrained": found["shallow"], "fused": found["fused"]}
        for alpha in alphas:
            for temperature in temperatures:
                taught = DistilFrom(first, alpha, temperature)
                found |= {
                    f"distilled {start}, alpha {alpha}, T {temperature}": replace(job, objective=taught)
                    for start, job in starts.items()
                }
    return found


def at_preset(name: str, preset: str, width: float = 0.0, epochs: int = 0) -> Experiment | None:
    """An experiment as a preset runs it: whole, narrower on the paper's data, or narrower on rendered shapes.

    Parameters
    ----------
    name : str
        One of `EXPERIMENTS`, or "none".
    preset : {"smoke", "classroom", "reduced", "paper"}
        How big.
    width : float
        Of every hidden layer, as a factor, at "reduced"; 0 takes an eighth.
    epochs : int
        Of the parents at "reduced", and half as many to train on; 0 takes 6.

    Returns
    -------
    Experiment or None
        None for "none".
    """
    experiment = find(name)
    if experiment is None or preset == "paper":
        return experiment
    if preset == "reduced":
        first = Recipe(epochs or 6, lr=0.1, schedule="one-cycle")
        then = first.changed(epochs=max(1, first.epochs // 2), lr=0.05)
        return experiment.reduced(width or 1 / 8, experiment.data, first, then)
    first = Recipe(1 if preset == "smoke" else 8, lr=0.05, schedule="one-cycle")
    then = first.changed(epochs=max(1, first.epochs // 2), lr=0.025)
    return experiment.reduced(1 / 8, "shapes-source", first, then, count=256 if preset == "smoke" else 3000)


def all_arms(experiment: Experiment | None, preset: str, seeds: Sequence[int]) -> dict[int, dict[str, Job]]:
    """The `arms` of every seed, with the whole grid of distillation at the paper's preset and one point elsewhere."""
    grid = (ALPHAS, TEMPERATURES) if preset == "paper" else ((0.7,), (4,))
    return {} if experiment is None else {seed: arms(experiment, seed, *grid) for seed in seeds}


def jobs(preset: str, seeds: Sequence[int] | None = None, name: str = "vgg-student") -> dict[Any, Job]:
    """All trainings of notebook 02 at a preset, seeds by default the preset's own."""
    chosen = range(SEEDS[preset]) if seeds is None else seeds
    found: dict[Any, Job] = dict(perceptrons(preset, chosen))
    every = all_arms(at_preset(name, preset), preset, chosen)
    return found | {(arm, seed): job for seed, by_arm in every.items() for arm, job in by_arm.items()}


def outcomes(
    experiment: Experiment, arms: Mapping[int, Mapping[str, Job]], cache: Cache, device: str = "cpu"
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Train what an experiment trains, parents and arms.

    Parameters
    ----------
    experiment : Experiment
        As `arms` took it.
    arms : mapping of int to mapping of str to Job
        For each seed what `arms` gave.
    cache : Cache
        Where results are kept.
    device : str
        Where to train.

    Returns
    -------
    before, after : dict of str to list of float
        Test accuracy in percent, one per seed: of "parent_a", "parent_b", ..., of their "ensemble" and of
        "fused/one-shot" and, where there is one, "naive/one-shot"; and of each arm after its last epoch.
    """
    flat = [job for found in arms.values() for job in found.values()]
    results = dict(zip(map(id, flat), train_all(flat, cache, device), strict=True))
    before: dict[str, list[float]] = {}
    for seed, found in arms.items():
        born = train_all(parents(experiment, seed), cache, device)
        test = found["fused"].load("test")
        shown = {f"parent_{letter}": parent.history.final for letter, parent in zip("abcdef", born, strict=False)}
        shown["ensemble"] = evaluate(Ensemble([parent.model for parent in born]), test)["top1"]
        for arm in ("fused", "naive"):
            if arm in found:
                shown[f"{arm}/one-shot"] = evaluate(start(found[arm], cache), test)["top1"]
        for name, score in shown.items():
            before.setdefault(name, []).append(score)
    names = next(iter(arms.values()), {})
    after = {arm: [results[id(found[arm])].history.final for found in arms.values()] for arm in names}
    return before, after
