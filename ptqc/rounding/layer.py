"""What every rounding method returns: the integers of one linear node, with what they cost."""

from collections.abc import Mapping
from dataclasses import dataclass

from ptqc.core.types import Array, QuantParams, WeightFormat
from ptqc.rounding.multipliers import MultiplierRule

# Words in the notes of rounded layers, by which reports know them.
TO_NEAREST = "rounded to nearest"
FEW_POSITIONS = "positions of calibration data"


@dataclass(frozen=True, slots=True)
class LayerRequest:
    """What is asked for one linear node.

    Attributes:
        node: its name.
        formats: admissible ways to store its weights; of several the one with the least error per byte is taken.
        entry_bits: of the codes in codebooks: 8, or 7 where the CPU saturates pairs of products.
        reason: why it has so many bits, a sentence for people; empty where there is nothing to say.
        multiplier: what its scales must make of the multipliers of its accumulators; None where these are free.
    """

    node: str
    formats: tuple[WeightFormat, ...]
    entry_bits: int = 8
    reason: str = ""
    multiplier: MultiplierRule | None = None


@dataclass(frozen=True, slots=True, eq=False)
class RoundedLayer:
    """The integers of one linear node.

    Attributes:
        params: of the weights: what the codes stand for, and how they are stored.
        codes: of the weights, in their own shape, int8.
        bias: float64 [O] in place of the node's own; None leaves it alone.
        error: mean squared error of the node's outputs on held-back samples relative to their power; None where it was
            not measured.
        nearest_error: the same with the weights rounded to nearest.
        note: a sentence for people where something did not go as usual, such as a fallback to nearest rounding.
    """

    params: QuantParams
    codes: Array
    bias: Array | None = None
    error: float | None = None
    nearest_error: float | None = None
    note: str = ""


Rounding = Mapping[str, RoundedLayer]  # by the name of the node
