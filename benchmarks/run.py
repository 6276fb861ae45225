"""Measures and writes the tables: ``python -m benchmarks.run [--only images,zoo] [--models a,b] [--quick]``.

Figures go to ``benchmarks/results``, from there into the tables of README.md and docs/benchmarks.md. ``--quick`` looks
at few models and little data, prints and writes nothing. ``--only data-free``, ``int4``, ``integer`` and ``allocation``
go on where an earlier run ended; ``--force`` measures anew.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from benchmarks import (
    allocation,
    allocation_accuracy,
    allocation_additivity,
    allocation_latency,
    allocation_solver,
    data_free,
    data_free_costs,
    data_free_sensitivity,
    data_free_subjects,
    images,
    int4,
    integer,
    integer_proof,
    integer_readings,
    integer_speed,
    memory,
    results,
    tables,
    zoo,
)
from benchmarks.markdown import decibels

DATA_FREE = "data-free"
GROUPS = (DATA_FREE, int4.ALL, integer.ALL, allocation.ALL)  # all sections whose names begin like that
TEXT_SEEDS = {"minilm_l6": 1, "pylm": 3}  # without data; the encoder takes minutes
CONTINUED = (
    data_free.SECTION,
    *int4.RUNS,
    *integer.SECTIONS,
    *allocation.RUNS,
)  # sections that keep what an earlier run measured


def selected(section: str, quick: bool) -> tuple[str, ...]:
    """The models of a section."""
    for found in (int4.SECTIONS, integer.SECTIONS, allocation.SECTIONS):
        if section in found:
            return found[section].selected(quick)
    if section == "images":
        return images.QUICK if quick else images.MODELS
    if section == "zoo":
        return zoo.QUICK if quick else zoo.models()
    if section == data_free.SECTION:
        return data_free.QUICK if quick else data_free_subjects.subjects()
    if section == allocation_additivity.SECTION:
        return allocation_additivity.selected(quick)
    if section == allocation_latency.SECTION:
        return allocation_latency.selected(quick)
    if section == allocation_solver.SECTION:
        return allocation_solver.selected(quick)
    if section == "data-free-sensitivity":
        return data_free_sensitivity.MODELS[: 1 if quick else None]
    if section == "data-free-cost":
        return data_free_costs.MODELS[: 1 if quick else None]
    if section in ("text", "data-free-text"):
        return ("pylm",) if quick else ("minilm_l6", "pylm")
    return memory.MODELS[1:] if quick else memory.MODELS


def measure_text(name: str, quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """One transformer: ``rows``, one for each of float, ptqc and onnxruntime's dynamic quantization."""
    from benchmarks import text

    say(name)
    return {"rows": text.sentence_encoder() if name == "minilm_l6" else text.language_model()}


