"""Cost tables as CSV, for spreadsheets and for tables made by hand; as files of either form."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ptqc.core.cost import COST_VERSION, FACTS, MAKE, NUMBERS, READ_ERRORS, Cost, CostTable
from ptqc.core.errors import OptionError, nearest, quoted
from ptqc.core.plain import MAX_JSON_BYTES, check_keys, reason, to_plain

SCHEMA = "see docs/cost-table.md; the least is node,precision,sensitivity,bytes"
ORIGIN = "origin_"
COLUMNS = ("node", "precision", "storage", *NUMBERS, *(ORIGIN + name for name in NUMBERS))
# Lists are written one element a line, as readers of CSV limit the length of a cell.
LISTS = {"pair": "pairs", "group": "groups"}
SINGLE = ("version", *(name for name in FACTS if name not in LISTS.values()))
FORMULA = "=+-@\t\r"  # spreadsheets compute what begins with these: names get an apostrophe before


def load_table(path: Path) -> CostTable:
    """A cost table from a file: CSV where its name ends so, JSON otherwise. OptionError for anything else."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise OptionError("cannot read the cost table", where=quoted(path), why=why, fix="check the path") from error
    if len(content) > MAX_JSON_BYTES:
        raise OptionError("the cost table is too large", where=quoted(path), why="the limit is 64 MiB")
    try:
        text = content.decode("utf-8-sig")
        return from_csv(text) if is_csv(path) else CostTable.from_text(text)
    except UnicodeDecodeError as error:
        raise OptionError("this is no cost table", where=quoted(path), why="it is no UTF-8 text", fix=MAKE) from error
    except OptionError as error:
        where = f"{quoted(path)}, {error.where}" if error.where else quoted(path)
        raise OptionError(error.what, where=where, why=error.why, fix=error.fix) from error


def table_text(table: CostTable, path: Path) -> str:
    """The table in the form that the name of the file asks for; equal tables give equal text."""
    return to_csv(table) if is_csv(path) else table.text()


def is_csv(path: Path) -> bool:
    """Whether a file of this name holds CSV."""
    return path.suffix.lower() == ".csv"


def to_csv(table: CostTable) -> str:
    """The table as CSV (RFC 4180): lines ``# key: JSON`` with what concerns the whole table, then a row for each cost.

    Columns that are empty throughout are left out.
    """
    plain = to_plain(table.to_json())
    facts = [("version", plain["version"])]
    facts += [(name, plain[name]) for name in SINGLE[1:] if plain[name] and _known(plain[name])]
    facts += [(name, one) for name, many in LISTS.items() for one in plain[many]]
    rows = [_row(cost) for cost in table.costs]
    columns = [name for name in COLUMNS if name in COLUMNS[:2] or any(row.get(name) for row in rows)]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerows(
        [f"# {name}: {json.dumps(_known(value), sort_keys=True, allow_nan=False)}"] for name, value in facts
    )
    writer.writerow(columns)
    writer.writerows([row.get(name, "") for name in columns] for row in rows)
    return text.getvalue()


def from_csv(text: str) -> CostTable:
    """Reads what :func:`to_csv` wrote, or a table made by hand: ``node`` and ``precision`` and any other columns.

    Numbers without origin count as given. Raises OptionError, with the number of the line, for anything else.
    """
    reader = csv.reader(io.StringIO(text, newline=""))
    lines = _lines(reader)
    facts, header, number = _head(lines)
    costs = tuple(_cost(header, cells, number) for number, cells in lines)
    if not costs:
        raise _refused(number, "there is no row below the names of the columns")
    try:
        return CostTable.of_facts(costs, facts)
    except READ_ERRORS as error:
        raise OptionError("the cost table is damaged", why=reason(error), fix=SCHEMA) from error


def _known(value: Any) -> Any:
    """Plain data without what is not known."""
    return {key: one for key, one in value.items() if one is not None} if isinstance(value, dict) else value


def _row(cost: Cost) -> dict[str, str]:
    numbers = {name: repr(getattr(cost, name)) for name in cost.origin}
    storage = "" if cost.storage is None else str(cost.storage)
    names = {"node": _protected(cost.node), "precision": str(cost.precision), "storage": storage}
    return {**names, **numbers, **{ORIGIN + name: origin for name, origin in cost.origin.items()}}


def _protected(name: str) -> str:
    """The name with an apostrophe before it where a spreadsheet would take it for a formula."""
    ambiguous = name.startswith("'") and name[1:2] in tuple(FORMULA + "'")
    return f"'{name}" if ambiguous or name.startswith(tuple(FORMULA)) else name


