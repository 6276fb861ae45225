"""Whatever call of the operating system fails during ``ptqc quantize``: an exit code, a message, no half file."""

import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner, Result

import ptqc.passes.pipeline as pipeline
from ptqc.cli.main import main
from tests.graph.faults import Faults, contents
from tests.passes.lowering import parsed

NET = """g (float[N,3] x) => (float[N,2] y) <float[3,4] w = {1,2,3,4,-1,-2,-3,-4,0,1,0,1},
    float[4,2] v = {1,-1,2,-2,1,0,1,0}, float[4] b = {0.5,0.25,-0.5,0.1}>
    { t = MatMul(x, w) u = Add(t, b) r = Relu(u) y = MatMul(r, v) }"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a small model and data, and a cache and a temporary folder of its own."""
    for name in ("work", "cache", "tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("PTQC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.chdir(tmp_path / "work")
    ir.save(parsed(NET), "net.onnx")
    np.savez("data.npz", x=np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32))
    return tmp_path / "work"


def run(*more: str) -> Result:
    args = ["quantize", "net.onnx", "--data", "data.npz", "--no-measure", "--rounding", "nearest"]
    args += ["-o", "out.onnx", "--report", "out.json"]
    return CliRunner().invoke(main, [*args, *more])


@pytest.mark.slow
@pytest.mark.parametrize("old", [False, True])
def test_every_failing_call(folder, monkeypatch, old):
    assert run().exit_code == 0
    good = contents(folder)
    if old:
        assert run("--calibration-method", "percentile", "--force").exit_code == 0
        for name in ("out.onnx", "out.json"):
            # Longer than the new ones, to see that nothing of them stays.
            (folder / name).write_bytes((folder / name).read_bytes() + b" " * (name == "out.json") * 4096)
    else:
        (folder / "out.onnx").unlink()
        (folder / "out.json").unlink()
    before = contents(folder)
    refused = 0
    for index in range(1000):
        for name in ("out.onnx", "out.json"):
            Path(name).write_bytes(before[name]) if name in before else Path(name).unlink(missing_ok=True)
        for cached in (folder.parent / "cache").rglob("*"):
            if cached.is_file():
                cached.unlink()
        faults = Faults(index)
        with pytest.MonkeyPatch.context() as patch:
            faults.install(patch)
            result = run("--force")
        after = contents(folder)
        assert sorted(path.name for path in (folder.parent / "tmp").iterdir()) == []
        if result.exit_code == 0:
            # A cache or a flush that only makes surer may fail; what was written is whole.
            assert after["out.onnx"] == good["out.onnx"]
            assert after.keys() == good.keys()
            if not faults.reached:
                break
            continue
        refused += 1
        assert faults.reached
        assert result.exit_code == 2, (index, result.output, result.exception)
        assert "Traceback" not in result.output
        assert "space" in result.output or "disk" in result.output, result.output
        assert after["out.onnx" if "out.onnx" in after else "net.onnx"] in (*before.values(), good["out.onnx"])
        assert set(after) <= {*before, "out.onnx"}
        assert after.get("out.json") == before.get("out.json")
    else:
        raise AssertionError("the run never ends without a fault")
    assert refused > 3


@pytest.mark.slow
def test_an_interrupt_at_every_pass(folder, monkeypatch):
    """Ctrl-C while a pass runs: exit code 130, nothing written, the old output as it was."""
    (folder / "out.onnx").write_bytes(b"old")
    before = contents(folder)
    original = pipeline._run_one
    calls = 0

    def interrupted(fail_at: int):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls - 1 == fail_at:
                raise KeyboardInterrupt
            return original(*args, **kwargs)

        return call

    for index in range(200):
        calls = 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline, "_run_one", interrupted(index))
            result = run("--force")
        if calls <= index:
            assert result.exit_code == 0, result.output
            break
        assert result.exit_code == 130, result.output
        assert "interrupted" in result.output
        assert contents(folder) == before
        assert list((folder.parent / "tmp").iterdir()) == []
    assert index > 10
