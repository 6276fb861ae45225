"""What a compilation calibrates on: the user's samples, or made-up ones where there are none."""

from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir

from ptqc.allocate.formats import cpu_kind
from ptqc.calibrate.contract import InputContract, Kind, contract_notes
from ptqc.calibrate.contract_inference import find_contracts
from ptqc.calibrate.distillation.settings import AUTO, BATCH_NORM, PROCEDURAL, NotDistillable
from ptqc.calibrate.open import open_source
from ptqc.calibrate.preprocess import Preprocessing
from ptqc.calibrate.source import Source, input_specs
from ptqc.calibrate.synthesis.info import SyntheticInfo, synthetic_info
from ptqc.calibrate.synthetic import Synthetic, make_samples
from ptqc.core.batch_statistics import METADATA_KEY
from ptqc.core.errors import ModelError, OptionError
from ptqc.core.options import QuantizeOptions
from ptqc.core.progress import Progress
from ptqc.core.ranges import AS_SEEN, RangeLimits
from ptqc.graph.load import LoadedModel, import_model
from ptqc.graph.same_network import check_same_network
from ptqc.passes.base import PassContext
from ptqc.passes.pipeline import canonical_passes, run_passes
from ptqc.targets.target import Target

# Classes that are seen with confidence have larger scores than made-up samples show: trials, docs/data-free.md.
OUTPUT_FACTOR = 1.5
# Of what was seen in made-up images, which no range cuts off: trials on six networks, docs/data-free.md.
LEAST_SHARE = 0.85
FEW_BITS = 6  # of weights, at most
ESTIMATING_METHOD, ESTIMATING_SEED, ESTIMATING_SAMPLES = "batch-norm-noise", 1 << 20, 64


@dataclass(frozen=True, slots=True)
class CalibrationData:
    """Samples, and how to use them.

    Attributes:
        info: what made them, None for the user's own.
        limits: what is known of ranges beside the samples.
        notes: sentences for people on how they were made.
    """

    source: Source
    info: SyntheticInfo | None = None
    limits: RangeLimits = AS_SEEN
    notes: tuple[str, ...] = ()


def calibration_data(
    data: Any, loaded: LoadedModel, options: QuantizeOptions, progress: Progress, target: Target | None = None
) -> CalibrationData:
    """The samples in ``data``, or made-up ones if it is None: more of them where ``target`` has weights of few bits.

    Raises DataError for data that cannot be used, OptionError for options that contradict it, and where neither the
    user nor the model says what an input is.
    """
    if data is None:
        few_bits = target is not None and _has_few_bits(target, options)
        made = made_up(loaded, options, options.distill, options.samples, options.seed, progress, few_bits)
        return _described(made, loaded)
    for name in ("distill", "stats_from"):
        if getattr(options, name) not in (None, AUTO):
            option = name.replace("_", "-")
            raise OptionError(f"--{option} contradicts --data", why="it makes samples", fix="leave out one of them")
    info = synthetic_info(data)
    source = open_source(data, input_specs(loaded.model), limit=options.samples, preprocessing=options.preprocess)
    if info is None:
        return CalibrationData(source)
    return CalibrationData(source, info, limits_of(info))


def _has_few_bits(target: Target, options: QuantizeOptions) -> bool:
    asked = [precision.weight_bits for _, precision in options.precision]
    return min(bits for bits in (target.weight_bits[cpu_kind(options)], *asked) if bits is not None) <= FEW_BITS


def estimating_data(
    loaded: LoadedModel, options: QuantizeOptions, calibration_seed: int, progress: Progress
) -> CalibrationData:
    """Made-up samples for judging a calibration on others: distilled from noise with another seed, else by rules.

    Raises OptionError where an input's nature is not known.
    """

    def tell(stage: str, done: int, total: int) -> None:
        progress(f"estimate: {stage}", done, total)

    return _without_classes(loaded, options, None, calibration_seed + ESTIMATING_SEED, tell)


def sensitivity_data(data: Any, loaded: LoadedModel, options: QuantizeOptions, progress: Progress) -> CalibrationData:
    """As :func:`calibration_data`, but what is distilled by default knows no classes: they saturate the softmax."""
    if data is not None or options.distill != AUTO:
        return calibration_data(data, loaded, options, progress)
    return _without_classes(loaded, options, options.samples, options.seed, progress)


