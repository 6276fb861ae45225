"""Calibration data that nobody collected: distilled where the network allows it, made by rules elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ptqc.calibrate.cache import Cache, content_key
from ptqc.calibrate.contract import InputContract, Kind
from ptqc.calibrate.distillation.settings import AUTO, BATCH_NORM, METHODS, PROCEDURAL, WAYS, NotDistillable
from ptqc.calibrate.synthesis.assemble import procedural_info, synthesize
from ptqc.calibrate.synthesis.info import SyntheticInfo
from ptqc.core.errors import OptionError, nearest, quoted
from ptqc.core.progress import Progress
from ptqc.core.types import Array
from ptqc.graph.walk import graph_hash

PROCEDURAL_SAMPLES = 256
PROCEDURAL_BESIDE = 192  # distilled ones, where second moments need many: trials, docs/data-free.md
BESIDE_SEED = 1 << 19  # they are not those that distillation starts from
PROCEDURAL_BYTES = 160 << 20  # of a whole set, which is held in memory


@dataclass(frozen=True, slots=True, eq=False)
class Synthetic:
    """A made-up set.

    Attributes:
        arrays: samples by input name.
        notes: sentences for people, why it was made as it was.
    """

    arrays: Mapping[str, Array]
    info: SyntheticInfo
    notes: tuple[str, ...] = ()


def make_samples(
    model: ir.Model,
    statistics: ir.Model,
    contracts: Sequence[InputContract],
    method: str,
    samples: int | None,
    seed: int,
    progress: Progress,
    few_bits: bool = False,
) -> Synthetic:
    """Samples for ``model``.

    Args:
        model: the float model as loaded.
        statistics: the canonical graph of the same network with BatchNormalization's statistics in its metadata.
        method: ``auto``: distilled if possible, else by rules; ``none``: by rules; or a way to distil.
        samples: how many; None for as many as are useful.
        few_bits: they are for rounding weights to few bits. ``auto`` then adds images made by rules to distilled ones.

    Raises:
        NotDistillable: ``method`` names a way to distil that this model does not allow.
        OptionError: an unknown method, or contracts that cannot be served.
    """
    if method not in WAYS:
        raise OptionError(f"--distill does not know {quoted(method)}", fix=nearest(method, WAYS))
    if method == PROCEDURAL:
        return _procedural(model, contracts, samples, seed, progress)
    if method != AUTO:
        return _distilled(statistics, contracts, METHODS[method].method, samples, seed, progress)
    try:
        found = _distilled(statistics, contracts, BATCH_NORM.method, samples, seed, progress)
    except NotDistillable as reason:
        rules = _procedural(model, contracts, samples, seed, progress)
        note = f"samples were made by rules, as nothing could be distilled: {reason.why}"
        return replace(rules, notes=(note, *rules.notes))
    if not has_converged(found.info):
        losses = found.info.losses
        why = (
            f"as distillation did not converge: the loss fell from {losses['noise']:.3g} (noise) to {losses['end']:.3g}"
        )
        return _united(found, _procedural(model, contracts, samples, seed, progress), why)
    if few_bits and samples is None and any(contract.kind is Kind.IMAGE for contract in contracts):
        rules = _procedural(model, contracts, None, seed + BESIDE_SEED, progress, PROCEDURAL_BESIDE)
        return _united(found, rules, "as rounding to few bits needs many")
    return found


def _procedural(
    model: ir.Model,
    contracts: Sequence[InputContract],
    samples: int | None,
    seed: int,
    progress: Progress,
    most: int = PROCEDURAL_SAMPLES,
) -> Synthetic:
    one = sum(int(np.prod(contract.sample_shape)) * contract.dtype.itemsize for contract in contracts)
    count = samples or max(1, min(most, PROCEDURAL_BYTES // max(one, 1)))
    arrays = synthesize(contracts, count, seed, model, lambda done, total: progress("synthesize", done, total))
    return Synthetic(arrays, procedural_info(contracts, count, seed))


def _distilled(
    model: ir.Model,
    contracts: Sequence[InputContract],
    method: str,
    samples: int | None,
    seed: int,
    progress: Progress,
) -> Synthetic:
    from ptqc.calibrate.distillation.distill import distill, fitted

    settings = fitted(METHODS[method], model, contracts)
    settings = settings if samples is None else replace(settings, samples=samples)
    cache = Cache.of_user()
    key = content_key(
        graph=graph_hash(model),
        metadata=dict(model.metadata_props),
        contracts=[repr(contract) for contract in contracts],
        settings=repr(settings),
        seed=seed,
    )
    stored = _restored(cache.load_arrays(key), contracts, settings.samples)
    if stored is not None:
        return stored
    found = distill(model, contracts, settings, seed, progress)
    info = replace(
        procedural_info(contracts, settings.samples, seed),
        source="distilled",
        method=settings.method,
        losses=found.losses,
        steps=found.steps,
    )
    said = {INFO: np.array(info.to_text()), NOTES: np.array(found.notes, np.str_)}
    cache.store_arrays(key, {**found.arrays, **said})
    return Synthetic(found.arrays, info, found.notes)


def _restored(stored: dict[str, Array] | None, contracts: Sequence[InputContract], samples: int) -> Synthetic | None:
    """A set from the cache; None where it is not there, or is not what was asked for."""
    wanted = {contract.name: (samples, *contract.sample_shape) for contract in contracts}
    if stored is None or set(stored) != {INFO, NOTES, *wanted}:
        return None
    text, notes = stored.pop(INFO), stored.pop(NOTES)
    if {name: array.shape for name, array in stored.items()} != wanted:
        return None
    try:
        info = SyntheticInfo.parse(str(text))
    except ValueError:
        return None
    return Synthetic(stored, info, tuple(map(str, notes)))


INFO, NOTES = "ptqc.synthetic", "ptqc.notes"  # no names of inputs; files have the first one too
# Of the loss of white noise. The class term leaves good sets at up to a quarter; the network that failed ended at 0.7.
CONVERGED = 0.4


def has_converged(info: SyntheticInfo) -> bool:
    """Whether samples were distilled until the statistics fitted far better than those of white noise do."""
    return bool(info.losses) and info.losses["end"] <= CONVERGED * info.losses["noise"]


def _united(distilled: Synthetic, rules: Synthetic, why: str) -> Synthetic:
    """The distilled samples first, then those made by rules."""
    note = f"{rules.info.samples} samples made by rules were added, {why}"
    count = distilled.info.samples + rules.info.samples
    info = replace(distilled.info, samples=count, method=f"{distilled.info.method} and procedural")
    arrays = {name: np.concatenate([array, rules.arrays[name]]) for name, array in distilled.arrays.items()}
    return Synthetic(arrays, info, (note, *distilled.notes))
