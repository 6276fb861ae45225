"""What holds for every command: speed of the help, exit codes, messages, what --json prints."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from ptqc.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
HEAVY = ("numpy", "onnx", "onnx_ir", "onnxruntime", "torch", "matplotlib", "rich", "jinja2", "PIL")


def shell(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = "from ptqc.cli.main import main; main()"
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, env=env, timeout=60)


def test_help_imports_nothing_heavy():
    code = f"""
import sys
from ptqc.cli.main import main
try:
    main(["--help"])
except SystemExit:
    pass
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_is_fast():
    def once() -> float:
        start = time.perf_counter()
        assert shell("--help").returncode == 0
        return time.perf_counter() - start

    assert statistics.median(once() for _ in range(3)) < 0.5


def test_help_lists_every_command_and_the_exit_codes(ptqc):
    result = ptqc("--help")
    assert result.exit_code == 0
    for name, line in COMMANDS.items():
        assert name in result.stdout
        assert line.rstrip(".") in " ".join(result.stdout.split())
    assert "130" in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(ptqc, name):
    result = ptqc(name, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: ptqc {name}")


def test_version(ptqc):
    assert ptqc("--version").stdout.startswith("ptqc 0.")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["quantise"], "there is no command 'quantise'. did you mean 'quantize'?"),
        (["frobnicate"], "there is no command 'frobnicate'. valid are: allocate, bench, bits, compare"),
        (["quantize", "--targte", "int8"], "ptqc quantize: there is no option '--targte'. did you mean '--target'?"),
        (["quantize"], "ptqc quantize: missing argument 'MODEL'. see ptqc quantize --help."),
        (["quantize", "m.onnx", "--samples", "0"], "'--samples': 0 is not in the range x>=1"),
        (
            ["quantize", "m.onnx", "--format", "qoperater"],
            "--format does not know 'qoperater'. did you mean 'qoperator'?",
        ),
        (["quantize", "m.onnx", "--target", "int9"], "there is no target 'int9'. did you mean 'int8'?"),
        (["quantize", "m.onnx"], "'m.onnx': there is no such file."),
        (["eval", "m.onnx", "--data", "d.npz", "--metric", "top2"], "there is no metric 'top2'."),
        (["eval", "m.onnx", "--data", "d.npz"], "no such model file"),
        (["bench", "a.onnx", "b.onnx", "--shape", "x"], "--shape 'x' cannot be read."),
        (["report", "none.json"], "'none.json': cannot read the report."),
        (["--nonsense"], "ptqc: there is no option '--nonsense'."),
    ],
)
def test_what_cannot_be_used_is_exit_code_2_and_one_paragraph(ptqc, args, message):
    result = ptqc(*args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.startswith("ptqc: ")
    assert result.stderr.count("\n") == 1
    assert "Error" not in result.stderr


def test_errors_are_an_object_with_json(ptqc):
    result = ptqc("quantize", "m.onnx", "--json")
    assert result.exit_code == 2
    found = json.loads(result.stdout)
    assert (found["error"], found["exit_code"], found["where"]) == ("ModelError", 2, "'m.onnx'")
    assert result.stderr == ""


def test_usage_errors_are_an_object_with_json(ptqc):
    assert json.loads(ptqc("quantize", "--json", "--samplse", "3").stdout)["fix"] == "did you mean '--samples'?"


def broken(monkeypatch, error: type[BaseException]) -> None:
    def fail(*args, **kwargs):
        raise error("surprise")

    monkeypatch.setattr("ptqc.targets.registry.target_names", fail)


def test_defect_is_exit_code_3_with_the_traceback_in_a_file(ptqc, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    broken(monkeypatch, ZeroDivisionError)
    result = ptqc("targets")
    assert result.exit_code == 3
    assert "Traceback" not in result.stderr
    assert "sorry, this is a defect of ptqc" in result.stderr
    (log,) = tmp_path.glob("ptqc-error-*.log")
    assert str(log) in result.stderr
    text = log.read_text()
    assert "ZeroDivisionError: surprise" in text
    assert "ptqc targets" in text
    assert ptqc("targets").exit_code == 3
    assert len(list(tmp_path.glob("ptqc-error-*.log"))) == 1  # one file for one defect


def test_defect_without_a_temporary_folder_is_still_reported(ptqc, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    broken(monkeypatch, ZeroDivisionError)
    result = ptqc("targets")
    assert result.exit_code == 3
    assert "the details are above" in result.stderr


def test_defect_with_json_is_an_object(ptqc, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    broken(monkeypatch, ZeroDivisionError)
    found = json.loads(ptqc("targets", "--json").stdout)
    assert (found["error"], found["exit_code"]) == ("Defect", 3)


def test_interrupt_is_exit_code_130(ptqc, monkeypatch):
    broken(monkeypatch, KeyboardInterrupt)
    result = ptqc("targets")
    assert result.exit_code == 130
    assert "interrupted" in result.stderr


def test_too_little_memory_is_no_defect(ptqc, monkeypatch):
    broken(monkeypatch, MemoryError)
    result = ptqc("targets")
    assert result.exit_code == 2
    assert "there is not enough memory" in result.stderr


def test_no_colour_where_there_is_no_terminal():
    done = shell("targets", TERM="xterm-256color")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
