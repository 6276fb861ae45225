"""``verify_model``: proves that a model is integer arithmetic, and runs it on every engine that must agree."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from ptqc import __version__
from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import Source, input_specs
from ptqc.core.errors import OptionError, PtqcError
from ptqc.core.progress import Progress
from ptqc.graph.load import LoadedModel, import_model
from ptqc.graph.save import serialize
from ptqc.verify.certificate import Certificate, file_hashes
from ptqc.verify.compare import sampled
from ptqc.verify.engines import Forms
from ptqc.verify.execution import Inputs, described, execute, fused_steps, space_of
from ptqc.verify.inputs import plan_inputs
from ptqc.verify.kernels import check_kernels
from ptqc.verify.portable import derive_portable
from ptqc.verify.program import Carrier, Product, Program
from ptqc.verify.proof import StaticReport
from ptqc.verify.prove import prove
from ptqc.verify.read import read_program
from ptqc.verify.same_steps import prove_portable

DEFAULT_INPUTS = 1000
DEFAULT_SAMPLE = 100  # inputs that slow engines get
DEFAULT_BUDGET = 60.0  # seconds
SAFE_WEIGHT = 64  # 255 * 64 * 2 fits into 16 bits

Model = str | Path | onnx.ModelProto | ir.Model


def verify_model(
    model: Model,
    data: Any = None,
    *,
    inputs: int = DEFAULT_INPUTS,
    sample: int = DEFAULT_SAMPLE,
    budget: float | None = DEFAULT_BUDGET,
    seed: int = 0,
    portable: Model | None = None,
    preprocess: str | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    static_only: bool = False,
    progress: Progress | None = None,
) -> Certificate:
    """Proves what can be proven of ``model`` and compares the engines on it.

    Args:
        model: a path, an ``onnx.ModelProto`` or an ``onnx_ir.Model``: QDQ, QLinear or integer operators, of ptqc or of
            other tools.
        data: sample inputs as :func:`ptqc.quantize` takes them, run beside random and adversarial ones.
        inputs: how many in all; ``sample``: how many of them slow engines get.
        budget: seconds for running; where they are over, fewer inputs ran, and the certificate says so. None without
            limit.
        seed: of random inputs.
        portable: the portable form to compare with; by default it is derived.
        preprocess: what is done to images of ``data``.
        shapes: of calls by input name, for sizes that the model leaves free.
        static_only: run nothing.
        progress: called with (stage, steps done, steps in all).

    Raises:
        PtqcError kinds for models, data and options that cannot be used. A model that is wrong or cannot be proven
        raises nothing: the certificate's ``verdict`` says it.
    """
    if inputs < 1 or sample < 1 or (budget is not None and not budget > 0):
        raise OptionError("there is nothing to run", fix="give at least one input and some time, or --static")
    shown = progress or (lambda stage, done, total: None)
    loaded = import_model(model, allow_quantized=True)
    program, static = _proven(loaded.model, shown)
    source = None if data is None else open_source(data, input_specs(loaded.model), preprocessing=preprocess)
    certificate = Certificate(
        ptqc=__version__,
        files=file_hashes(loaded),
        static=static,
        target=loaded.model.metadata_props.get("ptqc.target", ""),
        seed=seed,
        data=described(source),
        notes=(*_islands(program), *_saturating(program)),
    )
    certificate = _with_fusion(certificate, loaded.model, program)
    if static_only:
        return _noted(certificate, "nothing was run: only what holds without running is proven")
    given, certificate = _portable_form(loaded, program, portable, certificate, shown)
    space = space_of(loaded.model, program, {**_sizes(source), **(shapes or {})})
    if isinstance(space, str):
        if static.holds:  # each step can be run all the same
            certificate = replace(certificate, kernels=check_kernels(program, seed, partial(shown, "test kernels")))
        return _noted(certificate, f"no engine was run on the whole model: {space}")
    plan = plan_inputs(space, inputs, 0 if source is None else len(source))
    chosen = Inputs(space, plan, sampled(plan, sample), seed, source, budget)
    found = execute(Forms(loaded.model, program, loaded.path, given), static, chosen, shown)
    certificate = replace(
        certificate, cpu=found.cpu, shapes=found.shapes, kernels=found.kernels, comparison=found.comparison
    )
    return _noted(certificate, found.comparison.stopped) if found.comparison.stopped else certificate


def _proven(model: ir.Model, progress: Progress) -> tuple[Program, StaticReport]:
    progress("prove", 0, 2)
    program = read_program(model)
    progress("prove", 1, 2)
    static = prove(program)
    progress("prove", 2, 2)
    return program, static


def _noted(certificate: Certificate, note: str) -> Certificate:
    return replace(certificate, notes=(*certificate.notes, note))


def _islands(program: Program) -> tuple[str, ...]:
    """What the file itself allows to be float."""
    names = [f"'{obstacle.node}'" for obstacle in program.obstacles if obstacle.allowed]
    if not names:
        return ()
    return (f"allowed to compute in float, so that nothing is proven of them: {', '.join(names)}",)


def _saturating(program: Program) -> tuple[str, ...]:
    """Where the kernels of older processors would not add products exactly."""
    wide = [
        step
        for step in program.steps
        if isinstance(step, Product) and step.carrier is not Carrier.INTEGER and step.weights is not None
        if int(np.abs(step.weights).max(initial=0)) > SAFE_WEIGHT
    ]
    if not wide:
        return ()
    return (
        f"weights beyond {SAFE_WEIGHT}: on x86-64 processors without VNNI, onnxruntime's kernels saturate sums of two "
        "products; --cpu avx2 makes models for those",
    )


def _with_fusion(certificate: Certificate, model: ir.Model, program: Program) -> Certificate:
    try:
        return replace(certificate, fused=fused_steps(model, program, certificate.static))
    except PtqcError as error:
        return _noted(certificate, f"what onnxruntime fuses is not known: {error}")


def _sizes(source: Source | None) -> dict[str, tuple[int, ...]]:
    """Shapes of one call of the given data."""
    if source is None:
        return {}
    batch = next(iter(source.batches(1)))
    return {name: feed.shape for name, feed in batch.feeds.items()}


def _portable_form(
    loaded: LoadedModel, program: Program, given: Model | None, certificate: Certificate, progress: Progress
) -> tuple[ir.Model | None, Certificate]:
    """The portable form, with its proofs in the certificate; None where there is none, or it is the model itself."""
    if given is not None:
        opened = import_model(given, allow_quantized=True)
        static = prove_portable(program, read_program(opened.model))
        return opened.model, replace(certificate, portable=file_hashes(opened), static_portable=static)
    if not program.complete or all(step.carrier is Carrier.INTEGER for step in program.steps):
        return None, certificate
    missing = "there is no portable form to compare with"
    if any(step.carrier is Carrier.QLINEAR for step in program.steps):
        return None, _noted(certificate, f"{missing}: it is derived from Q/DQ pairs, not from QLinear operators")
    derived = derive_portable(loaded.model)
    if isinstance(derived, str):
        return None, _noted(certificate, f"{missing}: {derived}")
    meaning = read_program(derived)
    if any(step.carrier is not Carrier.INTEGER for step in meaning.steps):
        return None, _noted(certificate, f"{missing}: not all operators have an integer form")
    hashes = {"derived": hashlib.sha256(serialize(derived)).hexdigest()}
    return derived, replace(certificate, portable=hashes, static_portable=prove_portable(program, meaning))
