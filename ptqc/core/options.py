"""The options of ``quantize``, the same on the command line, in ``ptqc.toml`` and in Python."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ptqc.core.errors import OptionError
from ptqc.core.types import Precision

BLOCK_SIZES = (16, 32, 64, 128, 256)  # that the kernels on packed weights take
WITHOUT_CODEBOOKS = ("nearest", "squant", "hqq")  # ways of rounding that know even levels only


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
        format: ``qdq`` (QuantizeLinear and DequantizeLinear pairs), ``qoperator`` (QLinear operators), or, for
            integer-only targets, ``portable`` (integer operators of the ONNX standard).
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
        scales: of activations in integer-only models: ``free``, or ``pow2``, powers of two, on which all engines agree.
        multiplier_bits: of the multipliers of integer-only models, 3 to 8.
        io: whether an integer-only model takes and gives real numbers (``float``) or codes (``integer``).
        allow_float: patterns of nodes that may stay in float in an integer-only model.
        sensitivity: metrics of mixed targets, as ``METRIC`` or ``PATTERN=METRIC[:SHARE]``: ``noise``, ``kl``,
            ``hessian``, ``fisher``, ``relevance`` or ``module:function``; noise by default.
        same_bits: groups of patterns whose nodes get equal bits in mixed targets.
        table: cost table of this model to choose precisions by, made by ``ptqc sensitivity`` or anyone.
        allocation: precisions of all nodes, made by ``ptqc allocate``.
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
    format: Literal["qdq", "qoperator", "portable"] = "qdq"
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
    scales: Literal["free", "pow2"] = "free"
    multiplier_bits: int = 8
    io: Literal["float", "integer"] = "float"
    allow_float: tuple[str, ...] = ()
    sensitivity: tuple[str, ...] = ()
    same_bits: tuple[tuple[str, ...], ...] = ()
    table: Path | None = None
    allocation: Path | None = None
    passes: tuple[str, ...] = ()
    check_passes: bool = False
    metric: str | None = None
    eval_data: Path | None = None
    no_measure: bool = False
    seed: int = 0
    threads: int = 1

    def check(self, *, integer_only: bool = False, mixed: bool = False) -> None:
        """OptionError where options contradict each other or no kernel takes them; needs neither model nor data.

        Args:
            integer_only: whether the target is; some options are for these targets, some are not.
            mixed: whether the target chooses precisions; likewise.
        """
        given = [name for name in ("sensitivity", "same_bits", "table", "allocation") if getattr(self, name)]
        if given and not mixed:
            option = f"--{given[0].replace('_', '-')}"
            raise OptionError(f"{option} is for targets that choose precisions", fix="add --target mixed")
        if self.allocation is not None and len(given) > 1:
            option = f"--{next(name for name in given if name != 'allocation').replace('_', '-')}"
            why = "all choices are made there"
            raise OptionError(f"{option} contradicts --allocation", why=why, fix="leave it out")
        if self.prefer == "latency" and self.no_measure:
            raise OptionError("--prefer latency contradicts --no-measure", fix="leave out one of them")
        if self.packing == "plain" and self.format == "qoperator":
            raise OptionError(
                "--packing plain contradicts --format qoperator",
                why="QLinear operators take weights of 8 bits only",
                fix="leave out one of them",
            )
        if self.weight_format == "codebook":
            self._check_codebooks()
        if not 3 <= self.multiplier_bits <= 8:
            raise OptionError(
                f"multipliers of {self.multiplier_bits} bits are not available",
                where="--multiplier-bits",
                fix="use 3 to 8",
            )
        self._check_target(integer_only)
        if self.block_size not in BLOCK_SIZES:
            raise OptionError(
                f"blocks of {self.block_size} weights are not available",
                where="--block-size",
                why="the kernels take powers of two",
                fix=f"use {', '.join(map(str, BLOCK_SIZES[:-1]))} or {BLOCK_SIZES[-1]}",
            )

    def _check_target(self, integer_only: bool) -> None:
        """OptionError for options of the other kind of target."""
        mine = {
            "--format portable": self.format == "portable",
            "--scales": self.scales != "free",
            "--multiplier-bits": self.multiplier_bits != 8,
            "--io": self.io != "float",
            "--allow-float": bool(self.allow_float),
        }
        others = {
            "--keep-float": bool(self.keep_float),
            "--op-types": bool(self.op_types),
            "--activations dynamic": self.activations == "dynamic",
            "--packing plain": self.packing == "plain",
            "--prefer latency": self.prefer == "latency",
            **{
                f"--precision {pattern}={precision}": None in (precision.weight_bits, precision.activation_bits)
                for pattern, precision in self.precision
            },
        }
        given = [name for name, there in (others if integer_only else mine).items() if there]
        if given and integer_only:
            packing = given[0] == "--packing plain"
            raise OptionError(
                f"{given[0]} contradicts an integer-only target",
                why="the proof is about folded weights" if packing else "everything between entry and exit is integer",
                fix="leave it out" if packing else "use --allow-float NODE for an island of float, or --target int8",
            )
        if given:
            raise OptionError(
                f"{given[0]} is for integer-only targets", fix="add --target int8-integer, or leave it out"
            )

    def _check_codebooks(self) -> None:
        if self.packing == "plain":
            raise OptionError(
                "--weight-format codebook contradicts --packing plain",
                why="DequantizeLinear knows even levels only",
                fix="leave out one of them",
            )
        if self.rounding in WITHOUT_CODEBOOKS:
            raise OptionError(
                f"--weight-format codebook contradicts --rounding {self.rounding}",
                why="this way of rounding knows even levels only",
                fix="use --weight-format uniform, or --rounding second-order",
            )

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
