"""``ptqc allocate``: the best precision for every node of a cost table, under limits."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ptqc.cli.console import Console
from ptqc.cli.options import FILE, Once, output_options
from ptqc.core.errors import OptionError, quoted

if TYPE_CHECKING:
    from ptqc.core.allocation import Allocation
    from ptqc.core.cost import CostTable
    from ptqc.core.types import NodeChoice


@click.command("allocate")
@click.argument("table", type=FILE)
@click.option(
    "--max",
    "limits",
    multiple=True,
    metavar="NAME=LIMIT",
    help="At most so much: size=8.1MB, size=60%, bits=4.5, latency=3ms, bops=50%; may be repeated.",
)
@click.option(
    "--same-bits",
    multiple=True,
    metavar="A,B,...",
    help="Nodes, by name or pattern, that get one precision; may be repeated.",
)
@click.option(
    "--share",
    "shares",
    multiple=True,
    metavar="PATTERN=SHARE",
    help="The nodes that match use at most this part of every limit: 'attn*=0.4'; may be repeated.",
)
@click.option(
    "--keep",
    multiple=True,
    metavar="PATTERN=P",
    help="The nodes that match get this precision (w8a8, float), whatever that costs; may be repeated.",
)
@click.option("-o", "--output", cls=Once, type=FILE, metavar="PATH", help="Write the allocation as JSON.")
@click.option("--force", is_flag=True, help="Replace an output file that is no allocation.")
@output_options
def command(
    table: Path,
    limits: tuple[str, ...],
    same_bits: tuple[str, ...],
    shares: tuple[str, ...],
    keep: tuple[str, ...],
    output: Path | None,
    force: bool,
    console: Console,
) -> None:
    """Choose a precision for every node of the cost TABLE so that the model loses least within the limits.

    TABLE is what ptqc sensitivity writes, or anybody: docs/cost-table.md. The choice is proven to be the best, and
    ptqc quantize --target mixed --allocation takes it. A limit that no choice meets ends with exit code 1.
    """
    from ptqc.allocate.from_table import allocate
    from ptqc.allocate.from_table import same_bits as likeness
    from ptqc.cli.outputs import check_replaceable
    from ptqc.core.allocation import Allocation
    from ptqc.core.cost import CostTable
    from ptqc.core.limits import parse_limits
    from ptqc.graph.files import write_atomically

    wanted = parse_limits(limits)
    parts = [_share(text) for text in shares]
    if output is not None:
        check_replaceable(output, (table,), Allocation.from_text, "ptqc allocate", force=force)
    costs = CostTable.load(table)
    allowed = _allowed(costs, keep)
    alike = likeness([_names(text) for text in same_bits], list(allowed))
    allocation = allocate(costs, wanted, allowed=allowed, alike=alike, shares=parts)
    if output is not None:
        write_atomically(output, replace(allocation, seconds=0.0).text())  # the same table gives the same file
    if console.as_json:
        console.data(allocation.to_json())
        return
    _show(allocation, costs, console)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _share(text: str) -> tuple[str, float]:
    """``attn*=0.4`` or ``attn*=40%``. OptionError for anything else."""
    pattern, _, given = text.rpartition("=")
    number = given.strip().removesuffix("%")
    try:
        share = float(number) / (100 if number != given.strip() else 1)
    except ValueError:
        share = 0.0
    if not pattern or not 0 < share <= 1:
        raise OptionError(f"--share {quoted(text)} cannot be read", fix="write it like --share 'attn*=0.4', at most 1")
    return pattern, share


def _allowed(table: "CostTable", keep: Sequence[str]) -> "dict[str, list[NodeChoice]]":
    """The choices of every node after ``--keep``; the last pattern that matches a node wins.

    OptionError for text that cannot be read, a pattern of no node, and a precision that a node cannot have.
    """
    from ptqc.allocate.from_table import candidates, matching
    from ptqc.core.types import NodeChoice, Precision

    given = {
        name: [NodeChoice(cost.precision, cost.storage) for cost in costs] for name, costs in candidates(table).items()
    }
    allowed = dict(given)
    for text in keep:
        pattern, _, wanted = text.rpartition("=")
        if not pattern:
            raise OptionError(f"--keep {quoted(text)} cannot be read", fix="write it like --keep 'conv1=w8a8'")
        precision = Precision.parse(wanted.strip())
        for name in matching(pattern, given, f"--keep {quoted(text)}"):
            allowed[name] = [choice for choice in given[name] if choice.precision == precision]
            if not allowed[name]:
                known = ", ".join(dict.fromkeys(str(choice.precision) for choice in given[name]))
                raise OptionError(f"{quoted(name)} cannot be {precision}", where="--keep", fix=f"it can be {known}")
    return allowed


def _show(allocation: "Allocation", table: "CostTable", console: Console) -> None:
    from ptqc.report.allocation import allocation_info
    from ptqc.report.allocation_text import allocation_rows
    from ptqc.report.text import allocation_table, panel

    info = allocation_info(allocation, table)
    console.show(panel(allocation_rows(info), "choice of precisions"), allocation_table(info))
