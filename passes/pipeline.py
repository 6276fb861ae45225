"""Running a chain of passes: do they fit together, what did each do, and (on request) did each keep its promise."""

import re
import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from ptqc.core.errors import OptionError, PassError, PtqcError, nearest, quoted
from ptqc.passes.base import AnyPass, Fact, PassContext, Refusal, Rewrites
from ptqc.passes.facts import check_fact
from ptqc.passes.probe import Probe, check_structure, difference, evaluate, make_probe
from ptqc.passes.registry import BUILTIN, load_pass

CANONICAL = (
    "fold-constants",
    "remove-identities",
    "cancel-transposes",
    "recognize-layernorm",
    "simplify-operators",
    "recognize-activations",
    "fold-pad",
    "matmul-to-gemm",
    "fold-batchnorm",
    "simplify-operators",
    "fold-constants",
    "remove-identities",
)


@dataclass(frozen=True, slots=True)
class PassResult:
    """What one pass did: rewrites, refused places with reasons, seconds; ``unchecked`` says why numbers were not."""

    name: str
    count: int
    refused: tuple[Refusal, ...]
    seconds: float
    unchecked: str = ""


def canonical_passes() -> tuple[AnyPass, ...]:
    """The passes that turn an imported model into the canonical float graph, in order."""
    return tuple(load_pass(name) for name in CANONICAL)


def run_passes(
    model: ir.Model, passes: Iterable[AnyPass], context: PassContext, check: bool = False
) -> tuple[PassResult, ...]:
    """Rewrites ``model`` in place by every pass in turn.

    Args:
        check: after each pass check the structure of the graph, the facts it promised and its outputs on a seeded
            probe, and raise PassError naming the pass that broke its word.

    Raises:
        PassError: a pass needs a fact that neither the model nor an earlier pass gives (before anything runs).
    """
    passes = tuple(passes)
    facts = check_chain(model, passes, context)
    promised: frozenset[Fact] = frozenset()
    if check:
        problem = check_structure(model)
        if problem is not None:
            raise PassError("the graph is not well formed before the first pass", why=problem)
    probe = make_probe(model) if check else None
    results = []
    for index, one in enumerate(passes):
        start = time.perf_counter()
        before = _shape_of(model) if check else None
        rewrites = _run_one(model, one, context)
        seconds = time.perf_counter() - start
        unchecked = ""
        if probe is not None:
            unchanged = before == _shape_of(model)
            if rewrites.count == 0 and not unchanged:
                raise _broken(one, "it reports no rewrite, but the graph changed")
            facts, promised = ((known - one.spec.breaks) | one.spec.gives for known in (facts, promised))
            # What the model had from the start must only last as long as a pass still needs it.
            needed = frozenset(fact for later in passes[index + 1 :] for fact in later.spec.needs)
            probe = _check_one(model, one, context, promised | (facts & needed), probe, unchanged)
            unchecked = probe.skipped
        results.append(PassResult(one.spec.name, rewrites.count, rewrites.refused, seconds, unchecked))
    return tuple(results)


def check_chain(model: ir.Model, passes: Sequence[AnyPass], context: PassContext) -> frozenset[Fact]:
    """The facts that hold for ``model`` now; PassError where the chain of passes does not fit together."""
    initial = frozenset(fact for fact in Fact if check_fact(fact, model, context) is None)
    facts = initial
    for one in passes:
        missing = [fact for fact in Fact if fact in one.spec.needs - facts]
        if missing:
            raise PassError(
                f"pass {quoted(one.spec.name)} needs {missing[0]}, which no earlier pass gives",
                why=check_fact(missing[0], model, context) or "an earlier pass breaks it",
                fix=f"put one of these before it: {', '.join(_givers(missing[0], passes)) or 'none is known'}",
            )
        facts = (facts - one.spec.breaks) | one.spec.gives
    return initial


def insert_after(passes: Sequence[AnyPass], name: str, new: AnyPass) -> tuple[AnyPass, ...]:
    """``passes`` with ``new`` behind the last one called ``name``; OptionError where there is none."""
    index = _positions(passes, name)[-1] + 1
    return (*passes[:index], new, *passes[index:])


def insert_before(passes: Sequence[AnyPass], name: str, new: AnyPass) -> tuple[AnyPass, ...]:
    """``passes`` with ``new`` in front of the first one called ``name``; OptionError where there is none."""
    index = _positions(passes, name)[0]
    return (*passes[:index], new, *passes[index:])


