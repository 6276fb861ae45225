"""``ptqc targets``: the targets, and what each operator may be."""

import click

from ptqc.cli.console import Console
from ptqc.cli.options import output_options

# What a role means to somebody who asks for an operator's chances.
MEANINGS = {
    "linear": "integer products",
    "elementwise": "an integer kernel",
    "integer": "integer operators on the codes",
    "clamp": "absorbed by the range before it",
    "move": "moved as codes",
    "move-codes": "moved as codes",
    "rescale": "another scale for the same codes",
}
NO_KERNEL = "there is no integer kernel for it."
INTEGER_ONLY = (
    "These are refused where no rewrite gives them another form, and so is every other operator; "
    "--allow-float NODE leaves it in float."
)


@click.command("targets")
@click.argument("name", required=False)
@output_options
def command(name: str | None, console: Console) -> None:
    """List the targets; with the NAME of one, what each operator may be there, and why not."""
    from ptqc.targets.registry import find_target, target_names

    targets = [find_target(one) for one in ([name] if name else target_names())]
    if console.as_json:
        console.data(
            [
                {
                    "name": target.name,
                    "description": target.description,
                    "roles": {op: str(role) for op, role in sorted(target.roles.items())},
                    "float": dict(sorted(target.reasons.items())),
                }
                for target in targets
            ]
        )
        return
    from ptqc.report.text import plain_table

    table = plain_table("", ("target", False), ("description", False))
    for target in targets:
        table.add_row(target.name, target.description)
    console.show(table)
    if name:
        details = plain_table("Operators", ("operator", False), ("may be", False), ("why", False))
        for operator, role in sorted(targets[0].roles.items()):
            details.add_row(operator, MEANINGS.get(role, str(role)), "")
        for operator, reason in sorted(targets[0].reasons.items()):
            details.add_row(operator, "refused" if targets[0].integer else "float", reason)
        details.caption = INTEGER_ONLY if targets[0].integer else "Every other operator stays in float: " + NO_KERNEL
        console.show(details)