def measure_text_without_data(name: str, quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """One transformer: ``rows``: float, with data, without data for each seed."""
    from benchmarks import text

    say(name)
    return {"rows": text.without_data(name, range(1 if quick else TEXT_SEEDS[name]))}


def lines(name: str, record: dict[str, Any]) -> list[str]:
    """What is printed of a record."""
    if "refused" in record:
        return [f"{name:24} {record['refused']}"]
    if "runs" in record:
        return [
            f"{name:24} {source:20} seed {seed}: {told(found)}"
            for source, seeds in record["runs"].items()
            for seed, found in seeds.items()
        ]
    if of_mixed := allocation.lines(name, record):
        return of_mixed
    if "additivity" in record:
        return [f"{name:24} {allocation_additivity.brief(record)}"]
    if "latencies" in record:
        return [f"{name:24} {allocation_latency.brief(record)}"]
    if "programs" in record:
        return [f"{name:24} {allocation_solver.brief(record)}"]
    if "forms" in record:
        return [f"{name:24} {integer_speed.brief(record)}"]
    if "rows" in record:
        return [f"{name:24} {row}" for row in record["rows"]]
    if "commands" in record or "correlations" in record:
        return [
            f"{name:24} {key}: {value}"
            for part in ("commands", "correlations")
            for key, value in record.get(part, {}).items()
        ]
    if "peaks" in record:
        return [f"{name:24} peaks {record['peaks']} same bytes: {record['same_bytes']}"]
    return [f"{name:24} {variant:24} {line(found)}" for variant, found in record["variants"].items()]


def told(found: dict[str, Any]) -> str:
    """The figures of one run, whatever section it is of."""
    if "refused" in found or "failed" in found:
        return str(found.get("refused") or found["failed"])
    if "verdict" in found:
        return integer_proof.brief(found)
    if "correct" in found:
        return allocation_accuracy.brief(found)
    return integer_readings.brief(found) if "codes_differ" in found else data_free.brief(found)


def line(found: dict[str, Any]) -> str:
    """The figures of one quantized model."""
    if "speed" not in found:
        return str(found.get("refused") or found.get("failed"))
    parts = []
    if "top1" in found:
        parts = [f"top-1 {found['top1']['value']:.2%} {tables.difference(found)}"]
        parts.append(f"agree {found['agreement']['value']:.2%}")
    parts.append(f"sqnr {decibels(found['sqnr_db']['value'])} speed {tables.speed(found)}")
    parts.append(f"size {found['size']:.3f} int {found['integer_macs']:.1%} islands {len(found['islands'])}")
    return " ".join([*parts, f"{found['seconds']:.0f} s {found['peak_mb']:.0f} MB"])


def say(text: str) -> None:
    """Progress, on standard error."""
    click.echo(f"  {text}", err=True)


@click.command()
@click.option("--models", default="", help="Only these, separated by commas.")
@click.option("--only", default="", help="Sections: images, zoo, memory, text, data-free, int4, integer, allocation.")
@click.option("--quick", is_flag=True, help="Few models, little data; prints, writes nothing.")
@click.option("--force", is_flag=True, help="Measure again what sections that go on have measured before.")
@click.option(
    "--draws", default=int4.DRAWS, help="Of calibration images for the accuracy of integer-only and of mixed models."
)
@click.option("--tables", "only_tables", is_flag=True, help="Write the tables from the results that are there.")
def main(models: str, only: str, quick: bool, force: bool, draws: int, only_tables: bool) -> None:
    """Measure ptqc and onnxruntime.quantization on the models of the data folder."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    names, sections = ([part for part in text.split(",") if part] for text in (models, only))
    measures = {
        "images": images.measure,
        "zoo": zoo.measure,
        "memory": memory.measure,
        "text": measure_text,
        data_free.SECTION: data_free.measure,
        "data-free-text": measure_text_without_data,
        "data-free-sensitivity": data_free_sensitivity.measure,
        "data-free-cost": data_free_costs.measure,
        allocation_additivity.SECTION: allocation_additivity.measure,
        allocation_latency.SECTION: allocation_latency.measure,
        allocation_solver.SECTION: allocation_solver.measure,
        **{
            name: section.measure
            for found in (int4.SECTIONS, integer.sections(draws), allocation.sections(draws))
            for name, section in found.items()
        },
    }
    unknown = [section for section in sections if section not in measures and section not in GROUPS]
    if unknown:
        known = ", ".join([*measures, *GROUPS])
        raise click.UsageError(f"there is no section {', '.join(unknown)}; there are {known}")
    for group in GROUPS:
        if group in sections:
            sections += [section for section in measures if section.startswith(group)]
    chosen = {} if only_tables else {name: one for name, one in measures.items() if not sections or name in sections}
    wanted = {section: [n for n in selected(section, quick) if not names or n in names] for section in chosen}
    if force and not quick:  # all at once, so that a run that was interrupted goes on without it
        for section in CONTINUED:
            results.drop(section, wanted.get(section, ()))
    for section, measure in chosen.items():
        for name in wanted[section]:
            start = time.perf_counter()
            record = measure(name, quick, say)
            if not quick:
                results.store(section, name, record)
            click.echo("\n".join(lines(name, record)))
            say(f"{name}: {time.perf_counter() - start:.0f} s")
    if not quick:
        tables.write_tables()


if __name__ == "__main__":
    sys.exit(main())
