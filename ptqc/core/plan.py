"""The plan: every tensor's integer type and scale, every node's precision and the reason for it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from ptqc.core.errors import OptionError
from ptqc.core.types import Choice, Precision, QuantParams

PLAN_VERSION = 1
FASTER_IN_FLOAT = "faster in float"  # how the reason begins where a measurement decided


class Form(StrEnum):
    """How a node appears in the lowered graph."""

    FLOAT = "float"  # unchanged, on real values
    KERNEL = "kernel"  # between dequantized inputs and quantized outputs, which the runtime fuses
    MOVE = "move"  # moves data: as a kernel, but with equal parameters on both sides
    ABSORBED = "absorbed"  # gone: the range of its output implies it
    RESCALE = "rescale"  # gone: its output are the codes of its input, read with another scale
    CODES = "codes"  # works on the codes themselves
    BIAS = "bias"  # an Add that the kernel before it takes as its int32 bias
    TABLE = "table"  # takes rows of an integer table, which are real again behind it
    DYNAMIC = "dynamic"  # an integer kernel whose activation range is found at run time
    WEIGHT = "weight"  # on real values; its weights are stored as integers and decoded once, when the model is loaded
    INTEGER = "integer"  # written as integer operators on codes: tables, normalisations, what has more than 8 bits
    PACKED = "packed"  # on real values, by a kernel that decodes the integers of its weights in every call


# What computes with real numbers and gives real numbers, whatever its weights are.
REAL_FORMS = (Form.FLOAT, Form.WEIGHT, Form.PACKED)
# Of these the plan knows the weights alone.
WEIGHT_ONLY = (Form.WEIGHT, Form.PACKED)


@dataclass(frozen=True, slots=True)
class NodePlan:
    """The precision of one node, its form, and why (a sentence for people)."""

    choice: Choice
    reason: str
    form: Form = Form.FLOAT


@dataclass(frozen=True, slots=True)
class QuantPlan:
    """The only input, beside the canonical graph and the integer weights, of the passes that lower a graph.

    Attributes:
        target: name of the target.
        graph_hash: SHA-256 of the canonical float graph that the plan belongs to.
        tensors: tensor name -> parameters. Activations, weights and biases alike.
        nodes: node name -> precision and reason, for every node of the main graph.
        provenance: data, seed, options and versions that led to the plan; plain JSON values.
    """

    target: str
    graph_hash: str
    tensors: Mapping[str, QuantParams]
    nodes: Mapping[str, NodePlan]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data with a version field; keys sorted, so that equal plans give equal text."""
        return {
            "version": PLAN_VERSION,
            "target": self.target,
            "graph_hash": self.graph_hash,
            "tensors": {name: self.tensors[name].to_json() for name in sorted(self.tensors)},
            "nodes": {
                name: {
                    "precision": str(node.choice.precision),
                    "activations": node.choice.activations,
                    "reason": node.reason,
                    "form": str(node.form),
                }
                for name, node in sorted(self.nodes.items())
            },
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Reads what :meth:`to_json` wrote. Raises OptionError for another version or damaged data."""
        if data.get("version") != PLAN_VERSION:
            raise OptionError(
                f"the plan has version {data.get('version')!r}",
                why=f"this ptqc reads version {PLAN_VERSION}",
                fix="make the plan again with this version",
            )
        try:
            return cls(
                target=data["target"],
                graph_hash=data["graph_hash"],
                tensors={name: QuantParams.from_json(value) for name, value in data["tensors"].items()},
                nodes={
                    name: NodePlan(
                        Choice(Precision.parse(value["precision"]), value["activations"]),
                        value["reason"],
                        Form(value["form"]),
                    )
                    for name, value in data["nodes"].items()
                },
                provenance=dict(data["provenance"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise OptionError("the plan is damaged", why=str(error), fix="make the plan again") from error

    def text(self) -> str:
        """The plan as canonical JSON text: what hashes and equality are taken over."""
        return json.dumps(self.to_json(), sort_keys=True)
