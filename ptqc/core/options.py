"""The options of ``quantize``, the same on the command line, in ``ptqc.toml`` and in Python."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ptqc.core.types import Precision


@dataclass(frozen=True, slots=True)
class QuantizeOptions:
    """Options of one run; every one has a good default.

    Attributes:
        samples: use at most that many calibration samples; None for all.
        preprocess: what is done to images, such as ``resize=256,crop=224,mean=0.485:0.456:0.406``.
        inputs: what the inputs are, as ``NAME:kind=image,range=0:1``, where no data says it.
        distill: how samples are made without data: ``auto`` (from BatchNormalization's statistics where there are any),
            ``none`` (by rules), or a way to distil: ``batch-norm``, ``batch-norm-noise``, ``sample-norm``, ``class``.
        stats_from: an export of the same network that still has its BatchNormalization nodes.
        calibration_method: ``auto`` (the better of consumer-error and minmax on the calibration data),
            ``consumer-error``, ``mse``, ``minmax``, ``percentile`` or ``entropy``.
        format: ``qdq`` (QuantizeLinear and DequantizeLinear pairs) or ``qoperator`` (QLinear operators).
        prefer: with ``latency``, layers that measure faster in float stay there.
        cpu: the CPU that will run the result; ``avx2`` has 7-bit weights, as it saturates pairs of products.
        keep_float: patterns of nodes that stay in float.
        precision: (pattern, precision) pairs; the last match wins.
        op_types: only these operators may become integer; empty for all.
        rounding: how weights become integers: ``second-order``, ``gptq``, ``nearest``, ``squant``, ``hqq``,
            ``adaround`` or ``block``.
        effort: time spent on rounding: ``fast``, ``default`` or ``best``.
        weight_format: below 8 bits: ``auto`` (by error per byte), ``uniform`` levels or ``codebook``.
        block_size: weights that share a scale where only weights are quantized.
        packing: ``folded`` (decoded once at load, integer kernels run) or ``plain`` (narrow integers right under
            DequantizeLinear, for other runtimes).
        activations: ranges of Gemm and MatMul inputs: fixed, found at run time, or whichever loses less.
        passes: further passes, as ``name`` or ``module:Class[@after=name]``.
        check_passes: check structure, promises and numbers after each pass.
        metric: judge accuracy by ``top1``, ``top5`` or ``module:function``.
        eval_data: held-out samples for the figures; the calibration data without.
        no_measure: do not measure latency, so that the run does not depend on the machine.
        seed: of everything random.
        threads: of the runtime; results do not depend on it.
    """

    samples: int | None = None
    preprocess: str | None = None
    inputs: tuple[str, ...] = ()
    distill: str = "auto"
    stats_from: Path | None = None
    calibration_method: str = "auto"
    format: Literal["qdq", "qoperator"] = "qdq"
    prefer: Literal["accuracy", "latency"] = "accuracy"
    cpu: Literal["native", "vnni", "avx2"] = "native"
    keep_float: tuple[str, ...] = ()
    precision: tuple[tuple[str, Precision], ...] = ()
    op_types: tuple[str, ...] = ()
    rounding: Literal["second-order", "gptq", "nearest", "squant", "hqq", "adaround", "block"] = "second-order"
    effort: Literal["fast", "default", "best"] = "default"
    weight_format: Literal["auto", "uniform", "codebook"] = "auto"
    block_size: int = 32
    packing: Literal["folded", "plain"] = "folded"
    activations: Literal["auto", "static", "dynamic"] = "auto"
    passes: tuple[str, ...] = ()
    check_passes: bool = False
    metric: str | None = None
    eval_data: Path | None = None
    no_measure: bool = False
    seed: int = 0
    threads: int = 1

    def overrides(self) -> dict[str, Any]:
        """Every option that differs from its default, by its name on the command line, as JSON values.

        What cannot change a result (threads, measuring, judging) is left out.
        """
        found: dict[str, Any] = {}
        without_effect = ("threads", "no_measure", "check_passes", "metric", "eval_data")
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default and field.name not in without_effect:
                found[field.name.replace("_", "-")] = _plain(value)
        return found


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, (int, str)) else str(value)
