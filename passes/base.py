"""What a pass is: an object with ``spec`` and ``run`` that rewrites a model and says what it did."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

import onnx_ir as ir

from ptqc.core.plan import QuantPlan
from ptqc.core.types import Array

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


class Fact(StrEnum):
    """Something that holds for a whole graph between two passes; each has a checker in ``facts.py``."""

    CONSTANTS_LIFTED = "constants-lifted"  # constants are initializers; no Constant nodes in the main graph
    SHAPES_KNOWN = "shapes-known"  # every float tensor of the main graph has a type and a rank
    NO_IDENTITIES = "no-identities"  # no Identity or Dropout in the main graph
    NO_BATCHNORM = "no-batchnorm"  # no BatchNormalization that a linear node before it could absorb
    QUANTIZED = "quantized"  # every tensor of the plan has its QuantizeLinear


# Key in ``ir.Value.meta`` of a constant of codes: their QuantParams, for the pass that packs constants.
CODES_OF = "ptqc.codes-of"

Numerics = Literal["exact", "close", "changes"]


@dataclass(frozen=True, slots=True)
class PassSpec:
    """Name and promises of a pass.

    Attributes:
        name: unique, kebab case.
        needs, gives, breaks: facts before, after, and no longer true after the pass.
        numerics: outputs keep their bits (``exact``), stay within a tolerance (``close``), or change.
        graph: the type that ``run`` takes: ``ir`` (onnx_ir.Model) or ``surgeon`` (onnx_graphsurgeon.Graph).
    """

    name: str
    needs: frozenset[Fact] = frozenset()
    gives: frozenset[Fact] = frozenset()
    breaks: frozenset[Fact] = frozenset()
    numerics: Numerics = "close"
    graph: Literal["ir", "surgeon"] = "ir"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A place where a pattern matched but the rewrite was not legal, and why."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Rewrites:
    """What a pass did. ``count == 0`` means that the graph is unchanged."""

    count: int = 0
    refused: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class PassContext:
    """What a pass may look at beside the graph; passes themselves keep no state.

    Attributes:
        target: name of the target.
        plan: only for passes that lower a planned graph.
        codes: integer weights and biases by tensor name, for passes that lower a planned graph.
    """

    target: str = ""
    plan: QuantPlan | None = None
    codes: Mapping[str, Array] = field(default_factory=dict)


@runtime_checkable
class Pass(Protocol):
    """Any object with ``spec`` and ``run``; the fields of the object are the options of the pass."""

    spec: ClassVar[PassSpec]

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        """Rewrites ``model`` in place."""
        ...


@runtime_checkable
class SurgeonPass(Protocol):
    """A pass written for onnx-graphsurgeon: ``spec.graph == "surgeon"``."""

    spec: ClassVar[PassSpec]

    def run(self, graph: "gs.Graph", context: PassContext) -> Rewrites:
        """Rewrites ``graph`` in place."""
        ...


AnyPass = Pass | SurgeonPass
