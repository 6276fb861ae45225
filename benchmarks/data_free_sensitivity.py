"""Sensitivities of weights at 4 bits from distilled data, ranked beside those from real data."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from benchmarks.data_free_subjects import NORMAL, Feeds, Subject, noise, subject
from benchmarks.scoring import spearman
from ptqc.calibrate.distillation.settings import AUTO, BATCH_NORM_NOISE
from ptqc.core.types import Precision
from ptqc.data import made_up
from ptqc.graph.load import LoadedModel, import_model
from ptqc.sensitivity import sensitivity

MODELS = ("resnet20", "efficientnet_lite0")
LEAST = 0.88  # of the correlation with real data, by issue 9
BITS = 4
SAMPLES = {"resnet20": 64, "efficientnet_lite0": 24}  # of real data and noise: half a pass for each of 22 or 82 nodes
SEEDS = {"resnet20": 3, "efficientnet_lite0": 1}
SECOND, DISTILLED, DEFAULT, CONTROL = "other real data", "distilled for sensitivities", "distilled by default", NORMAL
Say = Callable[[str], None]


def measure(name: str, quick: bool, say: Say) -> dict[str, Any]:
    """One model: ``correlations`` (set -> Spearman with real data for each seed), ``nodes`` and ``samples``."""
    known, count = subject(name, quick=True), 8 if quick else SAMPLES[name]
    loaded = import_model(known.path)
    real = {key: array[:count] for key, array in known.calibration.items()}
    reference = _errors(known, real)
    sets: dict[str, list[Feeds]] = {
        SECOND: [{key: array[count : 2 * count] for key, array in known.calibration.items()}]
    }
    seeds = range(1 if quick else SEEDS[name])
    for label, method in ((DISTILLED, BATCH_NORM_NOISE.method), (DEFAULT, AUTO)):
        sets[label] = [_made(known, loaded, method, seed) for seed in seeds]
    sets[CONTROL] = [_noise(known, loaded, seed, count) for seed in seeds]
    correlations, used = {}, {}
    for label, members in sets.items():
        correlations[label] = [_alike(reference, _errors(known, feeds)) for feeds in members]
        used[label] = len(next(iter(members[0].values())))
        say(f"{name}: {label}: {', '.join(f'{value:.3f}' for value in correlations[label])}")
    return {"nodes": len(reference), "samples": {"real data": count, **used}, "correlations": correlations}


def _alike(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    return spearman(list(first.values()), [second[node] for node in first])


def _errors(known: Subject, feeds: Feeds) -> dict[str, float]:
    """Relative squared error of the outputs by node, its weights alone at BITS."""
    options = replace(known.options, samples=None, preprocess=None)
    table = sensitivity(known.path, dict(feeds), weight_bits=(BITS,), activation_bits=(), options=options)
    return {cost.node: cost.sensitivity or 0.0 for cost in table.costs if cost.precision == Precision(BITS, None)}


def _made(known: Subject, loaded: LoadedModel, method: str, seed: int) -> Feeds:
    synthetic, _ = made_up(loaded, known.options, method, None, seed, lambda stage, done, total: None)
    return synthetic.arrays


def _noise(known: Subject, loaded: LoadedModel, seed: int, count: int) -> Feeds:
    _, contracts = made_up(loaded, known.options, "none", 1, seed, lambda stage, done, total: None)
    return {name: array[:count] for name, array in noise(contracts, NORMAL, seed, loaded).items()}
