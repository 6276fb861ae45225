"""Integer-only models: proofs, accuracy, speed and the two readings of a file, as sections of ``benchmarks.run``.

``python -m benchmarks.run --only integer`` goes on where an earlier run ended; ``--force`` measures everything anew.
"""

from collections.abc import Mapping, Sequence
from functools import partial

from benchmarks import integer_proof, integer_readings, integer_speed
from benchmarks.data_free_subjects import TRAINED_HERE
from benchmarks.int4 import DRAWS, Section
from benchmarks.int4_runs import Say, Variant, measure_runs

ALL = "integer"  # all sections, whose names begin like that
PROOF, SPEED, READINGS = integer_proof.SECTION, integer_speed.SECTION, integer_readings.SECTION
ACCURACY = f"{ALL}-accuracy"
MODELS = (
    "resnet8",
    "resnet20",
    "digits_resnet",
    "digits_mobilenet",
    "digits_vit",
    "efficientnet_lite0",
    "mobilenet_v1_025",
    "squeezenet1_1",
    "resnet56",
)
QUICK = ("digits_resnet",)
FEWER_MULTIPLIER_BITS = (6, 5, 4, 3)
WITH_MULTIPLIERS = ("resnet20", "mobilenet_v1_025")
WITH_READINGS = ("resnet20", "mobilenet_v1_025")
PROVEN_AT_FOUR_BITS = ("resnet8", "resnet20", "digits_resnet")

_KEPT = {"no_measure": True}
INT8 = Variant("int8", _KEPT, target="int8", stored=True)
FREE = Variant("int8-integer", _KEPT, target="int8-integer", stored=True)
POW2 = Variant("int8-integer pow2", {**_KEPT, "scales": "pow2"}, target="int8-integer", stored=True)
INT4 = Variant("int4", _KEPT, target="int4", stored=True)
INT4_FREE = Variant("int4-integer", _KEPT, target="int4-integer", stored=True)


def multiplier_row(bits: int) -> str:
    """Name of the row with multipliers of so many bits; the default has 8."""
    return FREE.name if bits == 8 else f"{FREE.name}, {bits} bits"


def accuracy_rows(name: str, draws: int = DRAWS, quick: bool = False) -> tuple[Variant, ...]:
    """Plain targets beside integer-only ones, on ``draws`` draws of the calibration images where there are several."""
    rows = (INT8, FREE, POW2) if quick else (INT8, FREE, POW2, INT4, INT4_FREE)
    count = 1 if name in TRAINED_HERE else draws
    found = [Variant(row.name, row.options, row.target, draws=count, stored=True) for row in rows]
    if name in WITH_MULTIPLIERS and not quick:
        options = {bits: {**_KEPT, "multiplier_bits": bits} for bits in FEWER_MULTIPLIER_BITS}
        found += [Variant(multiplier_row(bits), options[bits], FREE.target, stored=True) for bits in options]
    return tuple(found)


def proof_rows(name: str, quick: bool = False) -> tuple[Variant, ...]:
    """Both families of scales; four bits on a few models."""
    return (FREE, POW2, INT4_FREE) if name in PROVEN_AT_FOUR_BITS and not quick else (FREE, POW2)


SPEED_ROWS: Mapping[str, Variant] = {row.name: row for row in (INT8, FREE, POW2)}  # the first one is the unit
READING_ROWS: Sequence[Variant] = (integer_readings.ORT, INT8, FREE, POW2)


def sections(draws: int = DRAWS) -> Mapping[str, Section]:
    """The sections by name, the most important first; ``draws`` of calibration images for the accuracy."""

    def accuracy(name: str, quick: bool, say: Say) -> dict[str, object]:
        return measure_runs(ACCURACY, name, accuracy_rows(name, draws, quick), quick, say)

    def proof(name: str, quick: bool, say: Say) -> dict[str, object]:
        return integer_proof.measure(proof_rows(name, quick), name, quick, say)

    return {
        PROOF: Section(PROOF, MODELS, QUICK, proof),
        ACCURACY: Section(ACCURACY, MODELS, QUICK, accuracy),
        SPEED: Section(SPEED, MODELS, QUICK, partial(integer_speed.measure, SPEED_ROWS)),
        READINGS: Section(READINGS, WITH_READINGS, QUICK, partial(integer_readings.measure, READING_ROWS)),
    }


SECTIONS = sections()
