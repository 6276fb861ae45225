"""The vocabulary of quantization: integer types, parameters of a tensor, precision of a node."""

import re
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ptqc.core.errors import OptionError, quoted

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class QuantType:
    """An integer type of 1 to 16 bits (32 for biases), named as in ONNX: ``uint8``, ``int4``."""

    bits: int
    signed: bool

    def __post_init__(self) -> None:
        if not (1 <= self.bits <= 16 or self.bits == 32):
            raise ValueError(f"bits must lie in 1..16 or be 32, got {self.bits}")

    @property
    def qmin(self) -> int:
        """Least code."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def qmax(self) -> int:
        """Greatest code."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    @property
    def storage(self) -> np.dtype[Any]:
        """Smallest NumPy integer type that holds every code."""
        width = 8 if self.bits <= 8 else 16 if self.bits <= 16 else 32
        return np.dtype(f"{'int' if self.signed else 'uint'}{width}")

    def __str__(self) -> str:
        return f"{'int' if self.signed else 'uint'}{self.bits}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of ``str``."""
        match = re.fullmatch(r"(u?)int(\d+)", text)
        if match is None:
            raise ValueError(f"not an integer type: {text!r}")
        return cls(bits=int(match[2]), signed=not match[1])


UINT8 = QuantType(bits=8, signed=False)
INT8 = QuantType(bits=8, signed=True)
INT32 = QuantType(bits=32, signed=True)
WIDE = QuantType(bits=16, signed=True)  # of activations of integer-only models that 8 bits are too few for


CodebookKind = Literal["none", "tensor", "channel"]


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """How the weights of one node are stored.

    Attributes:
        bits: of one stored weight, 2 to 8.
        codebook: with ``tensor`` or ``channel`` the stored numbers are indices into 2**bits int8 codes, common to the
            tensor or of each output channel; with ``none`` they are the codes.
        block: so many weights along the summed axis share a scale; None: all of an output channel.
        zero_points: each block has one of its own.
    """

    bits: int = 8
    codebook: CodebookKind = "none"
    block: int | None = None
    zero_points: bool = False

    def __str__(self) -> str:
        names = {"none": f"int{self.bits}", "tensor": f"codebook{self.bits}", "channel": f"codebook{self.bits}/channel"}
        return names[self.codebook] + (f"/{self.block}" if self.block else "") + ("z" if self.zero_points else "")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of ``str``; ValueError for anything else."""
        match = re.fullmatch(r"(int|codebook)([2-8])(/channel)?(?:/(\d+))?(z?)", text)
        if match is None or (match[1] == "int" and match[3]) or match[4] == "0":
            raise ValueError(f"not a way to store weights: {text!r}")
        codebook: CodebookKind = "none" if match[1] == "int" else "channel" if match[3] else "tensor"
        return cls(int(match[2]), codebook, int(match[4]) if match[4] else None, bool(match[5]))


@dataclass(frozen=True, slots=True, eq=False)
class QuantParams:
    """How one tensor is quantized: ``real = scale * (code - zero_point)``.

    Attributes:
        type: integer type of the codes.
        scale: float32, [] per tensor, [C] per channel, or per block of the rank of the tensor; positive and finite.
        zero_point: int64 of the shape of ``scale``, within the type's range.
        axis: channel axis of the tensor where ``scale`` is [C]; the axis cut into blocks where there are blocks.
        narrow: the lowest code of a signed type is not used (-127..127).
        block: so many neighbours along ``axis`` share a scale, the last block may be shorter; None without blocks.
        codebook: the only codes in use, int8, ascending: [L] for the tensor or [C, L] for each channel along ``axis``;
            None where all codes of ``type`` are.
    """

    type: QuantType
    scale: Array
    zero_point: Array
    axis: int | None = None
    narrow: bool = False
    block: int | None = None
    codebook: Array | None = None

    def __post_init__(self) -> None:
        scale = np.asarray(self.scale, np.float32)
        zero_point = np.broadcast_to(np.asarray(self.zero_point, np.int64), scale.shape).copy()
        if self.block is None and scale.ndim != (0 if self.axis is None else 1):
            raise ValueError(f"scale of shape {scale.shape} does not fit axis {self.axis}")
        if self.block is not None and (self.axis is None or self.block < 1 or not 0 <= self.axis < scale.ndim):
            raise ValueError(f"scale of shape {scale.shape} does not fit blocks of {self.block} along {self.axis}")
        if self.codebook is not None:
            object.__setattr__(self, "codebook", self._checked_codebook(scale))
            if zero_point.any():
                raise ValueError("codes of a codebook count from 0: it has no zero point")
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise ValueError("scales must be positive and finite")
        if ((zero_point < self.type.qmin) | (zero_point > self.type.qmax)).any():
            raise ValueError(f"zero point outside {self.type}")
        scale.flags.writeable = zero_point.flags.writeable = False
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "zero_point", zero_point)

    def _checked_codebook(self, scale: Array) -> Array:
        codebook = np.array(self.codebook, np.int8)
        channels = () if codebook.ndim == 1 else scale.shape
        if codebook.ndim not in (1, 2) or codebook.shape[:-1] != channels or (codebook.ndim == 2 and self.block):
            raise ValueError(f"a codebook of shape {codebook.shape} does not fit a scale of shape {scale.shape}")
        if (np.diff(codebook.astype(np.int64), axis=-1) < 0).any() or (codebook < self.qmin).any():
            raise ValueError("the codes of a codebook must ascend and be those of the type")
        codebook.flags.writeable = False
        return codebook

    @property
    def stored_bits(self) -> int:
        """Bits of one stored number."""
        return self.type.bits if self.codebook is None else int(self.codebook.shape[-1] - 1).bit_length()

    @property
    def qmin(self) -> int:
        """Least code in use."""
        return self.type.qmin + (1 if self.narrow and self.type.signed else 0)

    @property
    def qmax(self) -> int:
        """Greatest code in use."""
        return self.type.qmax

    @property
    def low(self) -> Array:
        """Least real value, float64, shape of ``scale``."""
        low: Array = self.scale.astype(np.float64) * (self.qmin - self.zero_point)
        return low

    @property
    def high(self) -> Array:
        """Greatest real value, float64, shape of ``scale``."""
        high: Array = self.scale.astype(np.float64) * (self.qmax - self.zero_point)
        return high

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QuantParams) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.type, self.scale.tobytes(), self.zero_point.tobytes(), self.axis, self.narrow, self.block))

    def to_json(self) -> dict[str, object]:
        """Plain data; float32 scales survive exactly as Python floats."""
        found: dict[str, object] = {
            "type": str(self.type),
            "scale": self.scale.astype(float).tolist(),
            "zero_point": self.zero_point.tolist(),
            "axis": self.axis,
            "narrow": self.narrow,
        }
        if self.block is not None:
            found["block"] = self.block
        if self.codebook is not None:
            found["codebook"] = self.codebook.tolist()
        return found

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of :meth:`to_json`; ValueError on anything else."""
        return cls(
            type=QuantType.parse(data["type"]),
            scale=np.asarray(data["scale"], np.float32),
            zero_point=np.asarray(data["zero_point"], np.int64),
            axis=data["axis"],
            narrow=data["narrow"],
            block=data.get("block"),
            codebook=None if data.get("codebook") is None else np.asarray(data["codebook"], np.int8),
        )


