"""What other tools reach at four bits: figures of an earlier measurement, read from the data folder's baselines.json.

They were calibrated and timed in another run, on the same images and the same kind of machine.
"""

import json
from typing import Any

from benchmarks.data import data_root

SETTINGS = ("w4a8-", "qdq-minmax-pc-u8-s4")  # how the names of four-bit settings begin
# Our names of the figures.
METRICS = {"top1_quant": "top1", "top1_agreement": "agreement", "sqnr_db": "sqnr_db", "top1_float": "top1_float"}
NAIVE = "round-to-nearest"  # a script of the measurement, no tool


def published(name: str) -> list[dict[str, Any]]:
    """One row for each tool and setting at four bits with figures of that model, in the order of the file."""
    records = json.loads((data_root() / "baselines.json").read_text(encoding="utf-8"))
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for record in records:
        settings, metric, value = record["settings"], record["metric"], record["value"]
        if record["model"] != name or not settings.startswith(SETTINGS) or not isinstance(value, (int, float)):
            continue
        tool = "naive" if record["tool"].startswith(NAIVE) else record["tool"]
        row = rows.setdefault((tool, settings), {"tool": tool, "version": record["version"], "settings": settings})
        row["calibration_samples"] = record["n_calib"]
        if metric in METRICS:
            row[METRICS[metric]] = value
        elif metric == "top1_delta":
            low, high = record["ci95"]
            row["top1_difference"] = {"value": value, "low": low, "high": high}
    return [row for row in rows.values() if "sqnr_db" in row]
