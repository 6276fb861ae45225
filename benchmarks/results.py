"""Result files: one JSON a section, with what the figures were measured on; figures of two machines never mix."""

import json
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from benchmarks.data import REPOSITORY
from ptqc.execute.latency import cpu_description
from ptqc.graph.files import write_atomically

FOLDER = REPOSITORY / "benchmarks" / "results"


def machine() -> dict[str, Any]:
    """What has to be equal for figures to stand in one table."""
    packages = ("numpy", "onnx", "onnx-ir", "onnxruntime")
    return {
        "cpu": cpu_description(),
        "system": platform.system(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "latency": "one thread, batch 1, all variants interleaved, CPU time of the thread, medians",
    }


def commit() -> str:
    """The commit of the repository, with + where tracked files differ from it; empty outside of git."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "ptqc", "passes", "calibrate", "targets")
    head = git("rev-parse", "--short=12", "HEAD")
    return f"{head}+" if head and changed else head


def load(section: str) -> dict[str, Any]:
    """The file of a section: ``machine`` and ``records``; empty where there is none."""
    path = FOLDER / f"{section}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"machine": {}, "records": {}}
    return found


def store(section: str, name: str, record: dict[str, Any]) -> None:
    """Adds one record; records of another machine or of other versions are dropped."""
    here, records = machine(), comparable(section)
    records[name] = {"commit": commit(), "date": datetime.now(UTC).strftime("%Y-%m-%d"), **record}
    text = json.dumps({"machine": here, "records": rounded(records)}, indent=1, sort_keys=True) + "\n"
    FOLDER.mkdir(exist_ok=True)
    write_atomically(FOLDER / f"{section}.json", text)


def comparable(section: str) -> dict[str, Any]:
    """The records of a section that were measured on this machine with these versions."""
    found = load(section)
    records: dict[str, Any] = found["records"] if found["machine"] == machine() else {}
    return records


def drop(section: str, names: Sequence[str]) -> None:
    """Removes records, where they are there."""
    found = load(section)
    kept = {name: record for name, record in found["records"].items() if name not in names}
    if len(kept) < len(found["records"]):
        found["records"] = kept
        write_atomically(FOLDER / f"{section}.json", json.dumps(found, indent=1, sort_keys=True) + "\n")


def rounded(value: Any) -> Any:
    """Floats at five significant digits: more would only be noise in the history."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(part) for part in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
