"""The example and the code of docs/writing-a-pass.md run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def run(*command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "examples")])}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_example() -> None:
    out = run(str(REPOSITORY / "examples" / "custom_pass.py"))
    assert "doubled-add: 1 rewritten" in out
    assert "whole stays: it is not float32" in out
    assert "y = Mul(%0, twice_two)" in out


def test_documentation(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / "writing-a-pass.md").read_text(), re.DOTALL)
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks))
    out = run(str(script))
    assert "[('doubled-add', 1)]" in out
    assert "y = Mul(%0, twice_two)" in out
