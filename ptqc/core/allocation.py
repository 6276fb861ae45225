"""The allocation: which precision and storage each node gets under limits, what that costs, and why."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from ptqc.core.errors import OptionError, quoted
from ptqc.core.plain import check_keys, from_plain, reason, to_plain
from ptqc.core.types import Precision, WeightFormat

ALLOCATION_VERSION = 1
MAKE = "make it with ptqc allocate TABLE --max size=2MB -o plan.json"
ROUNDING = 1e-9  # of correlations
NODE_COSTS = ("sensitivity", "bytes", "bops", "latency_us")


@dataclass(frozen=True, slots=True)
class AllocatedNode:
    """What one node gets.

    Attributes:
        node: name in the canonical float graph.
        precision, storage: the choice; no storage where the weights are float, or the table did not say.
        reason: a sentence for people.
        sensitivity: predicted loss of this choice; bytes, bops, latency_us: its costs; None where they are not known.
    """

    node: str
    precision: Precision
    storage: WeightFormat | None
    reason: str
    sensitivity: float
    bytes: int | None = None
    bops: int | None = None
    latency_us: float | None = None

    def __post_init__(self) -> None:
        numbers = (getattr(self, name) for name in NODE_COSTS)
        if not all(number is None or (math.isfinite(number) and number >= 0) for number in numbers):
            raise ValueError(f"the costs of {quoted(self.node)} must be numbers from 0 on")
        if 0 in (self.precision.weight_bits, self.precision.activation_bits):
            raise ValueError(f"{quoted(self.node)} cannot have 0 bits")
        if self.storage is not None and self.storage.bits != self.precision.weight_bits:
            raise ValueError(f"{quoted(self.node)} cannot store {self.precision} as {self.storage}")

    @property
    def choice(self) -> str:
        """The choice in words: ``w4a8``, ``w4a8 codebook4``."""
        return str(self.precision) if self.storage is None else f"{self.precision} {self.storage}"

    def to_json(self) -> dict[str, Any]:
        """Plain data; costs that are not known are left out."""
        storage = {} if self.storage is None else {"storage": str(self.storage)}
        costs = {name: getattr(self, name) for name in NODE_COSTS if getattr(self, name) is not None}
        return {"node": self.node, "precision": str(self.precision), **storage, **costs, "reason": self.reason}

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """The inverse of :meth:`to_json`; ``node`` and ``precision`` suffice.

        Raises KeyError, TypeError, ValueError or OptionError for anything else.
        """
        if not isinstance(data, dict):
            raise TypeError("it must be an object")
        check_keys(data, ("node", "precision", "storage", "reason", *NODE_COSTS), "it")
        node, precision, words = data["node"], data["precision"], data.get("reason", "")
        if not all(isinstance(text, str) for text in (node, precision, words)):
            raise TypeError("node, precision and reason must be text")
        storage = None if data.get("storage") is None else WeightFormat.parse(data["storage"])
        costs = {name: data[name] for name in NODE_COSTS if data.get(name) is not None}
        if any(isinstance(cost, bool) or not isinstance(cost, int | float) for cost in costs.values()):
            raise TypeError("costs must be numbers")
        if not all(isinstance(costs.get(name, 0), int) for name in ("bytes", "bops")):
            raise TypeError("bytes and bops must be whole numbers")
        return cls(node, Precision.parse(precision), storage, words, **{"sensitivity": 0.0, **costs})


@dataclass(frozen=True, slots=True)
class LimitUse:
    """A limit and what the allocation uses of it, in bytes, bit operations, microseconds or bits of a weight.

    Attributes:
        resource: ``size``, ``latency``, ``bops`` or ``bits``.
        text: as the user wrote it.
        most: of the whole model.
        used: by prediction.
    """

    resource: str
    text: str
    most: float
    used: float

    def __post_init__(self) -> None:
        _check_amounts("a limit", self.most, self.used)


@dataclass(frozen=True, slots=True)
class Additivity:
    """How well sums of sensitivities predict what several nodes lose together.

    Attributes:
        assignments: that were drawn and measured.
        spearman: rank correlation of predicted and measured loss.
        pearson: correlation of their logarithms.
        ratio: geometric mean of measured / predicted loss.
        spread: standard deviation of the logarithm (base 10) of that ratio.
        greatest: loss that was measured; predictions beyond it are extrapolated.
        pairs: neighbouring nodes for which a correlation of their errors entered the prediction.
    """

    assignments: int
    spearman: float
    pearson: float
    ratio: float
    spread: float
    greatest: float
    pairs: int = 0

    def __post_init__(self) -> None:
        _check_amounts("additivity", self.assignments, self.ratio, self.spread, self.greatest, self.pairs)
        if not all(-1 - ROUNDING <= one <= 1 + ROUNDING for one in (self.spearman, self.pearson)):
            raise ValueError("a correlation must lie in -1..1")


@dataclass(frozen=True, slots=True)
class Allocation:
    """Choices for all nodes of a table, with the proof of how good they are.

    Attributes:
        graph_hash: of the canonical float graph.
        nodes: in the order of the graph, or of the table.
        limits: that were kept.
        metric: of ``loss`` and sensitivities.
        loss: predicted for the whole model.
        bound: no choice within the limits has less predicted loss.
        solver: name and version.
        seconds: that it took.
        additivity: how far the prediction is to be trusted; None where it was not measured.
    """

    graph_hash: str
    nodes: tuple[AllocatedNode, ...]
    limits: tuple[LimitUse, ...]
    metric: str
    loss: float
    bound: float
    solver: str
    seconds: float
    additivity: Additivity | None = None

    def __post_init__(self) -> None:
        _check_amounts("losses and seconds", self.loss, self.bound, self.seconds)

    @property
    def gap(self) -> float:
        """Greatest relative amount by which another choice could be better."""
        return 0.0 if self.loss <= self.bound else (self.loss - self.bound) / self.loss

    def to_json(self) -> dict[str, Any]:
        """Plain data with a version field."""
        return {
            "version": ALLOCATION_VERSION,
            "graph_hash": self.graph_hash,
            "nodes": [node.to_json() for node in self.nodes],
            "limits": to_plain(self.limits),
            **{name: to_plain(getattr(self, name)) for name in _PROOF},
            "additivity": to_plain(self.additivity),
        }

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Reads what :meth:`to_json` wrote, or a list of nodes with their precisions made by anyone.

        Raises OptionError for another version, and for damaged or foreign data.
        """
        if not isinstance(data, dict) or "nodes" not in data:
            raise OptionError("this is no allocation", fix=MAKE)
        if data.get("version") != ALLOCATION_VERSION:
            why = f"this ptqc reads version {ALLOCATION_VERSION}"
            raise OptionError(f"the allocation has version {quoted(data.get('version'))}", why=why, fix=MAKE)
        try:
            return cls._read(data)
        except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError, OptionError) as error:
            raise OptionError("the allocation is damaged", why=reason(error), fix=MAKE) from error

    @classmethod
    def _read(cls, data: Mapping[str, Any]) -> Self:
        check_keys(data, ("version", "graph_hash", "nodes", "limits", *_PROOF, "additivity"), "the allocation")
        nodes, graph_hash = data["nodes"], data.get("graph_hash", "")
        if not isinstance(nodes, list) or not isinstance(graph_hash, str):
            raise TypeError("graph_hash must be text, and nodes a list")
        found = tuple(_node(number, one) for number, one in enumerate(nodes))
        twice = [name for name, count in Counter(node.node for node in found).items() if count > 1]
        if twice:
            raise ValueError(f"{quoted(twice[0])} is there twice")
        proof = {name: data.get(name, default) for name, default in _PROOF.items()}
        for name, value in proof.items():
            text = isinstance(_PROOF[name], str)
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if isinstance(value, str) != text or not (text or number):
                raise TypeError(f"{name} must be {'text' if text else 'a number'}")
        limits = tuple(from_plain(LimitUse, one) for one in data.get("limits", ()))
        additivity = None if data.get("additivity") is None else from_plain(Additivity, data["additivity"])
        return cls(graph_hash, found, limits, **proof, additivity=additivity)

    def text(self) -> str:
        """The allocation as JSON text; equal ones give equal text."""
        return json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Reads what :meth:`text` wrote. Raises OptionError for anything else."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise OptionError("this is no allocation", why=f"it is no JSON: {error}", fix=MAKE) from error
        return cls.from_json(data)


def _check_amounts(what: str, *numbers: float) -> None:
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise ValueError(f"the numbers of {what} must be from 0 on")


_PROOF: Mapping[str, float | str] = {"metric": "", "loss": 0.0, "bound": 0.0, "solver": "", "seconds": 0.0}


def _node(number: int, data: Any) -> AllocatedNode:
    try:
        return AllocatedNode.from_json(data)
    except (KeyError, TypeError, ValueError, ArithmeticError, OptionError) as error:
        raise ValueError(f"nodes[{number}]: {reason(error)}") from error
