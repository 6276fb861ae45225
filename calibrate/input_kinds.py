"""What an input stands for, guessed from its name, type, shape and the nodes that read it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ptqc.calibrate.contract import Kind
from ptqc.calibrate.convert import is_float
from ptqc.calibrate.source import InputSpec
from ptqc.graph.walk import constant_array, constant_tensor, is_op

# Nodes that hand their first input on without mixing channels or tokens.
CARRIERS = frozenset(
    """Add Cast Clip Concat Div Expand Flatten Identity Mul Pad Reshape Resize Slice Squeeze Sub Transpose Unsqueeze
    Gather BatchNormalization""".split()
)
MOST_STEPS = 200
NAMES = {
    Kind.SEGMENTS: r"token_type(_ids)?|segment(_ids|s)?|type_ids",
    Kind.POSITIONS: r"position(_ids|s)?|pos_ids",
    Kind.MASK: r"(.*[_.])?mask",
    Kind.TOKENS: r"(.*_)?(input_ids|ids|tokens?|bytes|chars?|text)",
    Kind.VALUE: r"sr|sample_?rate|sampling_?rate|fs",
    Kind.STATE: r"(.*[_.])?(states?|hidden|cache|memory|mem)([_.].*)?|past.*|[hc]_?([0n]|in|prev)|(h|c)x|[hc]\d*",
    Kind.SPECTRUM: r"(.*_)?((log_?)?mels?|spec|spectr(um|ogram)|fbank|mfcc|stft|mag(nitude)?|input_features)(_.*)?",
    Kind.AUDIO: r"(.*_)?(audio|wav|wave|waveform|speech|pcm|input_values|mix|noisy)(_.*)?",
    Kind.IMAGE: r"(.*_)?(image|images|img|pixel_values|picture|photo)(_.*)?",
}
PATTERNS = {kind: re.compile(pattern, re.IGNORECASE) for kind, pattern in NAMES.items()}
SPECTRAL = (65, 129, 257, 513, 1025, 2049)  # bins of a Fourier transform of 128 to 4096 samples
MELS = (40, 64, 80, 128)


@dataclass(frozen=True, slots=True)
class Guess:
    """A kind, what it was guessed from (a clause for people), and what the graph says besides.

    Attributes:
        rows: of the table that the input indexes, 0 where there is none.
        channels, layout: of an image, as its first convolution or its axes say; 0 and empty for other kinds.
    """

    kind: Kind
    why: str
    rows: int = 0
    channels: int = 0
    layout: str = ""


def named(kind: Kind, name: str) -> bool:
    """Whether a name is one that inputs of a kind usually have."""
    return PATTERNS[kind].fullmatch(name) is not None


def guess_kind(
    value: ir.Value, spec: InputSpec, specs: Sequence[InputSpec], outputs: Sequence[ir.Value]
) -> Guess | None:
    """The kind of an input; None where nothing speaks for any.

    Args:
        value: the input.
        spec: its description; ``specs`` those of all inputs, in order.
        outputs: of the model.
    """
    readers = _readers(value)
    if spec.shape is None:
        return None
    if spec.shape in ((), (1,)):
        return Guess(Kind.VALUE, f"its name {spec.name}") if named(Kind.VALUE, spec.name) else None
    if spec.dtype.kind == "b":
        return Guess(Kind.MASK, "its type bool")
    if is_float(spec.dtype):
        return _float_kind(spec, specs, outputs, readers)
    image = _image(spec, readers)
    if spec.dtype == np.uint8 and image is not None:
        return image
    return _index_kind(spec, readers)


def _float_kind(
    spec: InputSpec, specs: Sequence[InputSpec], outputs: Sequence[ir.Value], readers: list[tuple[ir.Node, int]]
) -> Guess | None:
    shape = spec.shape or ()
    if named(Kind.MASK, spec.name):
        return Guess(Kind.MASK, f"its name {spec.name}")
    state = _state(spec, specs, outputs, readers)
    if state is not None:
        return state
    spectrum = _spectrum(spec, readers)
    if spectrum is not None:
        return spectrum
    image = _image(spec, readers)
    if image is not None:
        return image
    conv = _first_conv(readers, rank=3)
    if len(shape) <= 3 and (named(Kind.AUDIO, spec.name) or (conv is not None and conv in (1, 2))):
        why = f"its name {spec.name}" if named(Kind.AUDIO, spec.name) else "the convolution over time that reads it"
        return Guess(Kind.AUDIO, why)
    if all(isinstance(size, int) for size in shape[1:]):
        sizes = "x".join(map(str, shape[1:])) or "1"
        return Guess(Kind.VECTOR, f"{sizes} numbers, of which the graph says no more")
    return None


def _index_kind(spec: InputSpec, readers: list[tuple[ir.Node, int]]) -> Guess | None:
    """Integers: by name first, as a table of two rows also reads masks; else by the table that they index."""
    rows = _table_rows(readers)
    for kind in (Kind.SEGMENTS, Kind.POSITIONS, Kind.MASK):
        if named(kind, spec.name):
            return Guess(kind, f"its name {spec.name}", rows)
    if rows:
        return Guess(Kind.TOKENS, f"it indexes a table of {rows} rows", rows)
    return Guess(Kind.TOKENS, f"its name {spec.name}") if named(Kind.TOKENS, spec.name) else None


def _readers(value: ir.Value) -> list[tuple[ir.Node, int]]:
    """Nodes that read the input directly or through carriers, with the position at which they do, nearest first."""
    found: list[tuple[ir.Node, int]] = []
    waiting, seen = [value], {value}
    while waiting and len(found) < MOST_STEPS:
        for usage in waiting.pop(0).uses():
            found.append((usage.node, usage.idx))
            carries = is_op(usage.node, *CARRIERS) and (usage.idx == 0 or is_op(usage.node, "Add", "Mul", "Concat"))
            if carries and usage.node.outputs[0] not in seen:
                seen.add(usage.node.outputs[0])
                waiting.append(usage.node.outputs[0])
    return found


def _first_conv(readers: list[tuple[ir.Node, int]], rank: int) -> int | None:
    """Channels that the first convolution with weights of that rank takes; None where there is none."""
    for node, index in readers:
        weight = node.inputs[1] if is_op(node, "Conv") and index == 0 else None
        if weight is not None and weight.shape is not None and len(weight.shape) == rank:
            width = weight.shape[1]
            return width * node.attributes.get_int("group", 1) if isinstance(width, int) else None
    return None


def _table_rows(readers: list[tuple[ir.Node, int]]) -> int:
    """Rows of the smallest constant that the input indexes, or that it is compared with (one-hot); 0 for none."""
    rows = []
    for node, index in readers:
        if is_op(node, "Gather") and index == 1:
            table = constant_tensor(node.inputs[0])
            axis = node.attributes.get_int("axis", 0)
            if table is not None and len(table.shape) >= 2:
                rows.append(int(table.shape.numpy()[axis]))
        elif is_op(node, "OneHot") and index == 0:
            depth = constant_array(node.inputs[1])
            rows += (
                [int(depth.reshape(-1)[0])]
                if depth is not None and depth.size == 1 and np.isfinite(depth).all()
                else []
            )
        elif is_op(node, "Equal"):
            codes = constant_array(node.inputs[1 - index])
            if codes is not None and codes.size > 1 and np.array_equal(codes.reshape(-1), np.arange(codes.size)):
                rows.append(codes.size)
    return min(rows, default=0)


def _image(spec: InputSpec, readers: list[tuple[ir.Node, int]]) -> Guess | None:
    shape = spec.shape or ()
    if len(shape) != 4:
        return None
    first, last = shape[1], shape[3]
    channels = _first_conv(readers, rank=4)
    sides = tuple(size for size in shape[1:] if isinstance(size, int) and size not in (1, 3))
    if channels not in (1, 3):
        known = next((size for size in (first, last) if size in (1, 3)), None)
        if channels is not None or not isinstance(known, int) or not all(size >= 8 for size in sides):
            return None
        channels, why = known, f"rank 4 with an axis of {known}"
    else:
        why = f"a first convolution of {channels} channel{'s' if channels > 1 else ''}"
    if isinstance(first, int) and first != channels and last != channels:
        return None
    turned = any(is_op(node, "Transpose") for node, _ in readers[:2])
    last_channels = last == channels and (first != channels or turned)
    return Guess(Kind.IMAGE, why, channels=channels, layout="NHWC" if last_channels else "NCHW")


def _spectrum(spec: InputSpec, readers: list[tuple[ir.Node, int]]) -> Guess | None:
    shape = spec.shape or ()
    if len(shape) < 2:
        return None
    if named(Kind.SPECTRUM, spec.name):
        return Guess(Kind.SPECTRUM, f"its name {spec.name}")
    bins = next((size for size in shape[1:] if size in SPECTRAL), None)
    if bins is not None and 3 not in shape[1:]:
        return Guess(Kind.SPECTRUM, f"an axis of {bins} frequencies")
    conv = _first_conv(readers, rank=3)
    if len(shape) == 3 and conv in MELS:
        return Guess(Kind.SPECTRUM, f"a convolution over time of {conv} bands")
    return None


def _state(
    spec: InputSpec, specs: Sequence[InputSpec], outputs: Sequence[ir.Value], readers: list[tuple[ir.Node, int]]
) -> Guess | None:
    if any(is_op(node, "LSTM", "GRU", "RNN") and index in (5, 6) for node, index in readers):
        return Guess(Kind.STATE, "a recurrent node begins with it")
    counterpart = next((value.name for value in outputs if _same_shape(spec, value)), None)
    if named(Kind.STATE, spec.name) and (counterpart is not None or len(specs) > 1):
        output = f" and the output {counterpart} of its shape" if counterpart else ""
        return Guess(Kind.STATE, f"its name {spec.name}{output}")
    plain = _spectrum(spec, readers) or _image(spec, readers)
    if counterpart is not None and spec is not specs[0] and plain is None:
        return Guess(Kind.STATE, f"the output {counterpart} of its shape")
    return None


def _same_shape(spec: InputSpec, value: ir.Value) -> bool:
    if spec.shape is None or value.shape is None or len(value.shape) != len(spec.shape):
        return False
    pairs = list(zip(spec.shape, value.shape, strict=True))
    known = [have == want for want, have in pairs if isinstance(want, int) and isinstance(have, int)]
    return bool(known) and all(known)
