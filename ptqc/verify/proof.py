"""What the static verification says: proofs, what they are about, and all of them as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from ptqc.core.plain import from_plain, to_plain
from ptqc.verify.bounds import Finding
from ptqc.verify.program import Obstacle

INTEGERS = "all tensors hold integers"
REQUANTIZATION = "the float32 requantization equals its integer meaning"
TABLE = "the table of codes equals its integer meaning"
MOVEMENT = "codes are moved as they are"
EXIT = "accumulators leave as they are"
PORTABLE = "the operators of the portable form give the same codes"
UNFUSED = "the unfused float32 reading gives the same codes"


@dataclass(frozen=True, slots=True)
class Proof:
    """One claim about one node.

    Attributes:
        claim: one of the sentences above.
        node: in the file.
        holds: whether it is proven.
        numbers: what decided it: ``shift``, ``multiplier_bits``, ``accumulator_bits``, ...
        reason: why it holds or why not, a clause.
    """

    claim: str
    node: str
    holds: bool
    numbers: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StaticReport:
    """All that can be said without running a file.

    Attributes:
        proofs: of every step that something else than integer operators carries, and of the program as a whole.
        findings: the bounds of everything that is computed.
        obstacles: what is no integer program.
        divisions: the divisors among the findings.
        unfused: of every step between DequantizeLinear and QuantizeLinear, for information: whether float32 gives the
            same codes where an engine does not fuse it.
    """

    proofs: tuple[Proof, ...]
    findings: tuple[Finding, ...]
    obstacles: tuple[Obstacle, ...]
    divisions: tuple[Finding, ...]
    unfused: tuple[Proof, ...]

    @property
    def holds(self) -> bool:
        """Whether everything is proven, but for the islands of float that the file allows."""
        return not self.failures

    @property
    def unfused_exact(self) -> bool:
        """Whether every engine gives the same codes, fused or not."""
        return self.holds and not self.obstacles and all(proof.holds for proof in self.unfused)

    @property
    def failures(self) -> tuple[str, ...]:
        """A sentence for each thing that is not proven."""
        found = [f"node '{each.node}' ({each.operator}): {each.reason}" for each in self.obstacles if not each.allowed]
        found += [f"node '{each.node}': {each.reason}" for each in self.proofs if not each.holds]
        found += [f"node '{each.node}': {each.reason}" for each in self.findings if not each.holds]
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"holds": self.holds, **to_plain(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_json`; ValueError or TypeError on anything else."""
        return from_plain(cls, {key: value for key, value in data.items() if key != "holds"})
