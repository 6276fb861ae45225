"""Mixed precision beside int8, int4, uniform four bits and greedy orders at equal bytes, by draws of calibration data.

Files are judged on all images. Orders are compared with the program's plan on fewer images and without making files: by
the weights that the cost table was made with; of the best order and of one shuffled table a file is made too.
"""

import base64
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.allocation_draw import DECIBELS, PROGRAM, SHUFFLED, TARGET, UNIFORM, Draw, first_images
from benchmarks.allocation_orders import ORDERS, choices_of
from benchmarks.data_free_subjects import LARGE, TRAINED_HERE, calls
from benchmarks.int4_runs import Figures, Network, Runs, Say, Variant, continue_runs, kept_runs, weight_bytes
from benchmarks.integer import INT4, INT8
from benchmarks.scoring import outputs_of
from ptqc.core.errors import DataError, PtqcError
from ptqc.core.types import Array
from ptqc.graph.save import serialize

SECTION = "allocation-accuracy"
MODELS = ("resnet20", "mobilenet_v1_025", "efficientnet_lite0", "resnet8", "resnet56", "squeezenet1_1")
QUICK = ("digits_resnet",)
DRAWS, SHUFFLES = 3, 3
JOINT_IMAGES, LARGE_JOINT_IMAGES, QUICK_JOINT_IMAGES = 1000, 192, 200
MIDDLE, BEST = "middle", "best order"
FILE, JOINT = "file", "joint"


def _row(name: str, plan: str, size: str, judged: str = FILE) -> Variant:
    options = {"no_measure": True, "plan": plan, "size": size, "judged": judged}
    return Variant(name, options, target=TARGET, draws=DRAWS)


def joint_row(plan: str) -> str:
    """Name of the row in which a plan is compared with all others."""
    return f"{JOINT}: {plan}"


MIXED_AT_INT4 = _row("mixed at the bytes of int4", PROGRAM, INT4.name)
MIXED_AT_MIDDLE = _row("mixed midway to int8", PROGRAM, MIDDLE)
UNIFORM_ROW = _row("uniform 4 bits", UNIFORM, "any")
MIXED_AT_UNIFORM = _row("mixed at the bytes of uniform 4 bits", PROGRAM, UNIFORM_ROW.name)
SHUFFLED_PLANS = tuple(f"{SHUFFLED} {seed}" for seed in range(SHUFFLES))
JOINT_ROWS = tuple(
    _row(joint_row(plan), plan, INT4.name, JOINT) for plan in (PROGRAM, *ORDERS, DECIBELS, *SHUFFLED_PLANS)
)
BEST_FILE = Variant(BEST, {**MIXED_AT_INT4.options, "plan": BEST}, target=TARGET)
SHUFFLED_FILE = Variant("shuffled", {**MIXED_AT_INT4.options, "plan": SHUFFLED_PLANS[0]}, target=TARGET)
RIVALS = (*ORDERS, DECIBELS)  # what the program is to beat, and of which the best one gets a file


def rows(name: str, draws: int = DRAWS) -> tuple[Variant, ...]:
    """What is measured of a model in each draw, the most telling first."""
    several = (MIXED_AT_INT4, MIXED_AT_MIDDLE, UNIFORM_ROW, MIXED_AT_UNIFORM, *JOINT_ROWS)
    count = 1 if name in TRAINED_HERE else min(draws, DRAWS)
    given = [Variant(row.name, row.options, row.target, draws=count, stored=True) for row in (INT8, INT4)]
    ours = [Variant(row.name, row.options, row.target, draws=count) for row in several]
    return (*given, *ours, BEST_FILE, SHUFFLED_FILE)


def measure(name: str, quick: bool, say: Say, draws: int = DRAWS) -> dict[str, Any]:
    """One model: ``runs`` (row -> draw -> figures, or why there are none); goes on where an earlier run ended."""
    variants = rows(name, draws)
    with tempfile.TemporaryDirectory(prefix="ptqc-bench-") as folder:
        runner = Runner(name, quick, Path(folder), {} if quick else kept_runs(SECTION, name, variants), say)
        return continue_runs(SECTION, name, variants, quick, say, runner.run, brief)


