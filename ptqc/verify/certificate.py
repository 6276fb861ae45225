"""The certificate of a verification: what was proven, what was run, on what, with what result; JSON both ways."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from ptqc.core.errors import OptionError
from ptqc.core.plain import from_plain, load_json, to_plain
from ptqc.graph.files import write_atomically
from ptqc.graph.load import LoadedModel
from ptqc.verify.compare import Comparison, Difference
from ptqc.verify.inputs import Kind
from ptqc.verify.kernels import KernelTest
from ptqc.verify.proof import Proof, StaticReport

CERTIFICATE_VERSION = 1
MOST_ELEMENTS = 1 << 28  # of an input
KERNEL = "onnxruntime runs it in an integer kernel"

Verdict = Literal["proven", "differs", "unprovable"]


@dataclass(frozen=True, slots=True)
class GivenData:
    """Samples of the user's; ``digest`` is the SHA-256 of what was read."""

    description: str
    samples: int
    digest: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a verification found.

    Attributes:
        ptqc: its version.
        files: SHA-256 of the model file and of its data files by name; of the graph under ``graph`` for a model that
            came from memory.
        portable: the same for the portable form: a file's, or under ``derived`` of the bytes of what ptqc derived;
            empty where none was compared.
        target: as the model's metadata says; empty where they do not.
        static, static_portable: the proofs about the model and about its portable form.
        fused: for each step between DequantizeLinear and QuantizeLinear whether the runtime fuses it.
        cpu: where the engines ran; empty where none did.
        seed: of the inputs; ``shapes`` are those of one call, by input.
        data: the given inputs.
        kernels: each step by itself.
        comparison: all engines on the same inputs; None where nothing was run.
        notes: what is not covered, and why.
    """

    ptqc: str
    files: Mapping[str, str]
    static: StaticReport
    portable: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    static_portable: StaticReport | None = None
    fused: tuple[Proof, ...] = ()
    cpu: str = ""
    seed: int = 0
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    data: GivenData | None = None
    kernels: tuple[KernelTest, ...] = ()
    comparison: Comparison | None = None
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """``differs`` where there is a counterexample, ``unprovable`` where a proof or an engine is missing."""
        if self.differences or any(test.differ for test in self.kernels):
            return "differs"
        return "unprovable" if self.failures else "proven"

    @property
    def differences(self) -> tuple[Difference, ...]:
        """The counterexamples, one for each engine at most."""
        results = self.comparison.engines if self.comparison else ()
        return tuple(result.difference for result in results if result.difference is not None)

    @property
    def failures(self) -> tuple[str, ...]:
        """A sentence for everything that does not hold or could not be run."""
        found = list(self.static.failures)
        if self.static_portable is not None:
            found += [f"portable form, {sentence}" for sentence in self.static_portable.failures]
        found += [f"node '{proof.node}': {proof.reason}" for proof in self.fused if not proof.holds]
        found += [_kernel_sentence(test) for test in self.kernels if not test.holds]
        for result in self.comparison.engines if self.comparison else ():
            if result.refused:
                found.append(f"{result.engine} ({result.form}): {result.refused}")
            if result.difference is not None:
                found.append(difference_sentence(result.difference))
        return tuple(found)

    @property
    def scales(self) -> str:
        """Which engines the model is exact on: ``free`` scales name onnxruntime, ``power-of-two`` ones need no name."""
        if not self.static.unfused:
            return ""
        return "power-of-two" if self.static.unfused_exact else "free"

    def to_json(self) -> dict[str, Any]:
        """Plain data with a version field; nothing in it depends on the time."""
        derived = {"verdict": self.verdict, "failures": list(self.failures), "scales": self.scales}
        return {"version": CERTIFICATE_VERSION, **derived, **to_plain(self)}

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """The inverse of :meth:`to_json`. OptionError for another version or damaged data."""
        fix = "give the file that ptqc verify -o wrote, or verify the model again"
        if not isinstance(data, dict) or data.get("version") != CERTIFICATE_VERSION:
            found = data.get("version") if isinstance(data, dict) else None
            what = f"this is no certificate of version {CERTIFICATE_VERSION}"
            raise OptionError(what, why=f"its version is {found!r}", fix=fix)
        derived = ("version", "verdict", "failures", "scales")
        try:
            made = from_plain(cls, {key: value for key, value in data.items() if key not in derived})
            _check_numbers(made)
        except (TypeError, ValueError, RecursionError) as error:
            raise OptionError("the certificate is damaged", why=str(error), fix=fix) from error
        if any(data.get(key) != made.to_json()[key] for key in derived):
            raise OptionError(
                "the certificate is damaged", why="its verdict does not follow from its findings", fix=fix
            )
        return made

    def text(self) -> str:
        """JSON text, keys in the order of the fields."""
        return json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n"

    def save(self, path: Path) -> None:
        """Writes the JSON, whole or not at all. OutputError where that is impossible."""
        write_atomically(path, self.text())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads a certificate. OptionError where it is missing, too large or none."""
        return cls.from_json(load_json(path, "certificate", "give the file that ptqc verify -o wrote"))


def _check_numbers(certificate: Certificate) -> None:
    """ValueError for what no verification writes, and no run can repeat."""
    sizes = [size for shape in certificate.shapes.values() for size in shape]
    calls = [math.prod(shape) for shape in certificate.shapes.values()]
    if certificate.seed < 0 or min(sizes, default=1) < 0 or max(calls, default=0) > MOST_ELEMENTS:
        raise ValueError("its seed or a shape is out of bounds")
    if certificate.comparison is None:
        return
    kinds = certificate.comparison.kinds
    names = [result.kind for result in kinds]
    if len(set(names)) < len(names) or not set(names) <= set(Kind):
        raise ValueError("it names a kind of inputs twice, or one that there is not")
    if any(result.inputs < 1 or not 0 <= result.interpreted <= result.inputs for result in kinds):
        raise ValueError("its numbers of inputs contradict each other")


def file_hashes(loaded: LoadedModel) -> dict[str, str]:
    """SHA-256 of the model file and its data files by name."""
    if not loaded.files:
        return {"graph": loaded.sha256}
    found = {loaded.files[0].name: loaded.sha256}
    for path in loaded.files[1:]:
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def difference_sentence(difference: Difference) -> str:
    """A counterexample in words."""
    place = difference.place
    where = f"node '{place.node}': " if place is not None else ""
    inside = ""
    if place is not None:
        inside = f"; first in '{place.tensor}' {list(place.element)}: {place.found} instead of {place.expected}"
    form = " of the portable form" if difference.form == "portable" else ""
    return (
        f"{where}{difference.engine}{form} gives {difference.found:.9g} in '{difference.output}' "
        f"{list(difference.element)} where the {difference.against} gives {difference.expected:.9g}, on the "
        f"{difference.kind} input {difference.index}{inside}"
    )


def _kernel_sentence(test: KernelTest) -> str:
    if test.refused:
        return f"node '{test.node}': its kernel could not be run by itself: {test.refused}"
    differ = f"node '{test.node}': its kernel differs in {test.differ:,} of {test.outputs:,} codes"
    return f"{differ}; first for {test.operands}: {test.found} instead of {test.expected}"
