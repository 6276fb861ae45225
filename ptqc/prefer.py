"""``--prefer latency``: layers that measure faster in float, in the whole model, stay in float.

Layers are tried one by one; then, as a boundary between float and integers costs conversions, in runs from the
beginning and from the end of the network, where small or wide layers stand. Times do not depend on ranges, so the
trials need no calibration.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from ptqc.allocate.groups import make_groups
from ptqc.allocate.place import place
from ptqc.allocate.plan import make_plan
from ptqc.allocate.restrict import Restrictions
from ptqc.compile import lower, weight_type
from ptqc.core.options import QuantizeOptions
from ptqc.core.plan import FASTER_IN_FLOAT, Form
from ptqc.core.progress import Progress
from ptqc.core.types import Array
from ptqc.execute.latency import measure_ratio
from ptqc.graph.linear import LINEAR_OPERATORS
from ptqc.rounding.nearest import round_to_nearest
from ptqc.targets.target import Target

LEAST_GAIN = 1.03  # smaller differences are noise
TRIAL_SECONDS = 0.4
RUNS = (2, 3, 4, 6, 8)  # lengths of runs of layers that are tried at either end
MOST_SINGLES = 24


@dataclass(frozen=True, slots=True)
class Trials:
    """Lowers one canonical graph with different layers in float."""

    canonical: ir.Model
    target: Target
    restrictions: Restrictions
    options: QuantizeOptions

    def layers(self) -> list[str]:
        """Linear nodes that become integer, in graph order."""
        nodes = place(self.canonical, self.target, self.restrictions).nodes
        return [
            node.name or ""
            for node in self.canonical.graph
            if node.op_type in LINEAR_OPERATORS and nodes[node.name or ""].form in (Form.KERNEL, Form.DYNAMIC)
        ]

    def lowered(self, in_float: Sequence[str]) -> ir.Model:
        """The lowered graph with these layers in float and made-up ranges: fit for timing only."""
        held = {**self.restrictions.float_nodes, **dict.fromkeys(in_float, "trial")}
        placement = place(self.canonical, self.target, replace(self.restrictions, float_nodes=held))
        groups = make_groups(self.canonical, placement)
        ranges = {group.request.tensor: (-1.0, 1.0) for group in groups}
        weights = weight_type(self.target, self.options)
        plan = make_plan(self.canonical, self.target.name, placement, groups, ranges, weights, {})
        codes = round_to_nearest(self.canonical, plan)
        return lower(self.canonical, plan, codes, self.target, replace(self.options, check_passes=False))[0]


def keep_slow_in_float(
    canonical: ir.Model,
    target: Target,
    restrictions: Restrictions,
    options: QuantizeOptions,
    feeds: Mapping[str, Array],
    progress: Progress,
) -> Restrictions:
    """``restrictions`` with the layers that are to stay in float, and the reason with the measured gain.

    Args:
        canonical: stays unchanged.
        feeds: one input of the model; one thread is timed, as with the other latencies.
    """
    trials = Trials(canonical, target, restrictions, options)
    layers = trials.layers()
    chosen: dict[str, str] = {}
    best = trials.lowered(())
    tried = list(_candidates(layers))
    for index, candidate in enumerate(tried):
        progress("time layers", index, len(tried))
        new = [name for name in candidate if name not in chosen]
        if not new or len(chosen) + len(new) == len(layers):
            continue
        trial = trials.lowered((*chosen, *new))
        gain = measure_ratio(best, trial, feeds, 1, TRIAL_SECONDS).ratio
        if gain >= LEAST_GAIN:
            with_others = "" if len(new) == 1 else f" with {len(new) - 1} neighbours"
            reason = f"{FASTER_IN_FLOAT}: the model measured {gain:.2f} times as fast with it{with_others} in float"
            chosen.update(dict.fromkeys(new, reason))
            best = trial
    progress("time layers", len(tried), len(tried))
    return replace(restrictions, float_nodes={**restrictions.float_nodes, **chosen})


def _candidates(layers: Sequence[str]) -> Iterator[Sequence[str]]:
    """Single layers (evenly spaced where there are many), runs from the beginning, runs to the end."""
    step = max(1, -(-len(layers) // MOST_SINGLES))
    for name in layers[::step]:
        yield (name,)
    lengths = [length for length in RUNS if length < len(layers)]
    for length in lengths:
        yield layers[:length]
    for length in lengths:
        yield layers[-length:]
