"""The cost table: what each node costs at each precision, which allocation weighs up."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self, get_args

from ptqc.core.errors import OptionError, nearest, quoted
from ptqc.core.plain import check_keys, from_plain, reason, to_plain
from ptqc.core.types import Precision, WeightFormat

COST_VERSION = 2
SENSITIVITY_METRIC = "relative squared error"  # noise power of all outputs of the model / their signal power

Origin = Literal["measured", "modelled", "given"]
_WHOLE = ("weights", "bytes", "bops", "macs")
NUMBERS = ("sensitivity", *_WHOLE, "latency_us")
GREATEST = 1e30  # of any number: sums and products of such are finite
FACTS = ("graph_hash", "measured_on", "pairs", "rest", "float_model", "groups")  # of a table, beside its rows
MAKE = "make it with ptqc sensitivity MODEL -o table.json, or by docs/cost-table.md"
READ_ERRORS = (KeyError, TypeError, ValueError, ArithmeticError, AttributeError, OptionError)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one node costs with one choice of precision and storage; None where it is not known.

    Attributes:
        node: name in the canonical float graph.
        precision: the choice; the other nodes stay in float.
        storage: of the weights; None where they are float, or the table does not say.
        sensitivity: loss of the model, in the metric of the table.
        weights: how many there are.
        bytes: in the file: of the constants (codes, codebooks, scales, bias) and of the nodes that decode them.
        bops: bit operations for one sample: MACs times the bits of both factors, 32 for float.
        macs: multiply-accumulates for one sample.
        latency_us: of the node on the target.
        origin: of each number that is known, by the name of its attribute.
    """

    node: str
    precision: Precision
    storage: WeightFormat | None = None
    sensitivity: float | None = None
    weights: int | None = None
    bytes: int | None = None
    bops: int | None = None
    macs: int | None = None
    latency_us: float | None = None
    origin: Mapping[str, Origin] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = [name for name in NUMBERS if getattr(self, name) is not None]
        for name in known:
            number = getattr(self, name)
            if isinstance(number, bool) or not 0 <= number <= GREATEST:
                raise ValueError(f"{name} of {quoted(self.node)} must be a number from 0 on, at most {GREATEST:g}")
            if name in _WHOLE and not isinstance(number, int):
                raise ValueError(f"{name} of {quoted(self.node)} must be a whole number")
        if sorted(self.origin) != sorted(known) or not all(one in get_args(Origin) for one in self.origin.values()):
            raise ValueError(f"{quoted(self.node)} must say where each of its numbers comes from")
        if 0 in (self.precision.weight_bits, self.precision.activation_bits):
            raise ValueError(f"{quoted(self.node)} cannot have 0 bits")
        if self.storage is not None and self.storage.bits != self.precision.weight_bits:
            raise ValueError(f"{quoted(self.node)} cannot store {self.precision} as {self.storage}")

    @property
    def choice(self) -> str:
        """The choice in words: ``w4a8``, ``w4a8 codebook4``."""
        return str(self.precision) if self.storage is None else f"{self.precision} {self.storage}"

    def to_json(self) -> dict[str, Any]:
        """Plain data; numbers that are not known are left out."""
        numbers = {name: getattr(self, name) for name in self.origin}
        storage = {} if self.storage is None else {"storage": str(self.storage)}
        return {"node": self.node, "precision": str(self.precision), **storage, **numbers, "origin": dict(self.origin)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_json`; without ``origin`` numbers count as given.

        Raises KeyError, TypeError, ValueError or OptionError for anything else.
        """
        check_keys(data, ("node", "precision", "storage", "origin", *NUMBERS), "an entry")
        if not isinstance(data["node"], str) or not isinstance(data["precision"], str):
            raise TypeError("node must be a name, and precision text like w4a8")
        numbers = {name: _number(name, data[name]) for name in NUMBERS if data.get(name) is not None}
        storage = None if data.get("storage") is None else WeightFormat.parse(data["storage"])
        origin = data.get("origin", dict.fromkeys(numbers, "given"))
        return cls(data["node"], Precision.parse(data["precision"]), storage, origin=origin, **numbers)


@dataclass(frozen=True, slots=True)
class Pair:
    """What two nodes cost together beside the sum of what each costs.

    Attributes:
        first, second: names, of nodes that follow each other.
        correlation: of the errors that they cause at the outputs, -1..1: together they add twice this times the
            geometric mean of their sensitivities. None where it was not measured.
        boundary_us: latency of the conversions where one of them is in float and the other is not; None likewise.
    """

    first: str
    second: str
    correlation: float | None = None
    boundary_us: float | None = None

    def __post_init__(self) -> None:
        if self.first == self.second:
            raise ValueError(f"{quoted(self.first)} is paired with itself")
        if self.correlation is not None and not -1 <= self.correlation <= 1:
            raise ValueError(f"the correlation of {quoted(self.first)} and {quoted(self.second)} must lie in -1..1")
        _check_amount("boundary_us", self.boundary_us)


@dataclass(frozen=True, slots=True)
class Whole:
    """Of a whole model: what is in no row of its table, or the float model that limits in per cent refer to.

    Attributes:
        bytes: of the file.
        latency_us: of one run. That of the rest may be below zero: where nodes in float save more than all that they
            cost in integers.
        bops: bit operations for one sample; of the float model with 32 bits throughout.
    """

    bytes: int | None = None
    latency_us: float | None = None
    bops: int | None = None

    def __post_init__(self) -> None:
        _check_amount("bytes", self.bytes)
        _check_amount("bops", self.bops)
        _check_amount("latency_us", None if self.latency_us is None else abs(self.latency_us))


def _check_amount(name: str, value: float | None) -> None:
    if value is not None and not 0 <= value <= GREATEST:
        raise ValueError(f"{name} must be a number from 0 on, at most {GREATEST:g}")


def _number(name: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number")
    return value if name in _WHOLE else float(value)


@dataclass(frozen=True, slots=True)
class MeasuredOn:
    """The data on which sensitivities were measured.

    Attributes:
        description: for people.
        digest: of its content; empty where it is not known.
        samples: how many were used.
        metric: what a sensitivity is.
    """

    description: str
    digest: str
    samples: int
    metric: str = SENSITIVITY_METRIC


@dataclass(frozen=True, slots=True)
class MetricGroup:
    """Nodes whose sensitivities are in one metric, apart from those of other groups (MixDQ, ECCV 2024).

    Attributes:
        nodes: their names.
        metric: what their sensitivities are.
        share: of every limit that these nodes may use, 0..1; None: what the others leave.
    """

    nodes: tuple[str, ...]
    metric: str
    share: float | None = None

    def __post_init__(self) -> None:
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError("the share of a group must be more than 0 and at most 1")


@dataclass(frozen=True, slots=True)
class CostTable:
    """Costs by node and choice.

    A node whose rows include some with both factors quantized is measured in halves too: its rows with float weights
    or float activations are sensitivities of one factor alone, and no choices.

    Attributes:
        graph_hash: of the canonical float graph whose nodes these are.
        costs: at most one for each node and choice; kept sorted by them.
        measured_on: where sensitivities were measured, None where there are none.
        pairs: of neighbouring nodes, where they were measured.
        rest: of what is quantized but in no row.
        float_model: of the model as it was handed in.
        groups: where nodes were measured in different metrics; empty where all are in that of ``measured_on``.
    """

    graph_hash: str
    costs: tuple[Cost, ...]
    measured_on: MeasuredOn | None = None
    pairs: tuple[Pair, ...] = ()
    rest: Whole = Whole()
    float_model: Whole = Whole()
    groups: tuple[MetricGroup, ...] = ()

    def __post_init__(self) -> None:
        costs = tuple(sorted(self.costs, key=_key))
        for one, other in pairwise(costs):
            if _key(one) == _key(other):
                raise ValueError(f"{quoted(one.node)} has more than one entry for {one.choice}")
        _check_amount("latency_us of float_model", self.float_model.latency_us)
        object.__setattr__(self, "costs", costs)

    def find(self, node: str, precision: Precision, storage: WeightFormat | None = None) -> Cost | None:
        """The cost of a node with a choice, None where the table does not have it."""
        wanted = node, precision, storage
        return next((cost for cost in self.costs if (cost.node, cost.precision, cost.storage) == wanted), None)

    def by_node(self) -> dict[str, tuple[Cost, ...]]:
        """The costs of each node."""
        found: dict[str, list[Cost]] = {}
        for cost in self.costs:
            found.setdefault(cost.node, []).append(cost)
        return {node: tuple(costs) for node, costs in found.items()}

    def to_json(self) -> dict[str, Any]:
        """Plain data with a version field."""
        measured = self.measured_on
        return {
            "version": COST_VERSION,
            "graph_hash": self.graph_hash,
            "measured_on": None if measured is None else asdict(measured),
            "costs": [cost.to_json() for cost in self.costs],
            "pairs": to_plain(self.pairs),
            "rest": to_plain(self.rest),
            "float_model": to_plain(self.float_model),
            "groups": to_plain(self.groups),
        }

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Reads what :meth:`to_json` wrote, or what somebody else made by docs/cost-table.md.

        Raises OptionError for another version, and for damaged or foreign data.
        """
        if not isinstance(data, dict) or "costs" not in data:
            raise OptionError("this is no cost table", fix=MAKE)
        if data.get("version") != COST_VERSION:
            why = f"this ptqc reads version {COST_VERSION}"
            raise OptionError(f"the cost table has version {quoted(data.get('version'))}", why=why, fix=MAKE)
        try:
            check_keys(data, ("version", "costs", *FACTS), "the table")
            if not isinstance(data["costs"], list):
                raise TypeError("graph_hash must be text, and costs a list")
            return cls.of_facts(tuple(_entry(number, one) for number, one in enumerate(data["costs"])), data)
        except READ_ERRORS as error:
            raise OptionError("the cost table is damaged", why=reason(error), fix=MAKE) from error

    @classmethod
    def of_facts(cls, costs: "tuple[Cost, ...]", facts: Mapping[str, Any]) -> Self:
        """A table of rows and plain data for everything else, which may be missing. Raises READ_ERRORS."""
        if not isinstance(facts.get("graph_hash", ""), str):
            raise TypeError("graph_hash must be text, and costs a list")
        table = cls(
            facts.get("graph_hash", ""),
            costs,
            _measured_on(facts.get("measured_on")),
            tuple(from_plain(Pair, one) for one in facts.get("pairs", ())),
            from_plain(Whole, facts.get("rest", {})),
            from_plain(Whole, facts.get("float_model", {})),
            tuple(from_plain(MetricGroup, one) for one in facts.get("groups", ())),
        )
        _check_names(table)
        return table

    def text(self) -> str:
        """The table as JSON text; equal tables give equal text."""
        return json.dumps(self.to_json(), indent=1, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Reads what :meth:`text` wrote. Raises OptionError for anything else."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise OptionError("this is no cost table", why=f"it is no JSON: {error}") from error
        return cls.from_json(data)

    @classmethod
    def load(cls, path: Path) -> "CostTable":
        """The table in a file: CSV where its name ends so, JSON otherwise. Raises OptionError for anything else."""
        from ptqc.core.cost_csv import load_table  # which builds on this module

        return load_table(path)


def _key(cost: Cost) -> tuple[str, str, str]:
    return cost.node, str(cost.precision), str(cost.storage or "")


def _entry(number: int, data: Any) -> Cost:
    """A row of a table, with its number in what is wrong with it."""
    try:
        if not isinstance(data, dict):
            raise TypeError("it must be an object")
        return Cost.from_json(data)
    except READ_ERRORS as error:
        raise ValueError(f"costs[{number}]: {reason(error)}") from error


def _check_names(table: CostTable) -> None:
    """ValueError where pairs and groups speak of nodes that have no row, or speak of one twice."""
    rows = table.by_node()
    paired = [(pair.first, pair.second) for pair in table.pairs]
    grouped = [name for group in table.groups for name in group.nodes]
    for name in (*(name for names in paired for name in names), *grouped):
        if name not in rows:
            raise ValueError(f"the node {quoted(name)} of a pair or group has no entry: {nearest(name, list(rows))}")
    if len(set(grouped)) < len(grouped):
        raise ValueError("a node is in more than one group")
    if len({frozenset(names) for names in paired}) < len(paired):
        raise ValueError("two nodes are paired more than once")


def _measured_on(data: Any) -> MeasuredOn | None:
    if data is None:
        return None
    found = from_plain(MeasuredOn, data)
    if found.samples < 1:
        raise ValueError("samples must be a whole number from 1 on")
    return found