def _unprotected(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:2] in tuple(FORMULA + "'") else cell


def _lines(reader: "csv._reader") -> Iterator[tuple[int, list[str]]]:  # type: ignore[name-defined]  # of the stubs
    """Number and cells of the lines that are not empty."""
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise _refused(reader.line_num, str(error)) from error
        if any(cell.strip() for cell in cells):
            yield reader.line_num, cells


def _head(lines: Iterator[tuple[int, list[str]]]) -> tuple[dict[str, Any], list[str], int]:
    """What concerns the whole table, the names of the columns, and the number of their line."""
    facts: dict[str, Any] = {}
    for number, cells in lines:
        if cells[0].startswith("##"):
            continue
        if not cells[0].startswith("#"):
            return facts, _header(cells, number), number
        _add_fact(facts, _joined(cells), number)
    raise OptionError("this is no cost table", why="it has no line with the names of columns", fix=SCHEMA)


def _joined(cells: Sequence[str]) -> str:
    """A line that spreadsheets, or people who do not quote, have cut at commas."""
    return ",".join(cells).rstrip(",")


def _add_fact(facts: dict[str, Any], line: str, number: int) -> None:
    match = re.fullmatch(r"#\s*(\w+)\s*:(.*)", line, re.DOTALL)
    if match is None:
        raise _refused(number, "a line with # is not '# key: JSON'", "begin comments with ##")
    name = match[1]
    if name not in (*SINGLE, *LISTS):
        raise _refused(number, f"{quoted(name)} is not known", nearest(name, (*SINGLE, *LISTS)))
    try:
        value = json.loads(match[2])
    except (ValueError, RecursionError) as error:
        raise _refused(number, f"what follows {name}: is no JSON") from error
    if name == "version" and value != COST_VERSION:
        why = f"this ptqc reads version {COST_VERSION}"
        raise OptionError(f"the cost table has version {quoted(value)}", why=why, fix=MAKE)
    if name in LISTS:
        facts.setdefault(LISTS[name], []).append(value)
    elif name in facts:
        raise _refused(number, f"{name} stands there twice")
    else:
        facts[name] = value


def _header(cells: Sequence[str], number: int) -> list[str]:
    header = [cell.strip() for cell in cells]
    while not header[-1]:
        header.pop()
    try:
        check_keys(dict.fromkeys(header), COLUMNS, "the table")
    except ValueError as error:
        why = "cells are separated by commas" if ";" in cells[0] or "\t" in cells[0] else str(error)
        raise _refused(number, why.replace("unknown key", "unknown column")) from error
    for name in ("node", "precision"):
        if name not in header:
            raise _refused(number, f"there is no column {name}")
    if len(set(header)) < len(header):
        raise _refused(number, "a column stands there twice")
    return header


def _cost(header: Sequence[str], cells: Sequence[str], number: int) -> Cost:
    if any(cell.strip() for cell in cells[len(header) :]) or len(cells) < len(header):
        raise _refused(number, f"there are {len(cells)} cells under {len(header)} columns")
    row = {name: cell.strip() if name != "node" else cell for name, cell in zip(header, cells, strict=False) if cell}
    try:
        if not row.get("precision"):
            raise ValueError("there is no precision")
        numbers = {name: _number(name, row[name]) for name in NUMBERS if row.get(name)}
        origin = {name: row.get(ORIGIN + name) or "given" for name in numbers}
        superfluous = [name for name in NUMBERS if row.get(ORIGIN + name) and name not in numbers]
        if superfluous:
            raise ValueError(f"{ORIGIN}{superfluous[0]} is there without {superfluous[0]}")
        plain: Mapping[str, Any] = {"precision": row["precision"], "storage": row.get("storage") or None}
        return Cost.from_json({"node": _unprotected(row.get("node", "")), **plain, **numbers, "origin": origin})
    except READ_ERRORS as error:
        raise _refused(number, reason(error)) from error


def _number(name: str, text: str) -> int | float:
    """A cell as a number. ValueError for anything else."""
    if re.fullmatch(r"\d+", text, re.ASCII):
        return int(text)
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text, re.ASCII | re.IGNORECASE):
        raise ValueError(f"{name} {quoted(text)} is no number")
    value = float(text)
    return int(value) if name not in ("sensitivity", "latency_us") and value.is_integer() else value


def _refused(number: int, why: str, fix: str = SCHEMA) -> OptionError:
    return OptionError("the cost table cannot be read", where=f"line {number}", why=why, fix=fix)