def _without_classes(
    loaded: LoadedModel, options: QuantizeOptions, samples: int | None, seed: int, progress: Progress
) -> CalibrationData:
    try:
        made = made_up(loaded, options, ESTIMATING_METHOD, samples, seed, progress)
    except NotDistillable:
        made = made_up(loaded, options, PROCEDURAL, samples or ESTIMATING_SAMPLES, seed, progress)
    return _described(made, loaded)


def made_up(
    loaded: LoadedModel,
    options: QuantizeOptions,
    method: str,
    samples: int | None,
    seed: int,
    progress: Progress,
    few_bits: bool = False,
) -> tuple[Synthetic, tuple[InputContract, ...]]:
    """Samples for a model, by a method of ``--distill``, and what they were made to be.

    ``few_bits``: for weights of few bits, see :func:`ptqc.calibrate.synthetic.make_samples`.

    Raises NotDistillable where the model does not allow the method, OptionError for options that contradict each other,
    and where neither the user nor the model says what an input is.
    """
    if options.stats_from is not None and options.distill == PROCEDURAL:
        raise OptionError(
            "--stats-from contradicts --distill none",
            why="samples made by rules need no statistics",
            fix=f"leave it out, or give --distill {BATCH_NORM.method}",
        )
    contracts, statistics = describe_inputs(loaded, options), _canonical(loaded.model)
    if options.stats_from is not None:
        other = import_model(options.stats_from)
        statistics = _statistics_of(other, statistics, str(options.stats_from))
        contracts = _with_known_units(contracts, describe_inputs(other, options))
    return make_samples(loaded.model, statistics, contracts, method, samples, seed, progress, few_bits), contracts


def describe_inputs(loaded: LoadedModel, options: QuantizeOptions) -> tuple[InputContract, ...]:
    """What every input is. Raises OptionError where neither the user nor the model says it."""
    steps = None if options.preprocess is None else Preprocessing.parse(options.preprocess)
    return find_contracts(loaded.model, options.inputs, steps)


def _canonical(model: ir.Model) -> ir.Model:
    """The canonical graph, with BatchNormalization's statistics in its metadata; ``model`` stays unchanged."""
    canonical = model.clone()
    run_passes(canonical, canonical_passes(), PassContext())
    return canonical


def _statistics_of(other: LoadedModel, canonical: ir.Model, where: str) -> ir.Model:
    """The canonical graph of ``other``. Raises ModelError for another network, and for one without statistics."""
    found = _canonical(other.model)
    check_same_network(canonical, found, where)
    if METADATA_KEY not in found.metadata_props:
        raise ModelError(
            "there are no BatchNormalization statistics in this model either",
            where=where,
            fix="give an export of the same network in training form, or leave out --stats-from",
        )
    return found


def _with_known_units(
    contracts: tuple[InputContract, ...], others: tuple[InputContract, ...]
) -> tuple[InputContract, ...]:
    """``contracts``, with units of pixels that were assumed replaced by those of the export that has statistics."""
    known = {one.name: one for one in others if one.preprocessing is not None and not one.assumed}
    found = []
    for contract in contracts:
        other = known.get(contract.name)
        if other is not None and contract.preprocessing is not None and contract.assumed:
            contract = replace(
                contract,
                preprocessing=other.preprocessing,
                low=other.low,
                high=other.high,
                origin=f"{other.origin} (in the model of --stats-from)",
                assumed=False,
            )
        found.append(contract)
    return tuple(found)


def _described(made: tuple[Synthetic, tuple[InputContract, ...]], loaded: LoadedModel) -> CalibrationData:
    synthetic, contracts = made
    info = synthetic.info
    name = f"{info.source} by ptqc: {info.method.removeprefix('procedural: ')}, seed {info.seed}"
    name += ", in units that are assumed" if info.assumed else ""
    source = open_source(dict(synthetic.arrays), input_specs(loaded.model), name=name)
    notes = (*contract_notes(contracts), *synthetic.notes)
    return CalibrationData(source, info, limits_of(info), notes)


def limits_of(info: SyntheticInfo) -> RangeLimits:
    """What is known of the ranges of made-up samples beside what was seen."""
    return RangeLimits(info.ranges, OUTPUT_FACTOR, LEAST_SHARE if Kind.IMAGE in info.kinds else 0.0)
