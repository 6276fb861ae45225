"""``ptqc report``: a report file for people."""

import sys
from pathlib import Path

import click

from ptqc.cli.console import Console
from ptqc.cli.options import FILE, output_options


@click.command("report")
@click.argument("path", metavar="REPORT", type=FILE)
@click.option("--html", type=FILE, metavar="PATH", help="Write one self-contained page; - is standard output.")
@click.option("--markdown", type=FILE, metavar="PATH", help="Write a summary for job pages; - is standard output.")
@output_options
def command(path: Path, html: Path | None, markdown: Path | None, console: Console) -> None:
    """Render a REPORT that quantize --report wrote: as text, or as HTML or Markdown."""
    from ptqc.report.report import Report

    report = Report.load(path)
    if html is not None:
        from ptqc.report.html import to_html

        write(html, to_html(report))
    if markdown is not None:
        from ptqc.report.markdown import to_markdown

        write(markdown, to_markdown(report))
    if console.as_json:
        console.data(report.to_json())
    elif html is None and markdown is None:
        from ptqc.report.text import report_renderables

        console.show(*report_renderables(report, everything=console.verbosity > 0))


def write(path: Path, text: str) -> None:
    """Writes a file whole or not at all; ``-`` stands for standard output. OutputError where that is impossible."""
    if str(path) == "-":
        sys.stdout.write(text)
        return
    from ptqc.graph.files import write_atomically

    write_atomically(path, text)
