"""From a cost table and limits to an allocation: which rows are choices, what is limited, what is tied."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from ptqc.allocate.program import Bound, Item, Option, PairTerm, Program, Tie
from ptqc.allocate.reasons import node_reasons
from ptqc.core.allocation import AllocatedNode, Allocation, LimitUse
from ptqc.core.cost import MAKE, SENSITIVITY_METRIC, Cost, CostTable, Pair
from ptqc.core.errors import OptionError, nearest, quoted
from ptqc.core.limits import Limit, absolute
from ptqc.core.types import FLOAT_BITS, NodeChoice

MOST_EXACT = 300  # nodes; above, several limits can take the solver minutes for the last fraction
GAP = 1e-4  # that is enough then: relative to the loss
COSTS = {"size": "bytes", "latency": "latency_us", "bops": "bops"}
Candidates = Mapping[str, Sequence[Cost]]


@dataclass(frozen=True, slots=True)
class Likeness:
    """Nodes whose choices are alike.

    Attributes:
        nodes: their names; those without candidates are left out.
        alike: in the whole ``choice``, in ``precision``, or in the width of ``activations``.
        why: for messages: ``--same-bits layer4,layer6``.
    """

    nodes: tuple[str, ...]
    alike: Literal["choice", "precision", "activations"]
    why: str

    def tie(self, rows: Candidates) -> Tie:
        """The tie of the candidates."""
        labels = {
            "choice": lambda cost: cost.choice,
            "precision": lambda cost: str(cost.precision),
            "activations": lambda cost: str(cost.precision.activation_bits),
        }[self.alike]
        return Tie({name: tuple(map(labels, rows[name])) for name in self.nodes if name in rows}, self.why)


def candidates(table: CostTable, allowed: Mapping[str, Collection[NodeChoice]] | None = None) -> dict[str, list[Cost]]:
    """The rows of each node that are choices, in graph order where ``allowed`` gives one, else in that of the table.

    Args:
        allowed: by node; None: everything that the table has. Rows that do not say how weights are stored need a choice
            of the same precision.

    Raises:
        OptionError: a node has none, or one without sensitivity; there is no node.
    """
    rows = table.by_node()
    names = list(rows) if allowed is None else [name for name in allowed if name in rows]
    found = {}
    for name in names:
        choices = _choices(rows[name])
        if allowed is not None:
            choices = [cost for cost in choices if _is_allowed(cost, allowed[name])]
        if not choices:
            raise OptionError(
                f"the cost table has no admissible choice for {quoted(name)}",
                why="its rows are not among the precisions that the target and the options allow",
                fix="make the table for this target: ptqc sensitivity MODEL --target mixed -o table.json",
            )
        unknown = next((cost for cost in choices if cost.sensitivity is None), None)
        if unknown is not None:
            raise OptionError(
                f"the cost table has no sensitivity of {quoted(name)} at {unknown.choice}",
                fix="every choice needs one; leave out the row if it is none",
            )
        found[name] = choices
    if not found:
        why = (
            "it has no rows" if not rows else "none of its nodes is one that the target and the options leave a choice"
        )
        raise OptionError("the cost table has nothing to choose from", why=why, fix=MAKE)
    return found


def _is_allowed(cost: Cost, allowed: Collection[NodeChoice]) -> bool:
    given = NodeChoice(cost.precision, cost.storage)
    return given in allowed or (cost.storage is None and any(one.precision == cost.precision for one in allowed))


def _choices(rows: Sequence[Cost]) -> list[Cost]:
    """Without the halves of nodes that were measured in halves."""

    def whole(cost: Cost) -> bool:
        return (cost.precision.weight_bits is None) == (cost.precision.activation_bits is None)

    complete = [cost for cost in rows if whole(cost)]
    quantized = any(cost.precision.weight_bits is not None for cost in complete)
    return complete if quantized else [cost for cost in rows if whole(cost) or cost.precision.weight_bits is not None]


def make_program(
    table: CostTable,
    rows: Candidates,
    limits: Sequence[Limit],
    alike: Sequence[Likeness] = (),
    shares: Sequence[tuple[str, float]] = (),
) -> Program:
    """The integer program of the candidates of a table.

    Args:
        rows: of :func:`candidates`.
        alike: nodes that are tied.
        shares: pattern and the part of every limit that its nodes may use, beside the groups of the table.

    Raises:
        OptionError: a limit concerns what the table does not know, a pattern matches no node, or there are parts of no
            limit.
    """
    scale, count = _scales(table, rows), sum(costs[0].weights or 0 for costs in rows.values())
    items = tuple(
        Item(name, tuple(Option(cost.choice, _loss(cost) * scale[name], _costs(cost, limits, count)) for cost in costs))
        for name, costs in rows.items()
    )
    bounds = [_bound(limit, table) for limit in limits]
    if shares and not limits:
        raise OptionError("--share is a part of limits, and there are none", fix="add a limit: --max size=2MB")
    groups = [(group.metric, group.nodes, group.share) for group in table.groups if group.share is not None]
    groups += [(pattern, tuple(matching(pattern, rows, "--share")), share) for pattern, share in shares]
    for name, nodes, share in groups:
        for bound in bounds[: len(limits)]:
            most = share * (bound.most - bound.fixed)
            label = f"{share:.0%} of {bound.label} for {quoted(name)}"
            bounds.append(Bound(bound.resource, most, label, 0.0, frozenset(nodes)))
    pairs = [term for pair in table.pairs for term in _pair_terms(pair, rows, scale, limits)]
    ties = tuple(one.tie(rows) for one in alike if any(name in rows for name in one.nodes))
    return Program(items, tuple(bounds), ties, tuple(pairs))


def _loss(cost: Cost) -> float:
    assert cost.sensitivity is not None  # candidates have one
    return cost.sensitivity


def _scales(table: CostTable, rows: Candidates) -> dict[str, float]:
    """Factors that make losses of groups with different metrics comparable: shares of the greatest loss of a group."""
    factors = dict.fromkeys(rows, 1.0)
    if len({group.metric for group in table.groups}) < 2:
        return factors
    for group in table.groups:
        nodes = [name for name in group.nodes if name in rows]
        greatest = sum(max(_loss(cost) for cost in rows[name]) for name in nodes)
        factors.update(dict.fromkeys(nodes, 1.0 / greatest if greatest > 0 else 1.0))
    return factors


def _costs(cost: Cost, limits: Sequence[Limit], count: int) -> dict[str, float]:
    """By resource; bits as a part of the mean over ``count`` weights. OptionError for what the table does not know."""
    found: dict[str, float] = {}
    for limit in limits:
        if limit.resource == "bits":
            bits = cost.precision.weight_bits or FLOAT_BITS
            value = None if cost.weights is None else cost.weights * bits / max(count, 1)
        else:
            value = getattr(cost, COSTS[limit.resource])
        if value is None:
            what = "number of weights" if limit.resource == "bits" else limit.resource
            raise OptionError(
                f"the cost table has no {what} of {quoted(cost.node)} at {cost.choice}",
                why=f"the limit {limit.resource}={limit.text} needs it",
                fix="measure it with ptqc sensitivity (--latency for latencies), or leave out the limit",
            )
        found[limit.resource] = float(value)
    return found


def _bound(limit: Limit, table: CostTable) -> Bound:
    label = f"{limit.resource}={limit.text}"
    if limit.resource == "bits":
        return Bound("bits", limit.amount, label)
    fixed = {"size": table.rest.bytes, "latency": table.rest.latency_us, "bops": table.rest.bops}[limit.resource]
    return Bound(limit.resource, absolute(limit, table), label, float(fixed or 0.0))


def _pair_terms(pair: Pair, rows: Candidates, scale: Mapping[str, float], limits: Sequence[Limit]) -> list[PairTerm]:
    if pair.first not in rows or pair.second not in rows:
        return []
    first, second = rows[pair.first], rows[pair.second]
    terms = []
    if pair.correlation is not None:
        both = [
            [math.sqrt(_loss(a) * scale[pair.first] * _loss(b) * scale[pair.second]) for b in second] for a in first
        ]
        extra = tuple(tuple(2.0 * pair.correlation * value for value in line) for line in both)
        terms.append(PairTerm(pair.first, pair.second, "loss", extra))
    if pair.boundary_us is not None and any(limit.resource == "latency" for limit in limits):
        lines = [[pair.boundary_us if _is_float(a) != _is_float(b) else 0.0 for b in second] for a in first]
        terms.append(PairTerm(pair.first, pair.second, "latency", tuple(map(tuple, lines))))
    return terms


def _is_float(cost: Cost) -> bool:
    return cost.precision.activation_bits is None


def matching(pattern: str, names: Iterable[str], option: str) -> list[str]:
    """The names that a shell-style pattern matches. OptionError where there are none."""
    known = list(names)
    found = [name for name in known if fnmatchcase(name, pattern)]
    if not found:
        raise OptionError(f"no node matches {quoted(pattern)}", where=option, fix=nearest(pattern, known))
    return found


def same_bits(groups: Sequence[Sequence[str]], names: Collection[str]) -> tuple[Likeness, ...]:
    """Nodes that are to have equal bits, given as groups of patterns. OptionError for patterns of no node."""
    found = []
    for group in groups:
        nodes = dict.fromkeys(name for pattern in group for name in matching(pattern, names, "--same-bits"))
        if len(nodes) < 2:
            fix = "separate names by commas: --same-bits layer4,layer6"
            raise OptionError(f"--same-bits {','.join(group)} names one node only", fix=fix)
        found.append(Likeness(tuple(nodes), "precision", f"--same-bits {','.join(group)}"))
    return tuple(found)


def allocate(
    table: CostTable,
    limits: Sequence[Limit],
    *,
    allowed: Mapping[str, Collection[NodeChoice]] | None = None,
    alike: Sequence[Likeness] = (),
    shares: Sequence[tuple[str, float]] = (),
) -> Allocation:
    """The best choices within the limits, each with its reason.

    Args:
        limits: none leaves every node its best choice.
        allowed: choices by node; None: all of the table.
        alike: nodes that are tied, see :func:`same_bits`.
        shares: pattern and the part of every limit that its nodes may use.

    Raises:
        OptionError: what the table does not know is limited, or a pattern matches no node.
        GateFailed: no choices meet the limits; says which and why.
    """
    from ptqc.allocate.solve import solve

    rows = candidates(table, allowed)
    program = make_program(table, rows, limits, alike, shares)
    solution = solve(program, gap=0.0 if len(rows) <= MOST_EXACT else GAP)
    chosen = {name: rows[name][index] for name, index in solution.chosen.items()}
    decibels = table.measured_on is not None and table.measured_on.metric == SENSITIVITY_METRIC
    reasons = node_reasons(program, rows, solution, decibels=decibels and not table.groups)
    return Allocation(
        graph_hash=table.graph_hash,
        nodes=tuple(_allocated(name, chosen[name], reasons[name]) for name in rows),
        limits=tuple(
            LimitUse(limit.resource, limit.text, bound.most, used)
            for limit, bound, used in zip(limits, program.bounds, solution.used, strict=False)
        ),
        metric=metric_of(table),
        loss=max(solution.loss, 0.0),  # pairs whose errors cancel may predict less than nothing
        bound=max(solution.bound, 0.0),
        solver=solution.solver,
        seconds=solution.seconds,
    )


def _allocated(name: str, cost: Cost, reason: str) -> AllocatedNode:
    numbers = cost.bytes, cost.bops, cost.latency_us
    return AllocatedNode(name, cost.precision, cost.storage, reason, _loss(cost), *numbers)


def metric_of(table: CostTable) -> str:
    """The metric of a table's sensitivities, or of each of its groups; ``given`` where nobody says it."""
    metrics = dict.fromkeys(group.metric for group in table.groups)
    given = "given" if table.measured_on is None else table.measured_on.metric
    return ", ".join(metrics) or given
