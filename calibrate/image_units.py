"""In which units a model takes its pixels, where nobody says: what its BatchNorm statistics or its biases fit best."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ptqc.calibrate.preprocess import Preprocessing
from ptqc.core.types import Array
from ptqc.execute.tensors import TensorRunner
from ptqc.graph.walk import constant_array, is_op, single_consumer

Run = Callable[[Preprocessing, Sequence[str]], dict[str, Array]]
Channels = Array  # float64 [channels]

IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), scale=255.0)
UNIT = Preprocessing(scale=255.0)
RAW = Preprocessing(scale=1.0)
SIGNED = Preprocessing(mean=(0.5,), std=(0.5,), scale=255.0)
CAFFE = Preprocessing(mean=(104.0, 117.0, 123.0), scale=1.0, color="BGR")
# Most usual first: of two that fit about equally well, the earlier one is taken.
COLOR_UNITS = {
    "ImageNet mean and std": IMAGENET,
    "0 to 1": UNIT,
    "-1 to 1": SIGNED,
    "0 to 255": RAW,
    "BGR from 0 to 255 less the mean of ImageNet": CAFFE,
    "BGR from 0 to 1": Preprocessing(scale=255.0, color="BGR"),
    "BGR from 0 to 255": Preprocessing(scale=1.0, color="BGR"),
    "BGR from -1 to 1": Preprocessing(mean=(0.5,), std=(0.5,), scale=255.0, color="BGR"),
    "CIFAR-10 mean and std": Preprocessing(
        mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616), scale=255.0
    ),
    "from 0 to 255 less the mean of ImageNet": Preprocessing(mean=(123.68, 116.78, 103.94), scale=1.0),
}  # fmt: skip
GREY_UNITS = {
    "0 to 1": UNIT,
    "-1 to 1": SIGNED,
    "0 to 255": RAW,
    "MNIST mean and std": Preprocessing(mean=(0.1307,), std=(0.3081,), scale=255.0),
}
LAYERS = 3  # how deep evidence is looked for; deeper layers say less of the input
CLEARLY, SLACK = 1.2, 0.05  # a less usual candidate must fit so much better: images made by rules are no photographs
MOST_ROWS = 64
WELL = 0.75  # misfit of BatchNorm statistics (squared deviations and log-ratios) below which there is no doubt
FITS = 1.0  # mean squared log-ratio of biases to signals that still counts as evidence
CONSTANT = 0.05  # outputs that vary less than this between images, relative to their spread, see too small pixels


@dataclass(frozen=True, slots=True)
class Units:
    """Units of pixels, and what speaks for them; ``assumed`` where that is little."""

    steps: Preprocessing
    why: str
    assumed: bool = False


def find_units(model: ir.Model, name: str, channels: int, run: Run | None, color: str | None = None) -> Units:
    """The units of an image input, from the graph.

    Args:
        model: as loaded, BatchNormalization not folded.
        name: of the input.
        channels: 1 or 3.
        run: a few images, preprocessed by the given steps, through the model: the named tensors, first axis samples.
            None where that would take too much memory.
        color: order of the channels, where it is known.
    """
    candidates = _candidates(channels, color)
    found = _prelude(model, name)
    if found is None and run is not None:
        with np.errstate(all="ignore"):  # what is no number fits nothing
            found = _by_statistics(model, candidates, run) or _by_biases(model, candidates, run, color)
            found = found or _by_outputs(model, candidates, run)
    small = UNIT if channels == 1 else IMAGENET
    return found or _fallback(candidates, small, UNIT, "is assumed, as nothing in the graph tells")


def _by_statistics(model: ir.Model, candidates: Mapping[str, Preprocessing], run: Run) -> Units | None:
    norms = [node for node in model.graph if _is_statistics(node)][:LAYERS]
    misfits = {label: _norm_misfit(norms, run, steps) for label, steps in candidates.items() if norms}
    label = _best(misfits)
    if label is None:
        return None
    # Grey pictures are more often none of photographs: digits, X-rays and spectrograms come in units of their own.
    if misfits[label] < WELL and candidates is not GREY_UNITS:
        return Units(candidates[label], f"BatchNorm statistics fit {label} best")
    why = f"{label} is assumed, as it fits the BatchNorm statistics best, if not surely"
    return Units(candidates[label], why, assumed=True)


def _by_biases(model: ir.Model, candidates: Mapping[str, Preprocessing], run: Run, color: str | None) -> Units | None:
    """A folded BatchNorm leaves biases of about the size of the signals; that says little of the order of channels."""
    biased = [pair for node in model.graph if (pair := _bias(node)) is not None][: 2 * LAYERS]
    plain = {label: steps for label, steps in candidates.items() if color or steps.color is None or steps is CAFFE}
    misfits = {label: _bias_misfit(biased, run, steps) for label, steps in plain.items() if biased}
    label = _best(misfits)
    if label is None or misfits[label] >= FITS:
        return None
    why = f"without BatchNorm statistics, {label} is assumed, as it fits the biases of the convolutions best"
    return Units(candidates[label], why, assumed=True)


def _by_outputs(model: ir.Model, candidates: Mapping[str, Preprocessing], run: Run) -> Units | None:
    """Large pixels, where the outputs depend on these alone."""
    if not _sensitivity(model, run, UNIT) < CONSTANT < 2 * _sensitivity(model, run, RAW):
        return None
    why = "is assumed, as the outputs hardly depend on pixels from 0 to 1 and no BatchNorm statistics tell more"
    large = RAW if candidates is GREY_UNITS else CAFFE
    return _fallback(candidates, large, RAW, why)


def _candidates(channels: int, color: str | None) -> Mapping[str, Preprocessing]:
    """Units for that many channels, in the given order of channels."""
    candidates = GREY_UNITS if channels == 1 else COLOR_UNITS
    if channels == 1 or color is None:
        return candidates
    return {label: steps for label, steps in candidates.items() if (steps.color or "RGB") == color}


def _fallback(candidates: Mapping[str, Preprocessing], first: Preprocessing, second: Preprocessing, why: str) -> Units:
    """The first units, or the second where the order of channels rules the first out."""
    fits = {(steps.mean, steps.std, steps.scale): label for label, steps in reversed(list(candidates.items()))}
    key = next(key for key in ((one.mean, one.std, one.scale) for one in (first, second)) if key in fits)
    return Units(candidates[fits[key]], f"{fits[key]} {why}", assumed=True)


def _best(misfits: Mapping[str, float]) -> str | None:
    """The candidate of least misfit, where an earlier one that is nearly as good wins; None where none is finite."""
    least = min((misfit for misfit in misfits.values() if np.isfinite(misfit)), default=np.inf)
    return next((label for label, misfit in misfits.items() if misfit <= CLEARLY * least + SLACK < np.inf), None)


def _is_statistics(node: ir.Node) -> bool:
    constants = [constant_array(value) for value in node.inputs[3:5]] if is_op(node, "BatchNormalization") else []
    return len(constants) == 2 and all(array is not None for array in constants)


def _norm_misfit(norms: Sequence[ir.Node], run: Run, steps: Preprocessing) -> float:
    """How far means and deviations of BatchNorm inputs are from the stored ones, in deviations and log-ratios."""
    tensors = run(steps, [str(node.inputs[0].name) for node in norms if node.inputs[0] is not None])
    misfits = []
    for node, values in zip(norms, tensors.values(), strict=True):
        mean, variance = (np.asarray(constant_array(value), np.float64) for value in node.inputs[3:5])
        found, spread = _moments(values)
        deviation = np.sqrt(np.maximum(variance, 0) + 1e-6)
        # Symmetric in found and stored: signals that are too small must not look better than too large ones.
        misfits.append(np.mean((found - mean) ** 2 / (spread * deviation)) + np.mean(np.log(spread / deviation) ** 2))
    return float(np.mean(misfits))


def _bias_misfit(biased: Sequence[tuple[str, Array]], run: Run, steps: Preprocessing) -> float:
    """Mean squared log-ratio of biases and deviations: a folded BatchNorm leaves both of about one size."""
    tensors = run(steps, [name for name, _ in biased])
    ratios = []
    for _, bias in biased:
        _, spread = _moments(tensors[_])
        ratios.append(np.log(np.mean(bias.astype(np.float64) ** 2) / np.mean(spread**2)) / 2)
    return float(np.mean(np.square(ratios)))


def _sensitivity(model: ir.Model, run: Run, steps: Preprocessing) -> float:
    """Deviation of the first output between images, relative to its deviation within them."""
    values = next(iter(run(steps, [str(model.graph.outputs[0].name)]).values())).astype(np.float64)
    rows = values.reshape(len(values), -1)
    return float(rows.std(axis=0).mean() / max(rows.std(), 1e-30))


def _moments(values: Array) -> tuple[Channels, Channels]:
    """Mean and deviation of every channel of [N, C, ...]."""
    axes = (0, *range(2, values.ndim))
    wide = values.astype(np.float64)
    return wide.mean(axis=axes), np.sqrt(wide.var(axis=axes) + 1e-6)


def _bias(node: ir.Node) -> tuple[str, Array] | None:
    """The output and the bias of a convolution; the bias may stand in an Add behind it."""
    if not is_op(node, "Conv"):
        return None
    bias, output = node.inputs[2] if len(node.inputs) > 2 else None, node.outputs[0]
    after = single_consumer(output)
    if bias is None and after is not None and is_op(after, "Add"):
        bias = next((value for value in after.inputs if value is not output), None)
    array = constant_array(bias)
    if array is None or array.ndim == 0 or not np.any(array):
        return None
    return str(output.name), array.reshape(-1)


def _prelude(model: ir.Model, name: str) -> Units | None:
    """Units where the graph itself begins by shifting and scaling the pixels by constants."""
    value = next(value for value in model.graph.inputs if value.name == name)
    pixels: bool | None = None
    while (node := single_consumer(value)) is not None:
        if is_op(node, "Sub", "Div", "Mul", "Add"):
            constant = constant_array(next((item for item in node.inputs if item is not value), None))
            if constant is None or constant.size not in (1, 3):
                break
            size = float(np.abs(constant.astype(np.float64)).max())
            pixels = bool(pixels) or (size < 0.05 if is_op(node, "Mul") else size > 2)
        elif not is_op(node, "Cast", "Identity", "Transpose", "Resize", "Pad", "Unsqueeze", "Reshape"):
            break
        value = node.outputs[0]
    if pixels is None:
        return None
    label = "0 to 255" if pixels else "0 to 1"
    return Units(RAW if pixels else UNIT, f"the graph itself normalizes pixels from {label}")


def image_runner(model: ir.Model, feeds: Callable[[Preprocessing], Sequence[dict[str, Array]]]) -> Run:
    """Runs images through parts of the model; sessions are kept, as every candidate needs the same tensors.

    Large maps are thinned out: moments need no more.

    Args:
        feeds: the calls of the model for images preprocessed by the given steps.
    """
    runners: dict[tuple[str, ...], TensorRunner] = {}

    def run(steps: Preprocessing, tensors: Sequence[str]) -> dict[str, Array]:
        key = tuple(tensors)
        if key not in runners:
            runners[key] = TensorRunner(model, key)
        calls = [{name: _thinned(array) for name, array in runners[key].run(feed).items()} for feed in feeds(steps)]
        return {name: np.concatenate([call[name] for call in calls]) for name in key}

    return run


def _thinned(values: Array) -> Array:
    """Every n-th row and column of [N, C, H, W], so that about MOST_ROWS are left; anything else unchanged."""
    if values.ndim != 4:
        return values
    rows, columns = (-(-size // MOST_ROWS) for size in values.shape[2:])
    return np.ascontiguousarray(values[:, :, ::rows, ::columns])
