"""Limits of mixed precision: texts such as ``2MB``, ``60%`` or ``4.5bits``, and the numbers that they stand for."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ptqc.core.cost import CostTable
from ptqc.core.errors import OptionError, nearest, quoted
from ptqc.core.types import FLOAT_BITS

Resource = Literal["size", "latency", "bops", "bits"]

SIZE_UNITS = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
TIME_UNITS = {"us": 1.0, "ms": 1e3, "s": 1e6}  # in microseconds, the unit of cost tables
COUNT_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
BITS_UNITS = {"": 1, "bits": 1}
UNITS: Mapping[str, Mapping[str, float]] = {
    "size": SIZE_UNITS,
    "latency": TIME_UNITS,
    "bops": COUNT_UNITS,
    "bits": BITS_UNITS,
}
EXAMPLES = {
    "size": "2MB, 900KiB, 1500000, 60% or 4.5bits",
    "latency": "3ms, 800us, 0.01s or 40%",
    "bops": "50%, 1.2G or 1200000000",
    "bits": "4.5 or 4.5bits",
}
OF_WHAT = {"size": "the input file", "latency": "the float model's", "bops": "those with 8 bits throughout"}
NUMBER = r"(\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?)"
W8A8_BITS = 8 * 8


@dataclass(frozen=True, slots=True)
class Limit:
    """At most so much of something.

    Attributes:
        resource: ``size`` in bytes of the file, ``latency`` in microseconds, ``bops`` in bit operations for one sample,
            or ``bits``, the mean width of the weights.
        amount: in these units; with ``relative`` a share, 0..1, of the float model's file or latency, or of the bit
            operations with 8 bits throughout.
        text: as the user wrote it.
    """

    resource: Resource
    amount: float
    relative: bool
    text: str


def parse_limit(resource: str, text: str, option: str, *, as_gate: bool = False) -> Limit:
    """A limit as the user wrote it.

    Args:
        resource: ``size`` (``2MB``, ``900KiB``, ``1500000``, ``60%``; ``4.5bits`` becomes a limit of ``bits``),
            ``latency`` (``3ms``, ``800us``, ``0.01s``, ``40%``), ``bops`` (``50%``, ``1.2G``) or ``bits`` (``4.5``).
        option: that it was given to, for messages: ``--max-size``.
        as_gate: a result is judged by it, which may be larger than the float model.

    Raises OptionError for another resource, for text that cannot be read, and for limits that limit nothing or
    everything.
    """
    if resource not in get_args(Resource):
        raise OptionError(f"{option} does not know {quoted(resource)}", fix=nearest(resource, get_args(Resource)))
    given = text.strip()
    if resource == "size" and given.endswith("bits"):
        resource = "bits"
    limit = _parsed(resource, given, option)
    if limit.relative and limit.amount > 1 and not as_gate:
        why = f"100% is {OF_WHAT[resource]}"
        raise OptionError(f"{option} {quoted(given)} limits nothing", why=why, fix="give at most 100%, or leave it out")
    return limit


def parse_limits(texts: Sequence[str], option: str = "--max") -> tuple[Limit, ...]:
    """Limits given as ``NAME=LIMIT`` (``size=8.1MB``), each resource once. OptionError for anything else."""
    limits: list[Limit] = []
    for text in texts:
        name, equals, rest = text.partition("=")
        if not equals:
            raise OptionError(f"{option} {quoted(text)} cannot be read", fix=f"write it like {option} size=2MB")
        if name.strip() not in get_args(Resource):
            fix = nearest(name.strip(), get_args(Resource))
            raise OptionError(f"{option} does not know {quoted(name.strip())}", fix=fix)
        limits.append(parse_limit(name.strip(), rest, f"{option} {name.strip()}="))
    return distinct(limits, option)


def distinct(limits: Sequence[Limit], option: str) -> tuple[Limit, ...]:
    """The limits. OptionError where two are of the same resource: which of them counts would be a guess."""
    seen: dict[str, Limit] = {}
    for limit in limits:
        first = seen.setdefault(limit.resource, limit)
        if first is not limit:
            raise OptionError(
                f"the same limit is given twice: {limit.resource} by {quoted(first.text)} and {quoted(limit.text)}",
                why="it would not be clear which of them holds",
                fix=f"give {option} {limit.resource} once",
            )
    return tuple(limits)


def absolute(limit: Limit, table: CostTable) -> float:
    """The limit in its unit; a relative one refers to the table's float model, or to its nodes with 8 bits.

    Raises OptionError where the table does not know what a limit in per cent refers to.
    """
    if not limit.relative:
        return limit.amount
    whole = {
        "size": table.float_model.bytes,
        "latency": table.float_model.latency_us,
        "bops": _w8a8_bops(table),
    }[limit.resource]
    if whole is None:
        missing = {
            "size": "float_model.bytes, the size of the input file",
            "latency": "float_model.latency_us, the latency of the float model",
            "bops": "the multiply-accumulates or bit operations of every node",
        }[limit.resource]
        absolute_example = {"size": "size=2MB", "latency": "latency=3ms", "bops": "bops=1.2G"}[limit.resource]
        raise OptionError(
            f"the limit {limit.resource} {quoted(limit.text)} cannot be applied",
            why=f"the cost table does not know {missing}",
            fix=f"give an absolute limit ({absolute_example}), or add it to the table",
        )
    return limit.amount * whole


def _parsed(resource: Resource | str, text: str, option: str) -> Limit:
    units = UNITS[resource]
    words = "|".join(sorted((unit for unit in units if unit), key=len, reverse=True))
    share = "|%" if resource in OF_WHAT else ""
    match = re.fullmatch(rf"(-?){NUMBER}\s*({words}{share})?", text)
    unit = "" if match is None else match[3] or ""
    if match is None or (unit != "%" and unit not in units):
        raise _unreadable(resource, text, option)
    number = float(match[2])
    named = f"{option} {quoted(text)}"
    if match[1] or number <= 0:
        raise OptionError(f"{named} leaves nothing", why="a limit is more than 0", fix=f"write {EXAMPLES[resource]}")
    if not math.isfinite(number):
        raise OptionError(f"{named} is too large a number", fix=f"write {EXAMPLES[resource]}, or leave it out")
    found: Resource = resource  # type: ignore[assignment]  # a key of UNITS
    if unit == "%":
        return Limit(found, number / 100, True, text)
    return Limit(found, number * units[unit], False, text)


def _unreadable(resource: str, text: str, option: str) -> OptionError:
    """Says what is wrong with a text: a number without unit, or a unit in the wrong case or of another resource."""
    why, bare = "", re.fullmatch(rf"-?{NUMBER}\s*(\S*)", text)
    if bare is not None and not bare[2]:
        why = f"{resource} needs a unit: {', '.join(unit for unit in UNITS[resource] if unit)}"
    elif bare is not None:
        meant = [unit for unit in UNITS[resource] if unit and unit.lower() == bare[2].lower()]
        known = [unit for unit in (*UNITS[resource], "%" if resource in OF_WHAT else "") if unit]
        why = f"{quoted(bare[2])} is no unit of {resource}: " + (
            f"did you mean {meant[0]}?" if meant else f"valid are {', '.join(known)}"
        )
    return OptionError(f"{option} {quoted(text)} cannot be read", why=why, fix=f"write it like {EXAMPLES[resource]}")


def _w8a8_bops(table: CostTable) -> int | None:
    """Bit operations with 8 bits throughout; None where the multiply-accumulates of a node are not known."""
    if table.float_model.bops is not None:
        return table.float_model.bops * W8A8_BITS // FLOAT_BITS**2
    total = 0
    for costs in table.by_node().values():
        macs = next((cost.macs for cost in costs if cost.macs is not None), None)
        if macs is not None:
            total += macs * W8A8_BITS
            continue
        counted = next((cost for cost in costs if cost.bops is not None), None)
        if counted is None or counted.bops is None:
            return None
        bits = (counted.precision.weight_bits or FLOAT_BITS) * (counted.precision.activation_bits or FLOAT_BITS)
        total += round(counted.bops / bits * W8A8_BITS)
    return total
