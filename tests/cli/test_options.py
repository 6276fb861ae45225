"""Options that several commands share."""

import click
import pytest
from click.testing import CliRunner

from ptqc.cli.options import Once
from ptqc.core.errors import OptionError


@click.command()
@click.option("-s", "--max-size", cls=Once, metavar="SIZE", default="all")
@click.option("--points", cls=Once, type=int)
def command(max_size, points):
    click.echo(f"{max_size!r} {points!r}")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], "'all' None"),
        (["--max-size", "2MB"], "'2MB' None"),
        (["-s", "", "--points=3"], "'' 3"),
    ],
)
def test_options_given_once_are_as_any_other(args, expected):
    assert CliRunner().invoke(command, args).output.strip() == expected


@pytest.mark.parametrize("args", [["--max-size", "1MB", "--max-size", "2MB"], ["-s", "1MB", "--max-size=2MB"]])
def test_options_given_twice_are_refused(args):
    with pytest.raises(OptionError, match="--max-size is given more than once: '1MB' and '2MB'"):
        CliRunner().invoke(command, args, catch_exceptions=False)


def test_a_configuration_gives_the_default_and_does_not_count():
    runner = CliRunner()
    assert runner.invoke(command, [], default_map={"max_size": "60%"}).output.strip() == "'60%' None"
    assert runner.invoke(command, ["-s", "2MB"], default_map={"max_size": "60%"}).output.strip() == "'2MB' None"


def test_the_help_does_not_ask_for_several():
    text = CliRunner().invoke(command, ["--help"]).output
    assert "--max-size SIZE" in text
