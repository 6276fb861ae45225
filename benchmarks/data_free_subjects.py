"""What calibration without data is measured on: models with real samples, and the sources of samples to compare."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import images, zoo
from benchmarks.data import REPOSITORY, halves, loader
from ptqc.calibrate.contract import InputContract, Kind
from ptqc.calibrate.distillation.settings import BATCH_NORM, PROCEDURAL, SAMPLE_NORM
from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import input_specs
from ptqc.calibrate.synthesis.assemble import procedural_info, synthesize
from ptqc.calibrate.synthesis.info import SyntheticInfo
from ptqc.core.options import QuantizeOptions
from ptqc.core.types import Array
from ptqc.data import CalibrationData, calibration_data, limits_of, made_up
from ptqc.graph.load import LoadedModel

Feeds = Mapping[str, Array]

# The sources, in the order of the tables.
REAL, DEFAULT, WITH_MIX, MIX, ZEROQ, NORMAL, UNIFORM = (
    "real data",
    "without data",
    "distilled and mix",
    "mix",
    "ZeroQ's loss",
    "N(0,1)",
    "uniform",
)
SOURCES = (REAL, DEFAULT, WITH_MIX, MIX, ZEROQ, NORMAL, UNIFORM)
NEED_STATISTICS = (WITH_MIX, MIX, ZEROQ)  # without statistics the default is the mix

OWN = ("digits_resnet", "digits_mobilenet")
TRAINED_HERE = (*OWN, "digits_vit")
DIGITS = REPOSITORY / "models"
# What a user would say where the card of a model has nothing that `--preprocess` takes.
SAID = {"mnist_cntk": "mean=0,std=1,scale=1", **dict.fromkeys(TRAINED_HERE, "mean=0.3054,std=0.3189,scale=255")}
LARGE = ("efficientnet_lite0", "squeezenet1_1", "mobilenet_v1_025", "mobilenet_v1_025-folded")
SEEDS, REAL_SAMPLES, NOISE_SAMPLES, EVALUATED = 3, 256, 64, 2000
# Samples and steps of ZeroQ's loss: its own 500 steps, fewer where they would take many minutes.
ZEROQ_EFFORT = {"resnet56": (32, 200), "efficientnet_lite0": (8, 100), "mobilenet_v1_025": (16, 150)}
ZEROQ_DEFAULT, ZEROQ_ZOO = (32, 500), (8, 100)


@dataclass(frozen=True, slots=True)
class Subject:
    """A model, what a user would say of it, and its real samples.

    Attributes:
        calibration, evaluation: arrays by input name, first axis = sample.
        batch: ``dynamic``, ``one`` or ``stacked`` (the first axis of the arrays is none of the model's).
        classifies: the first output holds class scores.
    """

    name: str
    path: Path
    options: QuantizeOptions
    calibration: Feeds
    evaluation: Feeds
    batch: str
    classifies: bool

    @property
    def labelled(self) -> bool:
        """One of the models whose accuracy is published: every source is drawn several times."""
        return self.name in images.MODELS

    @property
    def seeds(self) -> int:
        """How many sets are drawn from a source."""
        return SEEDS if self.labelled else 1

    def seeds_of(self, source: str) -> range:
        """Sources that are there for comparison only get one seed where a run takes long."""
        once = source == ZEROQ or (source in (NORMAL, UNIFORM) and self.name in LARGE)
        return range(1 if once else self.seeds)


def subjects() -> tuple[str, ...]:
    """Names of all: labelled images, small trained models of our own, and the zoo."""
    return (*images.MODELS, *OWN, *zoo.models())


def subject(name: str, quick: bool) -> Subject:
    """The subject of that name; ``quick``: with little data."""
    options = QuantizeOptions(no_measure=True, threads=2, preprocess=SAID.get(name))
    if name in TRAINED_HERE:
        calibration, evaluated = ({"image": _digits(part, "image")} for part in ("calib", "test"))
        return Subject(name, DIGITS / f"{name}.onnx", options, calibration, evaluated, "dynamic", True)
    data = loader()
    card = data.card(name)
    labelled = name in images.MODELS
    count = (images.QUICK_EVALUATION if quick else EVALUATED) if labelled else zoo.IMAGES
    calibration, (evaluated, _) = data.calib(name), data.evalset(name, count)
    if card["data"]["calib"] == card["data"]["eval"] and card["data"]["calib"].endswith(".npz"):
        calibration, evaluated = halves(data.calib(name))  # one file serves both
    elif not labelled:
        calibration = {key: array[: zoo.IMAGES] for key, array in calibration.items()}
    options = replace(options, preprocess=options.preprocess or preprocessing(card))
    return Subject(name, data.path(name), options, calibration, evaluated, card["batch"], labelled)


def evaluation(subject: Subject, count: int | None = None) -> tuple[Feeds, Array]:
    """The first ``count`` images to judge on, all of them where it is None, and their labels."""
    if subject.name in TRAINED_HERE:
        return {"image": _digits("test", "image")[:count]}, _digits("test", "labels")[:count]
    feeds, labels = loader().evalset(subject.name, count)
    return feeds, labels


def calls(subject: Subject, feeds: Feeds, batch: int = 50) -> Iterator[Feeds]:
    """``feeds`` as the model takes them, ``batch`` samples a call where it takes several."""
    if subject.name not in TRAINED_HERE:
        yield from loader().runs(subject.name, feeds, batch)
        return
    for start in range(0, len(next(iter(feeds.values()))), batch):
        yield {name: array[start : start + batch] for name, array in feeds.items()}


def _digits(part: str, name: str) -> Array:
    with np.load(DIGITS / f"digits_{part}.npz", allow_pickle=False) as file:
        return np.asarray(file[name])


def preprocessing(card: Mapping[str, Any]) -> str | None:
    """The card's preprocessing as ``--preprocess`` takes it; None where the inputs are no images."""
    steps = card["preprocess"]
    if "mean" not in steps:
        return None
    parts = {key: ":".join(map(str, steps[key])) for key in ("mean", "std")}
    parts["scale"] = str(steps.get("divide", 255))
    if steps.get("channels"):
        parts["color"] = {"Y": "GRAY"}.get(steps["channels"], steps["channels"])
    return ",".join(f"{key}={value}" for key, value in parts.items())


def calibration_of(
    subject: Subject, source: str, seed: int, loaded: LoadedModel, contracts: Sequence[InputContract]
) -> CalibrationData:
    """The samples of a source, to be used as ptqc would use them: real and random ones like a user's own data."""
    options = replace(subject.options, seed=seed)
    if source == DEFAULT:
        return calibration_data(None, loaded, options, _silent)
    if source == REAL:
        return _as_given(real_samples(subject, seed), loaded)
    if source in (NORMAL, UNIFORM):
        return _as_given(noise(contracts, source, seed, loaded), loaded)
    if source == MIX:
        return calibration_data(None, loaded, replace(options, distill=PROCEDURAL), _silent)
    if source == WITH_MIX:
        return _united(options, loaded)
    return _with_info(*zeroq(subject, loaded, contracts, seed), loaded)


def real_samples(subject: Subject, seed: int) -> Feeds:
    """A random choice that leaves at least a quarter out; all of them where only one set is drawn."""
    have = len(next(iter(subject.calibration.values())))
    if not subject.labelled:
        return subject.calibration
    chosen = np.random.default_rng([seed, 3]).permutation(have)[: min(REAL_SAMPLES, have * 3 // 4)]
    return {name: array[np.sort(chosen)] for name, array in subject.calibration.items()}


def noise(contracts: Sequence[InputContract], kind: str, seed: int, loaded: LoadedModel) -> Feeds:
    """NOISE_SAMPLES samples of white noise; uniform ids for tokens; what is no signal as ptqc makes it."""
    feeds = dict(synthesize(contracts, NOISE_SAMPLES, seed, loaded.model))
    for index, contract in enumerate(contracts):
        rng = np.random.default_rng([seed, 4, index])
        shape, dtype = (NOISE_SAMPLES, *contract.sample_shape), contract.dtype
        if contract.kind is Kind.TOKENS:
            feeds[contract.name] = rng.integers(0, contract.vocabulary, shape).astype(dtype)
        elif contract.kind in (Kind.IMAGE, Kind.AUDIO, Kind.SPECTRUM, Kind.STATE, Kind.VECTOR):
            feeds[contract.name] = _white(contract, kind, rng, shape).astype(dtype)
    return feeds


def _white(contract: InputContract, kind: str, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    if kind == NORMAL:
        return rng.standard_normal(shape, np.float32)
    low, high = (
        np.asarray(limits or (default,), np.float32) for limits, default in ((contract.low, -1.0), (contract.high, 1.0))
    )
    if len(low) > 1:
        low, high = (one.reshape(-1, *[1] * (len(shape) - 2)) for one in (low, high))
    return low + (high - low) * rng.random(shape, np.float32)


def zeroq(
    subject: Subject, loaded: LoadedModel, contracts: Sequence[InputContract], seed: int
) -> tuple[Feeds, SyntheticInfo]:
    """Samples by ZeroQ's loss as it was published, at ZEROQ_EFFORT."""
    from ptqc.calibrate.distillation.distill import distill
    from ptqc.passes.base import PassContext
    from ptqc.passes.pipeline import canonical_passes, run_passes

    canonical = loaded.model.clone()
    run_passes(canonical, canonical_passes(), PassContext())
    usual = ZEROQ_DEFAULT if subject.classifies else ZEROQ_ZOO
    samples, steps = ZEROQ_EFFORT.get(subject.name, usual)
    found = distill(canonical, contracts, replace(SAMPLE_NORM, samples=samples, steps=steps), seed)
    info = procedural_info(contracts, samples, seed)
    made = replace(info, source="distilled", method=SAMPLE_NORM.method, losses=found.losses, steps=found.steps)
    return found.arrays, made


def _united(options: QuantizeOptions, loaded: LoadedModel) -> CalibrationData:
    """Distilled samples and those made by rules, as ptqc unites them where distillation does not converge."""
    distilled, _ = made_up(loaded, options, BATCH_NORM.method, None, options.seed, _silent)
    rules, _ = made_up(loaded, options, PROCEDURAL, None, options.seed, _silent)
    arrays = {name: np.concatenate([array, rules.arrays[name]]) for name, array in distilled.arrays.items()}
    return _with_info(arrays, distilled.info, loaded)


def _with_info(arrays: Feeds, info: SyntheticInfo, loaded: LoadedModel) -> CalibrationData:
    source = open_source(dict(arrays), input_specs(loaded.model))
    return CalibrationData(source, info, limits_of(info))


def _as_given(feeds: Feeds, loaded: LoadedModel) -> CalibrationData:
    return CalibrationData(open_source(dict(feeds), input_specs(loaded.model)))


def _silent(stage: str, done: int, total: int) -> None:
    pass
