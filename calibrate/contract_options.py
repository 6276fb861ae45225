"""What users and metadata say about inputs: ``name:kind=image,range=0:1,shape=1x3x224x224`` as text or as a table."""

import math
import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ptqc.calibrate.contract import GREATEST, Kind
from ptqc.calibrate.preprocess import Preprocessing
from ptqc.core.errors import OptionError, nearest, quoted

UNITS = ("mean", "std", "scale")
STEPS = (*UNITS, "color", "layout")
KEYS = ("kind", "range", *STEPS, "shape", "vocabulary", "value")
# What a key says of the kind where that is not given, and the only kinds that it fits.
IMPLIED = {**dict.fromkeys(STEPS, Kind.IMAGE), "vocabulary": Kind.TOKENS, "value": Kind.VALUE}
MAX_ELEMENTS = 1 << 28
MAX_VOCABULARY = 1 << 24
EXAMPLES = {"range": "range=0:1", "vocabulary": "vocabulary=30522", "value": "value=16000"}
HEAD = re.compile(r"(?:(.*?):)?\s*([A-Za-z_]+)\s*=")


@dataclass(frozen=True, slots=True)
class Declared:
    """What somebody says of one input; None or empty where nothing is said.

    Attributes:
        name: of the input; empty for the only one.
        kind: given, or implied by the other keys.
        range: least and greatest legal value, as the model takes them.
        steps: of an image: some of mean, std, scale, color and layout, as :class:`Preprocessing` reads them.
        shape: of a call with one sample.
        vocabulary: number of tokens.
        value: the same in every call.
    """

    name: str = ""
    kind: Kind | None = None
    range: tuple[float, float] | None = None
    steps: tuple[tuple[str, str], ...] = ()
    shape: tuple[int, ...] | None = None
    vocabulary: int | None = None
    value: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Declared":
        """Reads ``NAME:key=value,key=value``; the name may be left out, and may hold colons.

        Raises OptionError for anything else; names the nearest key.
        """
        head = HEAD.match(text)
        if head is None:
            raise OptionError(
                f"{quoted(text)} says nothing of an input",
                why=f"the keys are {', '.join(KEYS)}",
                fix="write it like name:kind=image,range=0:1",
            )
        name = head[1] or ""
        table: dict[str, Any] = {}
        for part in text[head.start(2) :].split(","):
            key, separator, value = (item.strip() for item in part.partition("="))
            if not separator or key in table:
                what = "is given twice" if key in table else "has no value"
                raise OptionError(f"the key {quoted(key)} {what}", where=_where(name), fix="write key=value pairs")
            table[key] = value
        return cls.from_table(name.strip(), table)

    @classmethod
    def from_table(cls, name: str, table: Mapping[str, Any]) -> "Declared":
        """Reads a table ``[inputs.NAME]``: numbers, lists of numbers, or the texts that :meth:`parse` takes.

        Raises OptionError for unknown keys (names the nearest), values that make no sense, and keys that contradict
        each other.
        """
        where = _where(name)
        for key in table:
            if key not in KEYS:
                raise OptionError(f"inputs have no key {quoted(key)}", where=where, fix=nearest(str(key), KEYS))
        declared = cls(
            name=name,
            kind=_kind(table["kind"], where) if "kind" in table else None,
            range=_range(table["range"], where) if "range" in table else None,
            steps=tuple((key, _plain(table[key])) for key in STEPS if key in table),
            shape=_shape(table["shape"], where) if "shape" in table else None,
            vocabulary=_vocabulary(table["vocabulary"], where) if "vocabulary" in table else None,
            value=_number(table["value"], "value", where) if "value" in table else None,
        )
        Preprocessing.from_table(dict(declared.steps))
        return declared.checked()

    def checked(self) -> "Declared":
        """With the kind that the keys imply. OptionError where they contradict the kind or each other."""
        where, given = _where(self.name), self.keys()
        implied = {key: IMPLIED[key] for key in given if key in IMPLIED}
        kind = self.kind or next(iter(implied.values()), None)
        for key, fits in implied.items():
            if fits is not kind:
                raise OptionError(
                    f"{key} says nothing of an input of the kind {kind}",
                    where=where,
                    why=f"it belongs to the kind {fits}",
                    fix=f"leave out {key}, or give kind={fits}",
                )
        if self.range is not None and kind in (Kind.TOKENS, Kind.VALUE):
            key = "vocabulary" if kind is Kind.TOKENS else "value"
            raise OptionError(f"an input of the kind {kind} has no range", where=where, fix=f"give {key} instead")
        return replace(self, kind=kind)

    def keys(self) -> tuple[str, ...]:
        """The keys that are given, in the order of KEYS."""
        said = dict(self.steps)
        return tuple(key for key in KEYS if key in said or (key not in STEPS and getattr(self, key) is not None))

    def or_else(self, other: "Declared") -> "Declared":
        """What is said here, and from ``other`` what is not; other units of images do not mix."""
        if self.kind is not None and other.kind is not None and self.kind is not other.kind:
            return replace(self, shape=self.shape or other.shape)
        units = self.range is not None or any(key in UNITS for key, _ in self.steps)
        steps = {key: value for key, value in other.steps if not (units and key in UNITS)} | dict(self.steps)
        return Declared(
            name=self.name or other.name,
            kind=self.kind or other.kind,
            range=self.range if units or self.range is not None else other.range,
            steps=tuple((key, steps[key]) for key in STEPS if key in steps),
            shape=self.shape or other.shape,
            vocabulary=other.vocabulary if self.vocabulary is None else self.vocabulary,
            value=other.value if self.value is None else self.value,
        )

    def text(self) -> str:
        """The inverse of :meth:`parse`."""
        said: dict[str, str] = dict(self.steps)
        if self.kind is not None:
            said["kind"] = str(self.kind)
        if self.range is not None:
            said["range"] = ":".join(map(repr, self.range))
        if self.shape is not None:
            said["shape"] = "x".join(map(str, self.shape))
        if self.vocabulary is not None:
            said["vocabulary"] = str(self.vocabulary)
        if self.value is not None:
            said["value"] = repr(self.value)
        pairs = ",".join(f"{key}={said[key]}" for key in KEYS if key in said)
        return f"{self.name}:{pairs}" if self.name else pairs


