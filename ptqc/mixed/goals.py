"""What a mixed-precision model is to keep to: limits of the program, and accuracy that is measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from ptqc.core.errors import OptionError, nearest, quoted
from ptqc.core.limits import Limit, parse_limit
from ptqc.core.options import QuantizeOptions
from ptqc.report.gates import parse_drop
from ptqc.targets.target import Target

DEFAULT_LIMIT = "5bits"  # a file between those of int4 and int8, near the latter in quality
BETWEEN_MODELS = ("agreement", "sqnr", "cosine")  # metrics that one model alone does not have
NAMES = ("size", "latency", "bops", "drop")


@dataclass(frozen=True, slots=True)
class Goals:
    """Limits, and what accuracy may be lost.

    Attributes:
        drop: in the unit of the metric: 0.005 for half a point; None: accuracy is no goal.
    """

    limits: tuple[Limit, ...] = ()
    drop: float | None = None

    @classmethod
    def checked(cls, texts: Mapping[str, str], target: Target, options: QuantizeOptions) -> Self:
        """Reads limits by name. OptionError for what cannot be read, and for targets and options without choice."""
        for name in texts:
            if name not in NAMES:
                raise OptionError(f"there is no limit {quoted(name)}", fix=nearest(name, NAMES))
        if texts and not target.weight_choices:
            raise OptionError(
                f"the target {target.name} leaves no choice that limits could decide",
                fix="use --target mixed, or mixed-integer",
            )
        if texts and options.allocation is not None:
            why = "all choices are made there"
            raise OptionError("limits contradict --allocation", why=why, fix="leave out one of them, or give --table")
        limits = tuple(parse_limit(name, text, f"--max-{name}") for name, text in texts.items() if name != "drop")
        if any(limit.resource == "latency" for limit in limits) and options.no_measure and options.table is None:
            fix = "leave out one of them, or give a --table with latencies"
            raise OptionError("--max-latency contradicts --no-measure", fix=fix)
        drop = parse_drop(texts["drop"]) if "drop" in texts else None
        if drop is not None and options.metric in BETWEEN_MODELS:
            raise OptionError(
                f"--max-drop contradicts --metric {options.metric}",
                why="it compares two models, so that the float model has none that could drop",
                fix="use top1, top5 or module:function, or limit the size",
            )
        if not limits and drop is None:
            limits = (parse_limit("size", DEFAULT_LIMIT, "--max-size"),)
        return cls(limits, drop)