class Runner:
    """Measures the rows of one model; what rows of a draw share is made once."""

    def __init__(self, name: str, quick: bool, folder: Path, runs: Runs, say: Say) -> None:
        """``runs``: of earlier times, whose sizes others are made for."""
        self._network = Network.of(name, quick, folder)
        self._runs = {row: dict(draws) for row, draws in runs.items()}
        self._say = say
        few = LARGE_JOINT_IMAGES if name in LARGE else JOINT_IMAGES
        self._few = first_images(self._network, QUICK_JOINT_IMAGES if quick else few)
        self._draws: dict[int, Draw] = {}

    def run(self, variant: Variant, draw: int) -> Figures:
        """Figures of one row, or ``refused`` or ``failed`` with the reason."""
        start = time.perf_counter()
        try:
            found = self._measured(variant, draw)
        except PtqcError as error:
            found = {"refused": str(error)}
        found = {"seconds": time.perf_counter() - start, **found}
        self._runs.setdefault(variant.name, {})[str(draw)] = found
        return found

    def _measured(self, variant: Variant, draw: int) -> Figures:
        if "plan" not in variant.options:
            return self._network_run(variant, draw)
        plan, most = variant.options["plan"], self._most(variant.options["size"], draw)
        if plan == BEST:
            plan = self._best_order(draw)
        made = self._draw(draw)
        about: Figures = {"samples": len(made.source), "method": None, "plan": plan}
        if variant.options["judged"] == JOINT:
            taken = made.plan(plan, most)
            got = made.joint(self._few.feeds).outputs(choices_of(taken))
            return {**about, **made.described(taken), **judged(self._few, got)}
        if plan == PROGRAM:
            mixed, told = made.chosen(most)
            data = bytes(serialize(mixed.compiled.model))
        else:
            data, told = made.compiled(plan, most)
        path = self._network.folder / "mixed.onnx"
        path.write_bytes(data)
        return {**about, **told, "table_seconds": made.seconds, **self._of_file(path)}

    def _network_run(self, variant: Variant, draw: int) -> Figures:
        path, result = self._network.file(variant, draw)
        if "refused" in result or "failed" in result:
            return result
        samples = len(next(iter(self._network.calibration(draw).values())))
        return {"method": None, "samples": samples, **result, **self._of_file(path)}

    def _of_file(self, path: Path) -> Figures:
        network = self._network
        stacked = network.subject.batch == "stacked"
        got = outputs_of(path, calls(network.subject, network.feeds), stacked)
        return {**judged(network, got), "bytes": path.stat().st_size, "weight_bytes": weight_bytes(path)}

    def _most(self, size: str, draw: int) -> float:
        """Bytes that a row may take. DataError where the file that it is compared with is not there."""
        if size == "any":
            return float("inf")
        if size == MIDDLE:
            return (self._bytes(INT4.name, draw) + self._bytes(INT8.name, draw)) // 2
        return self._bytes(size, draw)

    def _bytes(self, row: str, draw: int) -> int:
        found = self._runs.get(row, {}).get(str(draw), {})
        if "bytes" not in found:
            raise DataError(f"there is no file of {row} to compare with", why=str(found.get("refused", "")))
        return int(found["bytes"])

    def _best_order(self, draw: int) -> str:
        """The rival with the highest SQNR in the comparison of all."""
        found = {plan: self._runs.get(joint_row(plan), {}).get(str(draw), {}) for plan in RIVALS}
        levels = {plan: one["sqnr_db"] for plan, one in found.items() if one.get("sqnr_db") is not None}
        if not levels:
            raise DataError("no order was measured")
        return max(levels, key=lambda plan: levels[plan])

    def _draw(self, number: int) -> Draw:
        if number not in self._draws:
            self._draws.clear()  # one at a time: each keeps weights of all choices
            self._draws[number] = Draw.of(self._network, number)
            self._say(f"{self._network.subject.name}: table of draw {number}: {self._draws[number].seconds:.0f} s")
        return self._draws[number]


def judged(network: Network, got: Mapping[str, Array]) -> Figures:
    """Figures of outputs, and ``correct``: the bits of the images whose label was found."""
    scores = next(iter(got.values()))
    right = scores.reshape(len(scores), -1).argmax(axis=1) == np.asarray(network.labels).reshape(-1)
    bits = base64.b64encode(np.packbits(right).tobytes()).decode()
    return {**network.scored(got), "correct": bits}


def correct(found: Mapping[str, Any]) -> Array:
    """Whether the top-1 is the label, bool [images]."""
    bits = np.frombuffer(base64.b64decode(found["correct"]), np.uint8)
    return np.unpackbits(bits, count=found["evaluated"]).astype(bool)


def brief(found: Mapping[str, Any]) -> str:
    """The figures of one run."""
    level = "equal" if found["sqnr_db"] is None else f"{found['sqnr_db']:.2f} dB"
    size = found.get("bytes", found.get("predicted_bytes"))
    expected = f", predicted {found['predicted_db']:.2f} dB" if found.get("predicted_db") is not None else ""
    points = 100 * found["top1_difference"]["value"]
    return f"{level}{expected}, agreement {found['agreement']:.2%}, {points:+.2f} points, {size:,} bytes"
