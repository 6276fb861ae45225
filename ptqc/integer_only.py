"""What integer-only results have beside others: the last checks of the compiler, and codes at both ends."""

from collections.abc import Iterable, Mapping

import onnx_ir as ir

from ptqc.core.errors import ModelError, quoted
from ptqc.core.plan import QuantPlan
from ptqc.core.types import Array
from ptqc.passes.base import PassContext
from ptqc.passes.pipeline import PassResult, run_passes
from ptqc.passes.registry import load_pass

LOWERING = "lower-to-integers"


def check_integer_form(model: ir.Model, plan: QuantPlan, lowering: Iterable[PassResult]) -> None:
    """Makes sure that nothing of an integer-only model was left in float behind the user's back.

    Args:
        model: the canonical float graph of ``plan``.
        lowering: what the lowering passes did.

    Raises:
        ModelError: an operator has no integer form with the types and shapes that it has here.
        RuntimeError: a multiplier is not exact, which rounding promises: a defect.
    """
    from ptqc.rounding.multiplier_rules import check_multipliers

    for result in lowering:
        if result.name == LOWERING and result.refused:
            first, more = result.refused[0], len(result.refused) - 1
            raise ModelError(
                f"node {quoted(first.node)} has no integer form here" + (f" (and {more} more)" if more else ""),
                where=model.graph.name or "",
                why=first.reason,
                fix=f"--allow-float {quoted(first.node)} leaves it in float, which the certificate will say",
            )
    problems = check_multipliers(model, plan)
    if problems:
        raise RuntimeError(problems[0])


def sums_are_exact(model: ir.Model, plan: QuantPlan, codes: Mapping[str, Array]) -> bool:
    """Whether float32 sums every product of a model with power-of-two scales exactly, so that all engines agree."""
    from ptqc.rounding.multiplier_rules import check_sums

    return not check_sums(model, plan, codes)


def without_doors(model: ir.Model) -> ir.Model:
    """A copy of an integer-only model that takes and gives codes. ModelError where a float island is in the way."""
    codes = model.clone()
    (result,) = run_passes(codes, [load_pass("remove-doors")], PassContext())
    for refusal in result.refused:
        raise ModelError(
            f"{quoted(refusal.node)} cannot be integer",
            where="--io integer",
            why=refusal.reason,
            fix="leave out --io, or the --allow-float that makes it real",
        )
    return codes
