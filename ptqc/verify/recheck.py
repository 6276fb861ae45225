"""Checks a certificate again without ptqc's compiler: hashes, proofs, engines on the same inputs, their outputs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ptqc import __version__
from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import Source, input_specs
from ptqc.core.errors import OptionError, quoted
from ptqc.core.plain import to_plain
from ptqc.core.progress import Progress
from ptqc.graph.load import LoadedModel, import_model
from ptqc.verify.certificate import Certificate, file_hashes
from ptqc.verify.compare import Comparison
from ptqc.verify.engines import Forms
from ptqc.verify.execution import Inputs, described, execute, fused_steps, space_of
from ptqc.verify.inputs import Kind
from ptqc.verify.prove import prove
from ptqc.verify.read import read_program
from ptqc.verify.same_steps import prove_portable


@dataclass(frozen=True, slots=True)
class Recheck:
    """A certificate checked again.

    Attributes:
        certificate: what was found now, with the inputs of the one that was checked.
        deviations: sentences: what is not as the certificate says. None means that it stands.
    """

    certificate: Certificate
    deviations: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether the model is proven now, as the certificate says."""
        return not self.deviations and self.certificate.verdict == "proven"


def recheck(
    certificate: Certificate,
    model: str | Path,
    data: Any = None,
    *,
    portable: str | Path | None = None,
    preprocess: str | None = None,
    progress: Progress | None = None,
) -> Recheck:
    """Does everything again that the certificate claims.

    Args:
        model: the file that it was written for.
        data: the samples that it was written with; without them given inputs are left out.
        portable: the portable form, which cannot be derived without the compiler; without it that is left out.
        preprocess: what is done to images of ``data``.

    Raises:
        OptionError: the certificate does not belong to the files or the data.
        ModelError: the model cannot be read.
    """
    shown = progress or (lambda stage, done, total: None)
    loaded = import_model(model, allow_quantized=True)
    _check_hashes(certificate.files, file_hashes(loaded), model)
    now, form, notes = _proven_again(certificate, loaded, portable, shown)
    same = to_plain(now.static) == to_plain(certificate.static)
    deviations = () if same else ("the static findings are not those of the certificate",)
    if certificate.comparison is None:
        return Recheck(replace(now, notes=notes), deviations)
    source = None if data is None else open_source(data, input_specs(loaded.model), preprocessing=preprocess)
    _check_data(certificate, source)
    program = read_program(loaded.model)
    space = space_of(loaded.model, program, certificate.shapes)
    if isinstance(space, str):
        return Recheck(replace(now, notes=(space,)), (*deviations, "the engines cannot be run again"))
    counts = {Kind(result.kind): result for result in certificate.comparison.kinds}
    if source is None and counts.pop(Kind.GIVEN, None) is not None:
        notes = (*notes, "the given inputs were not run again: name them with --data")
    plan = {kind: result.inputs for kind, result in counts.items()}
    sample = {kind: result.interpreted for kind, result in counts.items()}
    inputs = Inputs(space, plan, sample, certificate.seed, source)
    found = execute(Forms(loaded.model, program, loaded.path, form), now.static, inputs, shown)
    now = replace(now, cpu=found.cpu, kernels=found.kernels, comparison=found.comparison, notes=notes)
    if not found.comparison.kinds:
        deviations = (*deviations, "no inputs were run")
    return Recheck(now, (*deviations, *_deviations(certificate.comparison, found.comparison)))


def _proven_again(
    certificate: Certificate, loaded: LoadedModel, portable: str | Path | None, progress: Progress
) -> tuple[Certificate, ir.Model | None, tuple[str, ...]]:
    """The certificate with what is proven now and nothing that was run, the portable form, and notes."""
    progress("prove", 0, 1)
    program = read_program(loaded.model)
    static = prove(program)
    progress("prove", 1, 1)
    now = replace(
        certificate,
        ptqc=__version__,
        static=static,
        comparison=None,
        kernels=(),
        fused=fused_steps(loaded.model, program, static),
        notes=(),
        static_portable=None,
    )
    if portable is None:
        left = ("the portable form was not run again: give its file with --portable",) if certificate.portable else ()
        return now, None, left
    opened = import_model(portable, allow_quantized=True)
    if "derived" not in certificate.portable:
        _check_hashes(certificate.portable, file_hashes(opened), portable)
    return replace(now, static_portable=prove_portable(program, read_program(opened.model))), opened.model, ()


def _deviations(old: Comparison, new: Comparison) -> list[str]:
    """Outputs that are others than those of the certificate."""
    known = {result.kind: result for result in old.kinds}
    return [
        f"the outputs for {result.kind} inputs are not those of the certificate"
        for result in new.kinds
        if (result.sha256, result.interpreted) != (known[result.kind].sha256, known[result.kind].interpreted)
    ]


def _check_hashes(expected: Mapping[str, str], found: Mapping[str, str], path: str | Path) -> None:
    """OptionError where a file is not the one that the certificate was written for; names do not matter."""
    if sorted(expected.values()) == sorted(found.values()):
        return
    others = [f"{quoted(name)} has {value}" for name, value in found.items() if value not in expected.values()]
    wanted = [f"{quoted(name)} with {value}" for name, value in expected.items() if value not in found.values()]
    raise OptionError(
        "the certificate does not belong to this file",
        where=quoted(path),
        why=f"by SHA-256, {', '.join(others) or 'a file is missing'}; it was written for {', '.join(wanted) or 'less'}",
        fix="give the file that was verified, or verify this one",
    )


def _check_data(certificate: Certificate, source: Source | None) -> None:
    if source is None or described(source) is None:
        return
    if certificate.data is None or certificate.data.digest != source.digest:
        known = "without data" if certificate.data is None else f"with data of digest {certificate.data.digest}"
        raise OptionError(
            "the certificate does not belong to this data",
            why=f"the digest of the data is {source.digest}; the certificate was written {known}",
            fix="give the same data, in the same order, or none",
        )
