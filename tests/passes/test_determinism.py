"""The canonical passes give the same bytes under any hash seed."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
RUN = """
import hashlib, sys
import onnx_ir as ir
from ptqc.graph.load import load_model
from ptqc.passes.base import PassContext
from ptqc.passes.pipeline import canonical_passes, run_passes

digest = hashlib.sha256()
for path in sys.argv[1:]:
    model = load_model(path)
    results = run_passes(model, canonical_passes(), PassContext())
    digest.update(ir.to_proto(model).SerializeToString(deterministic=True))
    digest.update(repr([(r.name, r.count, r.refused) for r in results]).encode())
print(digest.hexdigest())
"""


@pytest.mark.parametrize("names", [("resnet8", "resnet20")])
def test_same_bytes(names: tuple[str, ...], data_root: Path) -> None:
    paths = [str(data_root / "models" / f"{name}.onnx") for name in names]
    paths += [str(data_root / "zoo" / f"{name}.onnx") for name in ("gtcrn_simple", "fastestdet")]
    digests = set()
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(REPOSITORY)}
        run = subprocess.run(
            [sys.executable, "-c", RUN, *paths],
            capture_output=True,
            text=True,
            env=environment,
            check=True,
            timeout=120,
        )
        digests.add(run.stdout.strip())
    assert len(digests) == 1
    assert len(digests.pop()) == hashlib.sha256().digest_size * 2