Given = Iterable[str] | Mapping[str, str | Mapping[str, Any]]


def read_declared(given: Given, names: tuple[str, ...]) -> dict[str, Declared]:
    """What is said, by name of the input; of two texts for one input the later one wins, key by key.

    Args:
        given: texts as :meth:`Declared.parse` takes them, or tables (or texts without name) by name.
        names: of the model's inputs.

    Raises:
        OptionError: a text or table makes no sense, the model has no such input, or a name is missing.
    """
    if isinstance(given, str):
        given = (given,)
    if isinstance(given, Mapping):
        said = [
            replace(Declared.parse(value), name=name) if isinstance(value, str) else Declared.from_table(name, value)
            for name, value in given.items()
        ]
    else:
        said = [Declared.parse(text) for text in given]
    found: dict[str, Declared] = {}
    for one in said:
        if not one.name and len(names) != 1:
            raise OptionError(
                "a name is missing", where="--input", why="the model has several inputs", fix=f"write {names[0]}:..."
            )
        name = one.name or names[0]
        if name not in names:
            raise OptionError(f"the model has no input {quoted(name)}", where="--input", fix=nearest(name, names))
        found[name] = replace(one, name=name).or_else(found[name]) if name in found else replace(one, name=name)
    return found


def _where(name: str) -> str:
    return f"input {quoted(name)}" if name else "--input"


def _plain(value: Any) -> str:
    """A value of a table as the text would have it."""
    return ":".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _kind(value: Any, where: str) -> Kind:
    words = [str(kind) for kind in Kind]
    if value not in words:
        raise OptionError(f"there is no kind {quoted(value)}", where=where, fix=nearest(str(value), words))
    return Kind(value)


def _number(value: Any, key: str, where: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= GREATEST:
        what = f"{key}: {quoted(value)} is no number, or too large"
        raise OptionError(what, where=where, fix=f"write it like {EXAMPLES[key]}")
    return number


def _range(value: Any, where: str) -> tuple[float, float]:
    parts = _plain(value).split(":")
    if len(parts) != 2:
        raise OptionError(f"{quoted(_plain(value))} is no range", where=where, fix="write it like range=0:1")
    low, high = (_number(part, "range", where) for part in parts)
    if not high - low >= 1 / GREATEST:
        raise OptionError(f"the range {low:g}:{high:g} is empty", where=where, fix="write the lower end first")
    return low, high


def _shape(value: Any, where: str) -> tuple[int, ...]:
    parts = value.lower().split("x") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else ()
    try:
        sizes = tuple(int(part) if isinstance(part, str) else operator.index(part) for part in parts)
    except (TypeError, ValueError):
        sizes = ()
    if not sizes or min(sizes) < 1 or math.prod(sizes) > MAX_ELEMENTS:
        raise OptionError(
            f"{quoted(_plain(value))} is no shape",
            where=where,
            why=f"a shape has sizes from 1 on and at most {MAX_ELEMENTS:,} elements",
            fix="write it like shape=1x3x224x224, with the first axis as the model has it",
        )
    return sizes


def _vocabulary(value: Any, where: str) -> int:
    number = _number(value, "vocabulary", where)
    if not number.is_integer() or not 1 <= number <= MAX_VOCABULARY:
        raise OptionError(f"{quoted(value)} is no number of tokens", where=where, fix="write it like vocabulary=30522")
    return int(number)
