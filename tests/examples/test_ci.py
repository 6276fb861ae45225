"""The example workflow for GitHub Actions does what it says, on one of our own models."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
WORKFLOW = REPOSITORY / "examples" / "ci" / "github-actions.yml"


def script(step: str) -> str:
    """The shell script of a step."""
    text = WORKFLOW.read_text(encoding="utf-8")
    found = re.search(rf"- name: {step}\n(?:\s+if: .*\n)?\s+run: \|\n((?: {{10}}.*\n)+)", text)
    assert found is not None
    return textwrap.dedent(found[1])


def environment(folder: Path) -> dict[str, str]:
    """What the workflow sets, a ``ptqc`` to call, and GitHub's file for summaries."""
    block = re.search(r"^env:\n((?:  .*\n)+)", WORKFLOW.read_text(encoding="utf-8"), re.MULTILINE)
    assert block is not None
    values = dict(re.findall(r"^  (\w+): (\S+)", block[1], re.MULTILINE))
    command = folder / "bin" / "ptqc"
    command.parent.mkdir()
    start = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from ptqc.cli.main import main; main()"
    command.write_text(f"#!{sys.executable}\n{start}\n")
    command.chmod(0o755)
    values = {name: str(REPOSITORY / value) if "/" in value else value for name, value in values.items()}
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | values | {"PATH": path, "GITHUB_STEP_SUMMARY": str(folder / "summary.md")}


def bash(text: str, folder: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs a step as GitHub does."""
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", text]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)


def test_quantizes_within_the_limits(tmp_path: Path) -> None:
    variables = environment(tmp_path)
    for step in ("Quantize", "Summary"):
        result = bash(script(step), tmp_path, variables)
        assert result.returncode == 0, result.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.int8.onnx", "report.json", "report.html"}
    assert "--max-drop" in (tmp_path / "summary.md").read_text(encoding="utf-8")


def test_fails_with_a_summary_when_a_limit_is_not_met(tmp_path: Path) -> None:
    variables = environment(tmp_path)
    result = bash(script("Quantize").replace("--min-sqnr 20", "--min-sqnr 90"), tmp_path, variables)
    assert result.returncode == 1
    assert "--min-sqnr" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.json"]
    assert bash(script("Summary"), tmp_path, variables).returncode == 0
    assert "not met" in (tmp_path / "summary.md").read_text(encoding="utf-8")


def test_is_yaml() -> None:
    yaml = pytest.importorskip("yaml", reason="no YAML parser is installed")
    workflow = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    steps = workflow["jobs"]["int8"]["steps"]
    assert [step["name"] for step in steps if "run" in step] == ["Install", "Quantize", "Summary"]
