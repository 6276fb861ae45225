"""Mixed precision from end to end, by what is asked for: limits, accuracy alone, or an allocation from a file."""

import math
from collections.abc import Sequence

from ptqc.allocate.from_table import candidates
from ptqc.calibrate.source import Source
from ptqc.compile import compile_graph
from ptqc.core.errors import GateFailed
from ptqc.core.limits import Limit
from ptqc.graph.save import serialize
from ptqc.mixed.choose import Mixed, MixedCompiler, MixedJob, restricted
from ptqc.mixed.files import read_allocation
from ptqc.mixed.goals import Goals
from ptqc.mixed.table import Wanted, node_choices
from ptqc.packed import with_packed_products
from ptqc.report.evaluate import evaluate

BISECTIONS = 4  # of the size, where accuracy is the goal


def compile_mixed(job: MixedJob, goals: Goals, judged: Source) -> Mixed:
    """A mixed-precision result within the limits: with as little loss as they allow, or, where accuracy is the only
    goal, as small as that allows.

    Args:
        judged: samples on which accuracy is measured.

    Raises:
        GateFailed: no choices meet the limits.
        OptionError: a table or allocation of another model, limits that need measurements that are forbidden.
    """
    if job.options.allocation is not None:
        return given_mixed(job)
    resources = {limit.resource for limit in goals.limits}
    compiler = MixedCompiler(job, Wanted(latency="latency" in resources, narrow_activations="bops" in resources))
    if goals.drop is not None and resources.isdisjoint(("size", "bits")):
        return smallest_mixed(compiler, goals.limits, goals.drop, judged)
    return compiler.run(goals.limits)


def smallest_mixed(compiler: MixedCompiler, limits: Sequence[Limit], drop: float, judged: Source) -> Mixed:
    """The smallest result that was found to lose at most ``drop`` of accuracy, by bisection over the size.

    What was measured decides, not what is predicted. Where even the least loss is too much, that result: the gate on
    the accuracy will say so.
    """
    metric = compiler.job.options.metric or "top1"

    def lost(found: Mixed) -> float:
        reference, options = compiler.job.canonical, compiler.job.options
        (figure,) = evaluate(found.compiled.model, judged, (metric,), reference, options.threads, options.seed)
        assert figure.reference is not None  # of a metric that needs one
        return figure.reference.value - figure.estimate.value

    best = compiler.run(limits)
    if lost(best) > drop:
        return best
    sizes = [_least_size(compiler), len(serialize(best.compiled.model))]
    for _ in range(BISECTIONS):
        size = math.sqrt(sizes[0] * sizes[1])
        try:
            found = compiler.run((*limits, Limit("size", size, False, f"{size / 1000:.2f}kB")))
        except GateFailed:  # the other limits need more
            sizes[0] = size
            continue
        enough = lost(found) <= drop
        best = found if enough else best
        sizes[1 if enough else 0] = size
    return best


def given_mixed(job: MixedJob) -> Mixed:
    """The result of the allocation in a file."""
    assert job.options.allocation is not None  # the caller looked
    wanted = Wanted(latency=True, narrow_activations=True)
    allowed = node_choices(job.canonical, job.target, job.restrictions, job.options, wanted)
    allocation = read_allocation(job.options.allocation, job.canonical, allowed)
    restrictions = restricted(job.restrictions, allocation)
    arguments = job.canonical, job.target, job.source, restrictions, job.options, job.progress, job.ranges
    compiled = with_packed_products(compile_graph(*arguments), job.target, job.options, job.source, job.progress)
    return Mixed(compiled, allocation, None, ())


def _least_size(compiler: MixedCompiler) -> float:
    """Bytes of the smallest file that the table allows."""
    rows = candidates(compiler.table, compiler.choices)
    return float(
        (compiler.table.rest.bytes or 0) + sum(min(cost.bytes or 0 for cost in costs) for costs in rows.values())
    )
