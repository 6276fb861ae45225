"""A third-party package with two passes (tests/plugin), installed in a folder of its own and found by its names."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[1] / "plugin"
REPOSITORY = Path(__file__).parents[2]

USE = """
import json, sys
import onnx
from ptqc.graph.load import load_model
from ptqc.passes.base import PassContext
from ptqc.passes.pipeline import canonical_passes, insert_from_option, run_passes
from ptqc.passes.registry import list_passes

listed = {entry.name: entry.owner for entry in list_passes() if entry.owner != "ptqc"}
imported_by_listing = "ptqc_demo_passes" in sys.modules
text = '''<ir_version: 10, opset_import: ["": 21]>
g (float[N,3] x) => (float[N,3] y) { a = Neg (x)  b = Neg (a)  c = Mul (b, b)  d = Abs (c)  y = Relu (d) }'''
model = load_model(onnx.parser.parse_model(text))
chain = canonical_passes()
for option in ("double-negation@after=fold-batchnorm", "ptqc_demo_passes.on_surgeon:AbsOfSquare@before=fold-pad"):
    chain = insert_from_option(chain, option)
results = run_passes(model, chain, PassContext(), check=True)
counts = {result.name: result.count for result in results if result.count}
left = [node.op_type for node in model.graph]
none = insert_from_option((), "double-negation{limit=0}")[0].limit
print(json.dumps([listed, imported_by_listing, counts, left, none]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the package is installed in, as ``pip install --target`` does."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(PLUGIN, source / "plugin")
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    run = subprocess.run(
        [*command, "--target", str(target), str(source / "plugin")], capture_output=True, text=True, timeout=120
    )
    if run.returncode:
        pytest.skip(f"the plugin cannot be built here: {run.stderr[-300:]}")
    return target


def test_plugin_is_found_loaded_and_checked(installed: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), str(REPOSITORY)])}
    run = subprocess.run([sys.executable, "-c", USE], capture_output=True, text=True, env=environment, timeout=120)
    assert run.returncode == 0, run.stderr
    listed, imported_by_listing, counts, left, option = json.loads(run.stdout)
    assert listed == {"double-negation": "ptqc-demo-passes", "abs-of-square": "ptqc-demo-passes"}
    assert not imported_by_listing
    assert counts == {"double-negation": 1, "abs-of-square": 1}
    assert left == ["Mul", "Relu"]
    assert option == 0
