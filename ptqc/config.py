"""``ptqc.toml``: options of ``ptqc quantize`` in a file, under the names that they have on the command line.

The command line wins over the file. Paths are relative to the file. What runs code of the user (a pass or metric
written as module:function) or overwrites files is not read from a file, as it may have come with a model.
"""

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ptqc.calibrate.contract_options import Declared
from ptqc.calibrate.distillation.settings import WAYS
from ptqc.calibrate.observers import range_method
from ptqc.calibrate.preprocess import Preprocessing
from ptqc.core.errors import OptionError, nearest, quoted

FILE_NAME = "ptqc.toml"
MAX_BYTES = 1 << 20

Reader = Callable[[Any], Any]


class _Unfit(Exception):
    """A value is of the wrong kind; the text says what would fit."""


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _Unfit("text in quotes")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Unfit("true or false")
    return value


def _whole(least: int) -> Reader:
    def read(value: Any) -> int:
        if type(value) is not int or value < least:
            raise _Unfit(f"a whole number of at least {least}")
        return value

    return read


def _amount(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and value:
        return value
    raise _Unfit('a number, or text with a unit such as "60%"')


def _texts(value: Any) -> tuple[str, ...]:
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) and part for part in parts):
        raise _Unfit("text in quotes, or a list of texts")
    return tuple(parts)


def _names(value: Any) -> tuple[str, ...]:
    names = _texts(value)
    if any(":" in name for name in names):
        raise _Unfit("names of known passes or metrics; code of your own is named on the command line")
    return names


def _name(value: Any) -> str:
    return _names([_text(value)])[0]


def _word(*words: str) -> Reader:
    def read(value: Any) -> str:
        if value not in words:
            raise _Unfit(f"one of {', '.join(words)}")
        return str(value)

    return read


def _method(value: Any) -> str:
    name = _text(value)
    if name not in ("auto", "consumer-error"):
        range_method(name)
    return name


def _preprocess(value: Any) -> str:
    if isinstance(value, Mapping):
        return Preprocessing.from_table(value).text()
    Preprocessing.parse(_text(value))
    return str(value)


def _inputs(value: Any) -> tuple[str, ...]:
    """Texts as ``--input`` takes them, from tables by name of the input."""
    if not isinstance(value, Mapping) or not all(isinstance(table, Mapping) for table in value.values()):
        raise _Unfit("tables [inputs.NAME]")
    return tuple(Declared.from_table(name, table).text() for name, table in value.items())


PATHS = ("data", "stats-from", "eval-data", "output", "report", "table", "allocation")
OPTIONS: Mapping[str, Reader] = {
    **dict.fromkeys(PATHS, _text),
    "target": _text,
    "samples": _whole(1),
    "preprocess": _preprocess,
    "inputs": _inputs,
    "distill": _word(*WAYS),
    "calibration-method": _method,
    "format": _word("qdq", "qoperator", "portable"),
    "scales": _word("free", "pow2"),
    "multiplier-bits": _whole(3),
    "io": _word("float", "integer"),
    "allow-float": _texts,
    "prefer": _word("accuracy", "latency"),
    "cpu": _word("native", "vnni", "avx2"),
    "activations": _word("auto", "static", "dynamic"),
    "rounding": _word("second-order", "gptq", "nearest", "squant", "hqq", "adaround", "block"),
    "effort": _word("fast", "default", "best"),
    "weight-format": _word("auto", "uniform", "codebook"),
    "block-size": _whole(1),
    "packing": _word("folded", "plain"),
    "keep-float": _texts,
    "precision": _texts,
    "op-types": lambda value: ",".join(_texts(value)),
    "pass": _names,
    "check-passes": _flag,
    "no-measure": _flag,
    "metric": _name,
    "max-drop": _amount,
    "min-sqnr": _amount,
    "max-size": _amount,
    "max-latency": _amount,
    "max-bops": _amount,
    "same-bits": _texts,
    "sensitivity": _names,
    "min-speedup": _amount,
    "min-confidence": _word("A", "B", "C"),
    "keep-failed": _flag,
    "seed": _whole(0),
    "threads": _whole(1),
    "json": _flag,
    "verbose": _flag,
    "quiet": _flag,
}


def load_config(path: str | Path) -> dict[str, Any]:
    """The options in a ``ptqc.toml``, as the command line would have given them.

    Args:
        path: the file.

    Returns:
        Long option name with underscores (``keep_float``) -> value: text, bool, int, or a tuple of texts where the
        option may be repeated. ``preprocess`` is its text form, also where the file has a ``[preprocess]`` table;
        the tables ``[inputs.NAME]`` become the texts of ``input``.

    Raises:
        OptionError: the file cannot be read, is no TOML, or has an unknown key or a value that does not fit; names
            the file, the line where it is known, and the nearest valid key.
    """
    file = Path(path)
    text = _read(file)
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise OptionError("this is no TOML", where=str(file), why=str(error), fix="correct that line") from error
    found: dict[str, Any] = {}
    for key, value in table.items():
        where = _place(file, text, key)
        name = key.replace("_", "-")
        if name not in OPTIONS:
            raise OptionError(f"there is no option {quoted(key)}", where=where, fix=nearest(name, list(OPTIONS)))
        option = "input" if name == "inputs" else name.replace("-", "_")
        if option in found:
            raise OptionError(f"the option {quoted(key)} is given twice", where=where)
        found[option] = _checked(name, value, where)
        if name in PATHS:
            found[option] = str(file.parent / found[option])
    return found


def _checked(name: str, value: Any, where: str) -> Any:
    try:
        return OPTIONS[name](value)
    except _Unfit as error:
        raise OptionError(
            f"{quoted(value)} does not fit the option {name}", where=where, fix=f"give {error}"
        ) from error
    except OptionError as error:
        # Says in which file, in front of what the option's own reader says.
        place = f"{where}, {error.where}" if error.where else where
        raise OptionError(error.what, where=place, why=error.why, fix=error.fix) from error


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise OptionError(
            "the configuration cannot be read", where=str(file), why=str(error.strerror or error), fix="check the path"
        ) from error
    if len(data) > MAX_BYTES:
        raise OptionError("the configuration is larger than 1 MiB", where=str(file))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise OptionError("the configuration is not UTF-8 text", where=str(file), why=str(error)) from error


def _place(file: Path, text: str, key: str) -> str:
    """File and line of a key at the top of the file; tomllib itself does not tell lines."""
    pattern = re.compile(rf"^\s*(\[\s*)?[\"']?{re.escape(key)}[\"']?\s*[\]=.]")
    for number, line in enumerate(text.splitlines(), start=1):
        if pattern.match(line):
            return f"{file}, line {number}"
    return str(file)
