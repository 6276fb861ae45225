"""Mixed precision as an integer program: one option for each item, least loss, under linear limits, ties and pairs."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Option:
    """One admissible choice.

    Attributes:
        name: for people: ``w4a8 codebook4``.
        loss: at least 0; losses of different items add up.
        costs: by resource; what is not named costs nothing.
    """

    name: str
    loss: float
    costs: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Item:
    """A node with its options, of which exactly one is taken; one alone is a fixed node."""

    name: str
    options: tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class Bound:
    """The costs of ``items`` (None: of all) in ``resource``, and ``fixed`` beside them, are at most ``most``.

    ``label``: what the user calls it, for messages.
    """

    resource: str
    most: float
    label: str
    fixed: float = 0.0
    items: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Tie:
    """Items that take options of one label: for each item the labels of its options, in order.

    ``label``: what holds them together, for messages (``--same-bits layer4,layer6``).
    """

    labels: Mapping[str, tuple[str, ...]]
    label: str


@dataclass(frozen=True, slots=True)
class PairTerm:
    """What two items cost beside the sum of what each costs.

    Attributes:
        first, second: names of items.
        resource: ``loss``, or a resource of the bounds.
        extra: [options of first][options of second], any sign.
    """

    first: str
    second: str
    resource: str
    extra: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Program:
    """Everything that a solver needs."""

    items: tuple[Item, ...]
    bounds: tuple[Bound, ...] = ()
    ties: tuple[Tie, ...] = ()
    pairs: tuple[PairTerm, ...] = ()


@dataclass(frozen=True, slots=True)
class Solution:
    """What the solver found.

    Attributes:
        chosen: index of the option of each item.
        loss: with pairs.
        used: of each bound, in order, with its fixed part.
        bound: least loss that any solution can have, as proven.
        solver: name and version.
        seconds: that it took.
    """

    chosen: Mapping[str, int]
    loss: float
    used: tuple[float, ...]
    bound: float
    solver: str
    seconds: float
