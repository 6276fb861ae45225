"""Whether sums of the latencies of layers predict the latency of whole models: all in integers, in float, mixed."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.data import loader
from benchmarks.markdown import table
from ptqc.allocate.place import place
from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import input_specs
from ptqc.compile import canonicalise, restrictions_of
from ptqc.core.options import QuantizeOptions
from ptqc.core.types import KEPT_FLOAT
from ptqc.execute.latency import measure_ratio
from ptqc.graph.load import import_model
from ptqc.mixed.latency import measure_latencies, predict
from ptqc.prefer import Trials
from ptqc.targets.registry import find_target

SECTION = "allocation-latency"
MODELS = ("resnet20", "mobilenet_v1_025", "squeezenet1_1", "efficientnet_lite0")
MOST_ERROR = 0.1  # by issue 12
SECONDS = 0.5  # to time one graph against the one in integers
TRIES, QUICK_TRIES = (
    7,
    1,
)  # sessions: the float MobileNetV1 takes 1.16 to 1.42 times as long, as its memory happens to lie
SEED = 1
INTEGER, FLOAT = "all in integers", "all in float"
Say = Callable[[str], None]


def selected(quick: bool) -> tuple[str, ...]:
    """The models of this section."""
    return MODELS[:1] if quick else MODELS


def plans(layers: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Layers in float by plan: a tenth and a quarter of them drawn, the last third."""
    rng = np.random.default_rng(SEED)
    drawn = {
        f"{share:.0%} in float": tuple(name for name in layers if rng.random() < share) or tuple(layers[:1])
        for share in (0.1, 0.25)
    }
    return {INTEGER: (), FLOAT: tuple(layers), **drawn, "last third in float": tuple(layers[-(len(layers) // 3) :])}


def measure(name: str, quick: bool, say: Say) -> dict[str, Any]:
    """One model: ``latencies`` (plan -> layers in float, predicted and measured microseconds), ``seconds`` they took.

    Both are of the graph in integers, with which each plan was run in turn, times a ratio: a shared machine is slower
    at one time than at another. The ratio is the mean over several sessions. ``drift`` is by how much the machine was
    slower than when layers were measured.
    """
    loaded, options, target = import_model(loader().path(name)), QuantizeOptions(), find_target("mixed")
    canonicalise(loaded.model, target, options)
    source = open_source(dict(loader().calib(name, 1)), input_specs(loaded.model))
    feeds = next(iter(source.batches(1))).feeds
    restrictions = restrictions_of(options)
    trials = Trials(loaded.model, target, restrictions, options)
    choices = dict.fromkeys(place(loaded.model, target, restrictions).nodes, (KEPT_FLOAT,))
    start = time.perf_counter()
    costs = measure_latencies(loaded.model, target, choices, restrictions, options, feeds, lambda *_: None)
    seconds = time.perf_counter() - start
    say(f"{name}: {len(costs.integer_us)} layers in {seconds:.0f} s")
    integer, ratios, references = trials.lowered(()), {}, []
    wanted = plans(trials.layers())
    for plan, in_float in wanted.items():
        trial = trials.lowered(in_float)
        found = [measure_ratio(integer, trial, feeds, 1, SECONDS) for _ in range(QUICK_TRIES if quick else TRIES)]
        references += [one.first.median_us for one in found]
        ratios[plan] = statistics.fmean(1.0 / one.ratio for one in found)
    reference = statistics.median(references)
    scale = reference / predict(costs, ())
    return {
        "latencies": {
            plan: {
                "layers": len(in_float),
                "predicted": predict(costs, in_float) * scale,
                "measured": ratios[plan] * reference,
            }
            for plan, in_float in wanted.items()
        },
        "drift": scale - 1,
        "nodes": len(costs.integer_us),
        "pairs": len(costs.pairs),
        "seconds": seconds,
    }


def error(found: Mapping[str, float]) -> float:
    """Of a prediction, relative to what was measured."""
    return found["predicted"] / found["measured"] - 1


def detail(records: Mapping[str, Any]) -> str:
    """One row a model and plan."""
    rows = [
        [
            name,
            plan,
            f"{found['layers']} of {records[name]['nodes']}",
            f"{found['predicted'] / 1e3:.2f} ms",
            f"{found['measured'] / 1e3:.2f} ms",
            f"{error(found):+.1%}",
            "yes" if abs(error(found)) <= MOST_ERROR else "no",
        ]
        for name in sorted(records, key=MODELS.index)
        for plan, found in records[name]["latencies"].items()
    ]
    heads = ("model", "plan", "layers in float", "predicted", "measured", "error", f"within {MOST_ERROR:.0%}")
    return table(heads, rows)


def brief(record: Mapping[str, Any]) -> str:
    """One line."""
    parts = [f"{plan} {error(found):+.1%}" for plan, found in record["latencies"].items()]
    return f"latency predicted: {', '.join(parts)}; {record['seconds']:.0f} s"
