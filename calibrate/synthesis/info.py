"""What a file of synthetic samples says of itself, and how such files are written and recognized."""

import json
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from ptqc.calibrate.arrays import DAMAGED, SYNTHETIC_KEY
from ptqc.calibrate.contract import GREATEST
from ptqc.core.errors import DataError
from ptqc.core.types import Array
from ptqc.graph.files import replace_together

MAX_BYTES = 4 << 20
MAX_TEXT = 1000  # characters of a name
SOURCES = ("procedural", "distilled")
LOSSES = ("noise", "start", "end")
VERSION = 1


@dataclass(frozen=True, slots=True)
class SyntheticInfo:
    """Where synthetic samples come from.

    Attributes:
        source: ``procedural``, or ``distilled`` from a model's statistics.
        seed: of everything random.
        samples: how many.
        method: of the distillation, or how the samples were made, for people.
        ranges: input name -> least and greatest legal value as the model takes it, over all channels; inputs without
            legal range are absent.
        losses: of a distillation: on ``noise``, at its ``start`` and at its ``end``.
        steps: of a distillation.
        kinds: of the inputs, ``image`` and so on, each once.
        assumed: the units of some input are a guess.
    """

    source: str
    seed: int
    samples: int
    method: str = ""
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)
    steps: int = 0
    kinds: tuple[str, ...] = ()
    assumed: bool = False

    def to_text(self) -> str:
        """As JSON."""
        ranges = {name: list(limits) for name, limits in self.ranges.items()}
        content = {"version": VERSION, **asdict(self), "ranges": ranges, "losses": dict(self.losses)}
        return json.dumps(content, allow_nan=False, sort_keys=True)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of :meth:`to_text`. ValueError for anything else: the text may come from anywhere."""
        try:
            data = json.loads(text)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        if not isinstance(data, dict) or data.get("version") != VERSION:
            raise ValueError(f"this is no description of synthetic data of version {VERSION}")
        try:
            losses = {_word(name, LOSSES): _number(loss) for name, loss in _table(data["losses"])}
            if losses and len(losses) != len(LOSSES):
                raise ValueError(f"the losses are not {', '.join(LOSSES)}")
            return cls(
                source=_word(data["source"], SOURCES),
                seed=_count(data["seed"]),
                samples=_count(data["samples"]),
                method=_text(data["method"]),
                ranges={_text(name): _limits(limits) for name, limits in _table(data["ranges"])},
                losses=losses,
                steps=_count(data["steps"]),
                kinds=tuple(_text(kind) for kind in data["kinds"]),
                assumed=data["assumed"] is True,
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"the description is incomplete: {error}") from error

    def sentence(self) -> str:
        """For notes: what the samples are."""
        made = f"distilled ({self.method})" if self.source == "distilled" else "made by rules"
        return f"the samples are synthetic: {made}, seed {self.seed}"


def _word(value: Any, valid: tuple[str, ...]) -> str:
    if value not in valid:
        raise ValueError(f"none of {', '.join(valid)}")
    return str(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ValueError("no text, or one too long")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError("no whole number")
    return int(value)


def _number(value: Any) -> float:
    # Compared, not converted: JSON has whole numbers that no float holds. NaN fails it, too.
    if type(value) not in (int, float) or not -sys.float_info.max <= value <= sys.float_info.max:
        raise ValueError("no finite number")
    return float(value)


def _limits(value: Any) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("a range has two ends")
    low, high = _number(value[0]), _number(value[1])
    if low > high or max(abs(low), abs(high)) > GREATEST:
        raise ValueError("a range begins above its end, or is too large")
    return low, high


def _table(value: Any) -> list[tuple[Any, Any]]:
    if not isinstance(value, dict):
        raise ValueError("no table")
    return list(value.items())


def save_samples(path: Path, arrays: Mapping[str, Array], info: SyntheticInfo) -> None:
    """Writes samples as .npz, whole or not at all, with what they are under the key ``ptqc.synthetic``.

    Args:
        arrays: samples by input name.

    Raises OutputError where the file cannot be written.
    """
    members = {**arrays, SYNTHETIC_KEY: np.array(info.to_text())}

    def write(file: BinaryIO) -> None:
        # Not numpy.savez: an input may be called like one of its arguments.
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in members.items():
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(array, order="C"), allow_pickle=False)

    replace_together({path: write})


def synthetic_info(data: Any) -> SyntheticInfo | None:
    """What ``data`` (a path, or arrays by name) says of itself; None where it is not of ptqc's making.

    Raises DataError for a description that is damaged, and for an archive that cannot be read.
    """
    if isinstance(data, Mapping):
        text, where = data.get(SYNTHETIC_KEY), "the data"
        return None if text is None else _parsed(str(text)[:MAX_BYTES], where)
    if not isinstance(data, str | Path) or Path(data).suffix.lower() != ".npz" or not Path(data).is_file():
        return None
    where = str(data)
    try:
        with zipfile.ZipFile(data) as archive:
            member = next((one for one in archive.infolist() if one.filename == f"{SYNTHETIC_KEY}.npy"), None)
            if member is None:
                return None
            if member.file_size > MAX_BYTES:
                raise ValueError("it is too long")
            with archive.open(member) as stream:
                text = _stored_text(stream.read(MAX_BYTES))
    except OSError as error:
        raise DataError("the file cannot be read", where=where, why=str(error.strerror or error)) from error
    except DAMAGED as error:
        raise _damaged(where, str(error)) from error
    return _parsed(text, where)


def _stored_text(content: bytes) -> str:
    """The text of a .npy file that holds a single one; NumPy's own reader would believe any size in the header."""
    import io

    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("it is stored in an unusual form")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    body = stream.read()
    if shape != () or dtype.kind != "U" or dtype.itemsize != len(body):
        raise ValueError("it is no text")
    return str(np.frombuffer(body, dtype)[0])


def _parsed(text: str, where: str) -> SyntheticInfo:
    try:
        return SyntheticInfo.parse(text)
    except ValueError as error:
        raise _damaged(where, str(error)) from error


def _damaged(where: str, why: str) -> DataError:
    return DataError(
        "the description of the synthetic samples cannot be read",
        where=where,
        why=why,
        fix=f"make the file again with ptqc synth, or leave the array {SYNTHETIC_KEY} out",
    )