@dataclass(frozen=True, slots=True)
class Precision:
    """Bits of the weights and of the activations of one node; None stands for float."""

    weight_bits: int | None
    activation_bits: int | None

    def __str__(self) -> str:
        if self.weight_bits is None and self.activation_bits is None:
            return "float"
        return f"w{self.weight_bits or 16}a{self.activation_bits or 16}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads ``w8a8``, ``a8w8`` or ``float`` in any case; 16 bits stand for float. OptionError otherwise."""
        lower = text.lower()
        if lower == "float":
            return cls(None, None)
        match = re.fullmatch(r"(?:w(\d+)a(\d+)|a(\d+)w(\d+))", lower)
        if match is None:
            raise OptionError(f"{quoted(text)} is no precision", fix="write it like w8a8, w4a8 or float")
        weight, activation = (int(match[1] or match[4]), int(match[2] or match[3]))
        return cls(None if weight >= 16 else weight, None if activation >= 16 else activation)


FLOAT_BITS = 32  # of what stays in float
FLOAT = Precision(None, None)


@dataclass(frozen=True, slots=True)
class NodeChoice:
    """One way to run and to store a node.

    Attributes:
        storage: of its weights; None where they are float.
    """

    precision: Precision
    storage: WeightFormat | None = None

    def __str__(self) -> str:
        return str(self.precision) if self.storage is None else f"{self.precision} {self.storage}"


KEPT_FLOAT = NodeChoice(FLOAT)
W8A8 = Precision(8, 8)

ActivationMode = Literal["static", "dynamic", "none"]


@dataclass(frozen=True, slots=True)
class Choice:
    """One admissible way to run one node on one target.

    Attributes:
        precision: bits of weights and activations.
        activations: ranges fixed at compile time (``static``), found at run time (``dynamic``), or not quantized.
    """

    precision: Precision
    activations: ActivationMode = "none"

    def __str__(self) -> str:
        return f"{self.precision} dynamic" if self.activations == "dynamic" else str(self.precision)


STATIC_INT8 = Choice(W8A8, "static")
DYNAMIC_INT8 = Choice(W8A8, "dynamic")
KEEP_FLOAT = Choice(FLOAT)
