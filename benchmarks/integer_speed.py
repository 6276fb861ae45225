"""Latency of integer-only models: float, int8, both families of scales and the portable form, interleaved."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from benchmarks import results
from benchmarks.data_free_subjects import calls
from benchmarks.int4_runs import Figures, Network, Say, Variant
from benchmarks.scoring import kernels, speeds
from ptqc.graph.load import import_model
from ptqc.graph.save import save_model
from ptqc.verify.portable import derive_portable

SECTION = "integer-speed"
FLOAT, PORTABLE = "float", "portable"
SECONDS, QUICK_SECONDS, MOST_ROUNDS = 40.0, 1.0, 20_000


def measure(rows: Mapping[str, Variant], name: str, quick: bool, say: Say) -> dict[str, Any]:
    """One model: ``forms`` (float, each of ``rows``, portable -> milliseconds and the first row's time by it).

    The portable form is that of the second row. A model whose figures are of these files is not measured again.
    """
    known = {} if quick else results.comparable(SECTION).get(name, {})
    if known.get("forms") and known.get("settings") == settings_of(rows):
        say(f"{name}: figures of commit {known['commit']} are kept; --force measures them anew")
        return dict(known)
    with tempfile.TemporaryDirectory(prefix="ptqc-bench-") as folder:
        network = Network.of(name, True, Path(folder))
        made: dict[str, tuple[Path, Figures]] = {}
        for row in rows.values():
            say(f"{name}: {row.name}")
            made[row.name] = network.file(row, 0)
        forms: dict[str, Any] = {
            row: {key: result[key]}
            for row, (_, result) in made.items()
            for key in ("refused", "failed")
            if key in result
        }
        files = {row: path for row, (path, _) in made.items() if path.exists()}
        files |= _portable(files, list(rows)[1], Path(folder), forms)
        one = next(iter(calls(network.subject, network.feeds, 1)))
        seconds = QUICK_SECONDS if quick else SECONDS
        timed = speeds({**files, FLOAT: network.subject.path}, one, seconds, most_rounds=MOST_ROUNDS, warm=True)
        for form, found in timed.items():
            forms[form] = found | (
                {} if form == FLOAT else kernels(files[form]) | {"bytes": files[form].stat().st_size}
            )
    record = {"forms": forms, "unit": next(iter(files)), "settings": settings_of(rows)}
    say(f"{name}: {brief(record)}")
    return record


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
