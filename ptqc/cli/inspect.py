"""``ptqc inspect``: what is in a model, and what each node may become."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ptqc.cli.console import Console
from ptqc.cli.options import FILE, output_options

if TYPE_CHECKING:
    import onnx_ir as ir

    from ptqc.graph.describe import Description


@click.command("inspect")
@click.argument("model", type=FILE)
@click.option("--target", metavar="NAME", help="Also say what each node may be there, and why not.")
@click.option("--graph", is_flag=True, help="Print the graph as text.")
@output_options
def command(model: Path, target: str | None, graph: bool, console: Console) -> None:
    """Show operators, sizes and multiply-accumulates of MODEL; for a target what each node may become."""
    from ptqc.graph.describe import describe
    from ptqc.graph.load import import_model

    if target is not None:
        from ptqc.targets.registry import find_target

        find_target(target)  # before the model is read
    loaded = import_model(model, allow_quantized=target is None)
    described = describe(loaded)
    nodes = [] if target is None else _placed(loaded.model, target)
    text = _text(loaded.model) if graph else None
    if console.as_json:
        extra = {"target": target, "placement": nodes} if target else {}
        extra |= {} if text is None else {"graph": text}
        console.data({"version": 1, "model": str(model), **described.to_json(), **extra})
        return
    for note in described.notes:
        console.say(note)
    if text is not None:
        click.echo(text)
        return
    console.show(*_tables(described))
    if target is not None:
        console.show(_placement_table(nodes, target))


def _text(model: "ir.Model") -> str:
    from ptqc.graph.text import to_text

    return to_text(model)


def _placed(model: "ir.Model", name: str) -> list[dict[str, Any]]:
    """Every node of the graph that the target would quantize: what it becomes by default, and why."""
    from ptqc.allocate.formats import layer_requests, with_bits
    from ptqc.allocate.place import place
    from ptqc.allocate.restrict import Restrictions
    from ptqc.core.options import QuantizeOptions
    from ptqc.graph.costs import node_costs
    from ptqc.passes.base import PassContext
    from ptqc.passes.pipeline import canonical_passes, run_passes
    from ptqc.passes.registry import load_pass
    from ptqc.targets.registry import find_target

    target = find_target(name)
    prepared = model.clone()
    run_passes(prepared, [*canonical_passes(), *map(load_pass, target.prepare)], PassContext(target=name))
    free = Restrictions()
    placement = place(prepared, target, free)
    nodes = with_bits(placement.nodes, layer_requests(prepared, placement, free, target, QuantizeOptions(cpu="vnni")))
    choices = {node.name or "": [str(choice) for choice in target.choices(node)] for node in prepared.graph}
    return [
        {
            "name": cost.name,
            "op": cost.op,
            "may_be": choices[cost.name],
            "becomes": str(nodes[cost.name].choice),
            "why": nodes[cost.name].reason,
            "macs": cost.macs,
            "weight_bytes": cost.weight_bytes,
        }
        for cost in node_costs(prepared)
    ]


def _tables(described: "Description") -> list[Any]:
    from ptqc.report.summary import count_text, printable, size_text
    from ptqc.report.text import plain_table

    head = plain_table("", ("", False), ("", False))
    head.show_header = False
    for label, tensors in (("input", described.inputs), ("output", described.outputs)):
        for tensor in tensors:
            head.add_row(label, printable(str(tensor), 120))
    others = "".join(f", {printable(name)} {version}" for name, version in described.domains.items())
    head.add_row("opset", f"{described.opset}{others}; IR version {described.ir_version}")
    if described.producer:
        head.add_row("made by", printable(described.producer))
    head.add_row("size", f"{count_text(described.parameters)} parameters, {size_text(described.bytes)}")
    head.add_row("work", f"{count_text(described.macs)} multiply-accumulates a sample, {len(described.nodes)} nodes")
    table = plain_table("Operators", ("operator", False), ("nodes", True), ("MACs", True), ("weights", True))
    for operator, count in described.operators.items():
        costs = [node for node in described.nodes if node.op == operator]
        macs, weights = sum(node.macs for node in costs), sum(node.weight_bytes for node in costs)
        cells = (count_text(macs) if macs else "", size_text(weights) if weights else "")
        table.add_row(printable(operator), str(count), *cells)
    return [head, table]


def _placement_table(nodes: list[dict[str, Any]], target: str) -> Any:
    from ptqc.report.summary import count_text, printable
    from ptqc.report.text import plain_table

    columns = (("node", False), ("op", False), ("may be", False), ("becomes", False), ("MACs", True), ("why", False))
    table = plain_table(f"Nodes after the float rewrites for {target}", *columns)
    for node in nodes:
        macs = count_text(node["macs"]) if node["macs"] else ""
        names = (printable(node["name"], 200), printable(node["op"], 30), ", ".join(node["may_be"]), node["becomes"])
        table.add_row(*names, macs, printable(node["why"], 120))
    return table
