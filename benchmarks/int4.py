"""Four bits and below: which models, widths, methods and formats are measured, as sections of ``benchmarks.run``.

``python -m benchmarks.run --only int4`` goes on where an earlier run ended; ``--force`` measures everything anew.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import int4_elsewhere, int4_text
from benchmarks.int4_runs import INT8, Say, Variant, measure_runs, precision

ALL = "int4"  # all sections, whose names begin like that
IMAGES, WIDTHS, METHODS, DATA_FREE, FORMATS, TEXT = (
    f"{ALL}-{part}" for part in ("images", "widths", "methods", "data-free", "formats", "text")
)
MODELS = ("resnet20", "resnet56", "efficientnet_lite0", "mobilenet_v1_025", "squeezenet1_1", "resnet8")
QUICK_MODEL = "resnet8"
DRAWS = 3
QUICK_TO_MAKE = ("resnet20", "resnet8")  # three draws of everything

# Rows whose names the tables and verdicts use.
OURS, NEAREST, ORT = "w4a8", "w4a8 nearest", "onnxruntime int4"
REAL, MADE = "real data", "without data"
UNIFORM, CODEBOOK, AUTO = "uniform", "codebook", "auto"
DEFAULT_METHOD = "second-order"

WIDTH_ROWS = ("w8a8", "w6a8", "w5a8", "w4a8", "w3a8", "w2a8", "w4a4")
QUICK_WIDTHS = ("w8a8", "w4a8", "w2a8")
METHOD_OPTIONS: Mapping[str, Mapping[str, str]] = {
    DEFAULT_METHOD: {},
    "second-order, fast": {"effort": "fast"},
    "second-order, best": {"effort": "best"},
    "second-order, uniform": {"weight_format": "uniform"},
    "second-order, codebook": {"weight_format": "codebook"},
    "gptq": {"rounding": "gptq"},
    "squant": {"rounding": "squant"},
    "hqq": {"rounding": "hqq"},
    "nearest": {"rounding": "nearest"},
    "adaround": {"rounding": "adaround"},
    "block": {"rounding": "block"},
    "block, best": {"rounding": "block", "effort": "best"},
}
QUICK_METHODS = (DEFAULT_METHOD, "squant", "nearest")


def images(name: str, quick: bool) -> tuple[Variant, ...]:
    """W4A8 beside int8, nearest rounding and onnxruntime's int4 weights."""
    theirs = {"method": "MinMax", "per_channel": True, "weights": "QInt4"}
    return (
        Variant(INT8.name, target=INT8.target, draws=DRAWS if name in QUICK_TO_MAKE else 1, timed=True),
        Variant(OURS, draws=DRAWS, timed=True),
        Variant(NEAREST, {"rounding": "nearest"}, timed=True),
        *(() if quick else (Variant(ORT, theirs, tool="onnxruntime", timed=True),)),
    )


def widths(name: str, quick: bool) -> tuple[Variant, ...]:
    """Bits of the weights; at 8 bits the int8 target, which rounds by second moments too."""
    draws = DRAWS if name in QUICK_TO_MAKE else 1
    return tuple(
        Variant(row, {"no_measure": True}, target="int8", draws=draws)
        if row == "w8a8"
        else Variant(row, precision(row, no_measure=True), draws=draws)
        for row in (QUICK_WIDTHS if quick else WIDTH_ROWS)
    )


def methods(name: str, quick: bool) -> tuple[Variant, ...]:
    """W4A8 with every way of rounding."""
    rows = QUICK_METHODS if quick else tuple(METHOD_OPTIONS)
    return tuple(Variant(row, {"no_measure": True, **METHOD_OPTIONS[row]}) for row in rows)


def data_free(name: str, quick: bool) -> tuple[Variant, ...]:
    """W4A8 on real images and on samples that ptqc makes."""
    draws = 1 if name == "efficientnet_lite0" else DRAWS
    options = {"no_measure": True}
    return Variant(REAL, options, draws=draws), Variant(MADE, options, draws=draws, real=False)


def formats(name: str, quick: bool) -> tuple[Variant, ...]:
    """Uniform levels around four bits, codebooks, and what the tool chooses."""
    uniform = [
        Variant(f"{UNIFORM} {bits}", precision(f"w{bits}a8", weight_format=UNIFORM, no_measure=True))
        for bits in ((4, 5) if quick else (3, 4, 5, 6))
    ]
    chosen = [Variant(row, {"weight_format": row, "no_measure": True}) for row in (CODEBOOK, AUTO)]
    return (*uniform, *chosen)


@dataclass(frozen=True, slots=True)
class Section:
    """Models of one section and what is measured of each."""

    name: str
    models: Sequence[str]
    quick: Sequence[str]
    measure: Callable[[str, bool, Say], dict[str, Any]]

    def selected(self, quick: bool) -> tuple[str, ...]:
        """The models that are measured."""
        return tuple(self.quick if quick else self.models)


Variants = Callable[[str, bool], tuple[Variant, ...]]
# The models and rows of the sections on images.
RUNS: Mapping[str, tuple[Sequence[str], Variants]] = {
    IMAGES: (MODELS, images),
    WIDTHS: (MODELS, widths),
    METHODS: (("resnet20",), methods),
    DATA_FREE: (("resnet20", "resnet56", "resnet8", "efficientnet_lite0"), data_free),
    FORMATS: (("resnet20", "resnet56", "squeezenet1_1"), formats),
}


def _section(name: str) -> Section:
    models, variants = RUNS[name]

    def measure(model: str, quick: bool, say: Say) -> dict[str, Any]:
        found = measure_runs(name, model, variants(model, quick), quick, say)
        return found | ({"elsewhere": int4_elsewhere.published(model)} if name == IMAGES else {})

    return Section(name, models, (QUICK_MODEL,), measure)


SECTIONS: Mapping[str, Section] = {
    **{name: _section(name) for name in RUNS},
    TEXT: Section(TEXT, int4_text.MODELS, int4_text.QUICK, int4_text.measure),
}
