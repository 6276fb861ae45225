"""Latency of integer-only models: int8 and both families of scales, then float and the portable form, interleaved."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from benchmarks import results
from benchmarks.data_free_subjects import Feeds, calls
from benchmarks.int4_runs import Figures, Network, Say, Variant
from benchmarks.scoring import kernels, speeds
from ptqc.graph.load import import_model
from ptqc.graph.save import save_model
from ptqc.verify.portable import derive_portable

SECTION = "integer-speed"
FLOAT, PORTABLE = "float", "portable"
SECONDS, QUICK_SECONDS, MOST_ROUNDS = 40.0, 1.0, 20_000


def measure(rows: Mapping[str, Variant], name: str, quick: bool, say: Say) -> dict[str, Any]:
    """One model: ``forms`` (each of ``rows``, float, portable -> milliseconds and the first row's time by it).

    The portable form is that of the second row. A model whose figures are of these files is not measured again.
    """
    known = {} if quick else results.comparable(SECTION).get(name, {})
    if is_kept(known, rows):
        say(f"{name}: figures of commit {known['commit']} are kept; --force measures them anew")
        return dict(known)
    with tempfile.TemporaryDirectory(prefix="ptqc-bench-") as folder:
        network = Network.of(name, True, Path(folder))
        made: dict[str, tuple[Path, Figures]] = {}
        for row in rows.values():
            say(f"{name}: {row.name}")
            made[row.name] = network.file(row, 0)
        forms: dict[str, Any] = {row: result for row, (path, result) in made.items() if not path.exists()}
        files = {row: path for row, (path, _) in made.items() if path.exists()}
        others = {FLOAT: network.subject.path, **_portable(files, list(rows)[1], Path(folder), forms)}
        one = next(iter(calls(network.subject, network.feeds, 1)))
        forms |= _timed(files, others, one, QUICK_SECONDS if quick else SECONDS)
        for form, path in files.items():
            forms[form] |= {**kernels(path), "bytes": path.stat().st_size}
    record = {"forms": forms, "settings": settings_of(rows)}
    say(f"{name}: {brief(record)}")
    return record


def is_kept(known: Mapping[str, Any], rows: Mapping[str, Variant]) -> bool:
    """Whether an earlier record is of these files, and nothing failed."""
    failed = any("failed" in found for found in known.get("forms", {}).values())
    return known.get("settings") == settings_of(rows) and not failed


def _timed(files: Mapping[str, Path], others: Mapping[str, Path], one: Feeds, seconds: float) -> dict[str, Any]:
    """``files`` among themselves, then ``others`` beside the first file.

    A model that takes ten times as long and as much memory leaves so little of the caches that the one after it in the
    round needs 5 % more time, even if it runs untimed before it is timed.
    """
    if not files:
        return {}
    unit = dict(list(files.items())[:1])
    alike = speeds(files, one, seconds, most_rounds=MOST_ROUNDS, warm=True)
    unlike = speeds({**unit, **others}, one, seconds / 2, most_rounds=MOST_ROUNDS, warm=True)
    return {**{name: unlike[name] for name in others}, **alike}


def settings_of(rows: Mapping[str, Variant]) -> dict[str, Any]:
    """What decides whether an earlier measurement is of the same files."""
    return {row.name: row.settings for row in rows.values()}


def _portable(files: Mapping[str, Path], row: str, folder: Path, forms: dict[str, Any]) -> dict[str, Path]:
    if row not in files:
        return {}
    derived = derive_portable(import_model(files[row], allow_quantized=True).model)
    if not isinstance(derived, ir.Model):
        forms[PORTABLE] = {"refused": derived}
        return {}
    path = folder / "portable.onnx"
    save_model(derived, path)
    return {PORTABLE: path}


def brief(record: Mapping[str, Any]) -> str:
    """What is printed of a model."""
    found = record["forms"]
    parts = [f"{row} {one['ms']:.2f} ms ({one['ratio']:.2f})" for row, one in found.items() if "ms" in one]
    return ", ".join(parts)
