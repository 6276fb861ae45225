"""Runs one command of ptqc in a fresh process and tells its time and peak memory.

``python -m benchmarks.command WORDS`` is ``ptqc WORDS`` with one line more on standard error.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.data import REPOSITORY
from benchmarks.worker import peak_megabytes

MARK = "measured: "


def run_command(words: Sequence[str]) -> dict[str, Any]:
    """``seconds`` from start to end, imports included, ``cpu_seconds`` and ``peak_mb``, without ptqc's cache.

    ``failed`` with what it said on standard error for any exit code but 0.
    """
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.command", *words],
        cwd=REPOSITORY,
        env={**os.environ, "PTQC_CACHE": "", "ORT_DISABLE_TELEMETRY": "1"},
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - start
    said, _, told = done.stderr.rpartition(MARK)
    if done.returncode != 0 or not told:
        return {"failed": said.strip() or f"exit code {done.returncode}"}
    return {"seconds": seconds, **json.loads(told)}


if __name__ == "__main__":
    from ptqc.cli.main import main

    try:
        main(sys.argv[1:])
    finally:  # it ends with SystemExit
        told = {"cpu_seconds": time.process_time(), "peak_mb": peak_megabytes()}
        print(f"{MARK}{json.dumps(told)}", file=sys.stderr)
