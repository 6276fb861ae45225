"""Bytes as really stored: what every choice takes in the file that will be written, found by making such files.

The graph is lowered with made-up codes, once for each way to store weights, and taken apart.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import onnx_ir as ir

from ptqc.allocate.restrict import Restrictions
from ptqc.core.options import QuantizeOptions
from ptqc.core.plan import QuantPlan
from ptqc.core.types import FLOAT, KEPT_FLOAT, NodeChoice, WeightFormat
from ptqc.graph.linear import linear_parts
from ptqc.mixed.entries import FileBytes, file_bytes
from ptqc.mixed.made_up import MadeUp
from ptqc.targets.target import Target

COMMON = 1 / 3  # of all weights share something: then it is in nearly every file
MOST_TRIALS = 24  # files with nodes in float

Choices = Mapping[str, Sequence[NodeChoice]]


@dataclass(frozen=True, slots=True)
class StoredCosts:
    """What nodes take in the file, and how much they compute.

    Attributes:
        rest: bytes of the file that belong to no node.
        bytes: node -> choice -> bytes. Weights that several nodes read count at the first one in the graph.
        weights: node -> how many it has; 0 where an earlier node counts them.
    """

    rest: int
    bytes: Mapping[str, Mapping[NodeChoice, int]]
    weights: Mapping[str, int]

    def predicted(self, assignment: Mapping[str, NodeChoice]) -> int:
        """Bytes of the file with these choices of all nodes."""
        return self.rest + sum(self.bytes[node][choice] for node, choice in assignment.items())


def stored_costs(
    canonical: ir.Model,
    target: Target,
    choices: Choices,
    options: QuantizeOptions,
    restrictions: Restrictions | None = None,
    plan: QuantPlan | None = None,
) -> StoredCosts:
    """Bytes of every choice, such that their sum and the rest are those of the file that these choices will make.

    What some nodes share in the file (shapes for their decoders) is divided among them; what many do is in the rest, so
    that files are rather smaller than predicted. A node in float saves
    conversions of what it reads and writes where its neighbours are integer.

    Args:
        canonical: the canonical float graph; stays unchanged.
        choices: of linear nodes with constant weights, at least one with integer weights for each.
        restrictions: of the user.
        plan: of ``canonical`` with the final parameters of activations; where it is None, these are made up.

    Raises ModelError where an integer-only graph has no admissible scales.
    """
    ways = _Ways(canonical, target, choices, options, restrictions or Restrictions())
    owned = _owned(canonical, choices)
    counted, rest = _by_storage(ways, frozenset(owned.values()), plan)
    stored: dict[str, dict[NodeChoice, int]] = {}
    for node, found in choices.items():
        base = ways.base[node]
        sizes = counted.get(owned.get(node, ""), {})
        own = {choice: sizes.get(choice.storage or base.storage, 0) + ways.beyond(node, choice) for choice in found}
        saved = min(0, *own.values())  # in float, where its conversions take more than its weights: integers have them
        stored[node] = {choice: size - saved for choice, size in own.items()}
        rest += saved
    return StoredCosts(rest, stored, _weights(canonical, choices, owned))


def _by_storage(
    ways: "_Ways", names: frozenset[str], plan: QuantPlan | None
) -> tuple[dict[str, dict[WeightFormat | None, int]], int]:
    """Each of these ``names`` of weights -> storage -> bytes, and the bytes of the file beside them."""
    made_up = MadeUp.of(
        ways.canonical, ways.target, ways.options, replace(ways.restrictions, allocated=ways.base), plan
    )
    files: dict[WeightFormat, FileBytes] = {}
    for storage in dict.fromkeys(choice.storage for given in ways.choices.values() for choice in given):
        if storage is not None:
            having = [node for node, given in ways.choices.items() if any(one.storage == storage for one in given)]
            files[storage] = _apart(made_up, dict.fromkeys(having, storage))
    common = {
        shared.key: shared.bytes
        for file in files.values()
        for shared in file.shared
        if len(shared.weights) >= COMMON * len(names)
    }
    found: dict[str, dict[WeightFormat | None, int]] = {}
    rest = 0
    for storage, file in files.items():
        sizes = {name: size for name, size in _counted(file, common).items() if name in names}
        for name, size in sizes.items():
            found.setdefault(name, {})[storage] = size
        others = sum(shared.bytes for shared in file.shared)
        rest = max(rest, file.total - others - sum(file.own.get(name, 0) for name in names))
    return found, rest + sum(common.values())


def _apart(made_up: MadeUp, formats: Mapping[str, WeightFormat]) -> FileBytes:
    model, weights = made_up.stored(formats)
    return file_bytes(model, weights, made_up.float_readers())


def _counted(file: FileBytes, common: Collection[str]) -> dict[str, int]:
    """Bytes by weights. What some of them share is divided as if half of them were to use it."""
    found = dict(file.own)
    for shared in file.shared:
        if shared.key not in common:
            for name in shared.weights:
                found[name] = found.get(name, 0) + -(-2 * shared.bytes // (len(shared.weights) + 1))
    return found


def _owned(canonical: ir.Model, choices: Choices) -> dict[str, str]:
    """Nodes that are the first to read their weights -> the names of these."""
    found: dict[str, str] = {}
    for node in canonical.graph:
        parts = linear_parts(node) if node.name in choices else None
        if parts is not None and parts.weight.name not in found.values():
            found[node.name or ""] = parts.weight.name or ""
    return found


def _weights(canonical: ir.Model, choices: Choices, owned: Mapping[str, str]) -> dict[str, int]:
    sizes = {name: value.const_value.size for name, value in canonical.graph.initializers.items() if value.const_value}
    return {node: int(sizes[owned[node]]) if node in owned else 0 for node in choices}


class _Ways:
    """Files that differ in more than the storage of weights, each made once; parameters of activations are made up."""

    def __init__(
        self,
        canonical: ir.Model,
        target: Target,
        choices: Choices,
        options: QuantizeOptions,
        restrictions: Restrictions,
    ) -> None:
        self.canonical, self.target, self.options = canonical, target, options
        self.choices, self.restrictions = choices, restrictions
        self.base = {
            node: next(choice for choice in found if choice.storage is not None) for node, found in choices.items()
        }
        self._narrow: dict[int | None, int] = {}

    def beyond(self, node: str, choice: NodeChoice) -> int:
        """How many bytes more ``choice`` takes than the first integer one of ``node`` with the same storage does."""
        base, bits = self.base[node], choice.precision.activation_bits
        if choice.precision == FLOAT:
            return self._in_float[node]
        if choice.storage is None or bits == base.precision.activation_bits:
            return 0
        if bits not in self._narrow:
            self._narrow[bits] = self._with_activations(bits)
        return self._narrow[bits]

    @cached_property
    def _first(self) -> FileBytes:
        return self._file(self.base)

    @cached_property
    def _in_float(self) -> dict[str, int]:
        """Bytes that each node takes more in float.

        Nodes that lie apart are tried together. What their own constants do not explain, the conversions, is divided
        evenly among them.
        """
        own, owned = _counted(self._first, ()), _owned(self.canonical, self.choices)
        sizes = _float_bytes(self.canonical, self.choices)
        free = [node for node, found in self.choices.items() if any(one.precision == FLOAT for one in found)]
        found = {}
        for first in range(min(MOST_TRIALS, len(free))):
            group = free[first::MOST_TRIALS]
            trial = self._file({**self.base, **dict.fromkeys(group, KEPT_FLOAT)})
            more = {node: sizes[node] - own.get(owned[node], 0) if node in owned else 0 for node in group}
            conversions = (trial.total - self._first.total - sum(more.values())) // len(group)
            found.update({node: size + conversions for node, size in more.items()})
        return found

    def _with_activations(self, bits: int | None) -> int:
        """Bytes that activations of so many bits add, for each node that can have them."""
        chosen = {
            node: next((one for one in found if one.storage and one.precision.activation_bits == bits), self.base[node])
            for node, found in self.choices.items()
        }
        changed = sum(choice.precision.activation_bits == bits for choice in chosen.values())
        return (self._file(chosen).total - self._first.total) // max(changed, 1)

    def _file(self, chosen: Mapping[str, NodeChoice]) -> FileBytes:
        """The file in which weights of integer nodes are stored as in the first choice of these."""
        in_float = {node: "trial" for node, choice in chosen.items() if choice.precision == FLOAT}
        restrictions = replace(
            self.restrictions,
            allocated={node: choice for node, choice in chosen.items() if node not in in_float},
            float_nodes={**self.restrictions.float_nodes, **in_float},
        )
        storages = {node: self.base[node].storage for node in chosen if node not in in_float}
        made_up = MadeUp.of(self.canonical, self.target, self.options, restrictions)
        return _apart(made_up, {node: storage for node, storage in storages.items() if storage is not None})


def _float_bytes(canonical: ir.Model, choices: Choices) -> dict[str, int]:
    """Bytes of the float weights and bias of each node."""
    found = {}
    for node in canonical.graph:
        parts = linear_parts(node) if node.name in choices else None
        if parts is not None:
            bias = parts.bias_array
            found[node.name or ""] = int(parts.weight_array.nbytes + (0 if bias is None else bias.nbytes))
    return found