def insert_from_option(passes: Sequence[AnyPass], text: str) -> tuple[AnyPass, ...]:
    """``passes`` with the one that ``--pass`` names: ``name`` or ``module:Class``, at the end or ``@after=other``.

    OptionError names what is unknown.
    """
    parts = re.fullmatch(r"([^@]+)(?:@(after|before)=([\w-]+))?", text)
    if parts is None:
        raise OptionError(f"{quoted(text)} is no pass", fix="write name, module:Class or module:Class@after=name")
    new = load_pass(parts[1])
    if parts[2] is None:
        return (*passes, new)
    return (insert_after if parts[2] == "after" else insert_before)(passes, parts[3], new)


def _positions(passes: Sequence[AnyPass], name: str) -> list[int]:
    found = [index for index, one in enumerate(passes) if one.spec.name == name]
    if not found:
        raise OptionError(
            f"there is no pass {quoted(name)} in the chain", fix=nearest(name, [one.spec.name for one in passes])
        )
    return found


def _givers(fact: Fact, passes: Sequence[AnyPass]) -> list[str]:
    known = {one.spec.name: one for one in passes} | {name: load_pass(name) for name in BUILTIN}
    return sorted(name for name, one in known.items() if fact in one.spec.gives)


def _run_one(model: ir.Model, one: AnyPass, context: PassContext) -> Rewrites:
    """What the pass did. PassError where a pass that is not ptqc's own raises, or returns something else."""
    if type(one).__module__.startswith("ptqc."):
        return _rewrite(model, one, context)
    try:
        rewrites = _rewrite(model, one, context)
    except PtqcError:
        raise
    except Exception as error:  # code of others may raise anything; it is reported as theirs
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise PassError(
            f"pass {quoted(one.spec.name)} failed",
            why=f"{type(error).__name__}: {error} ({frame.filename}, line {frame.lineno})",
            fix="leave it out, or report it to its author",
        ) from error
    if not isinstance(rewrites, Rewrites):
        raise PassError(
            f"pass {quoted(one.spec.name)} returned {type(rewrites).__name__}", fix="return Rewrites(count)"
        )
    return rewrites


def _rewrite(model: ir.Model, one: AnyPass, context: PassContext) -> Rewrites:
    if one.spec.graph == "ir":
        return one.run(model, context)
    from ptqc.graph.surgeon import from_surgeon, to_surgeon

    graph = to_surgeon(model)
    rewrites = one.run(graph, context)
    if rewrites.count:
        changed = from_surgeon(graph)
        model.graph, model.ir_version = changed.graph, max(model.ir_version, changed.ir_version)
    return rewrites


def _check_one(
    model: ir.Model, one: AnyPass, context: PassContext, facts: frozenset[Fact], probe: Probe, unchanged: bool
) -> Probe:
    """The probe for the next pass; PassError where this one broke a promise."""
    problem = None if unchanged else check_structure(model)
    if problem is not None:
        raise _broken(one, f"the graph is not well formed: {problem}")
    for fact in (fact for fact in Fact if fact in facts):
        problem = check_fact(fact, model, context)
        if problem is not None:
            promise = "it gives" if fact in one.spec.gives else "it does not break"
            raise _broken(one, f"{promise} {fact}, but {problem}")
    if probe.skipped or unchanged:
        return probe
    try:
        after = evaluate(model, probe.feeds)
    except PassError as error:
        raise _broken(one, f"the model does not run any more: {error.why}") from error
    problem = difference(probe, after, one.spec.numerics)
    if problem is not None:
        raise _broken(one, f"its numerics are '{one.spec.numerics}', but {problem}")
    return replace(probe, outputs=after)


def _broken(one: AnyPass, why: str) -> PassError:
    return PassError(
        f"pass {quoted(one.spec.name)} broke its promise", why=why, fix="leave it out, or report it to its author"
    )


def _shape_of(model: ir.Model) -> list[object]:
    """Nodes, their inputs and the initializers, to see whether a pass changed anything."""
    nodes: list[object] = [
        (
            node.op_type,
            node.name,
            [id(value) for value in node.inputs],
            [value.name for value in node.outputs],
            dict(node.attributes),
        )
        for node in model.graph
    ]
    return [
        nodes,
        [id(value) for value in model.graph.outputs],
        [(name, id(value.const_value)) for name, value in model.graph.initializers.items()],
    ]
