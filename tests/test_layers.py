"""The rules of docs/architecture.md on who may import what, and when."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    path for folder in ("ptqc", "calibrate", "passes", "targets") for path in (REPOSITORY / folder).rglob("*.py")
)
# Module -> the files, relative to the repository, that may import it (inside functions); None: any file.
HEAVY: dict[str, tuple[str, ...] | None] = {
    "PIL": ("calibrate/",),
    "highspy": (),
    "jinja2": ("ptqc/report/",),
    "matplotlib": ("ptqc/report/",),
    "onnx_graphsurgeon": ("ptqc/graph/surgeon.py",),
    "onnxruntime": ("ptqc/execute/runtime.py",),
    "onnxscript": None,
    "pulp": ("ptqc/allocate/",),
    "sklearn": (),
    "torch": ("calibrate/", "ptqc/allocate/", "ptqc/execute/torch_executor/", "ptqc/rounding/"),
}
# Packages that compute with torch: their modules import it at their top, and are imported as torch is; but for a few.
TORCH_PACKAGES = ("ptqc/execute/torch_executor/", "ptqc/rounding/", "calibrate/distillation/")
TORCH_NAMES = ("ptqc.execute.torch_executor", "ptqc.rounding", "ptqc.calibrate.distillation")
WITHOUT_TORCH = (
    "ptqc.calibrate.distillation.settings",
    "ptqc.rounding",
    *(
        f"ptqc.rounding.{name}"
        for name in (
            "apply averages bias checkpoint expected_time hqq layer matrices multiplier_rules multipliers nearest rows "
            "scales squant"
        ).split()
    ),
)


def imports(tree: ast.Module) -> Iterator[tuple[str, int, bool]]:
    """(module, line, whether it is imported with the file) of all imports but those for type checkers."""
    pending: list[tuple[ast.AST, bool]] = [(tree, True)]
    while pending:
        node, early = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            pending += [(child, early) for child in node.orelse]
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, early) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, node.lineno, early
        early = early and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        pending += [(child, early) for child in ast.iter_child_nodes(node)]


def violations(path: str, source: str) -> list[str]:
    """What is wrong with the heavy imports of one file."""
    found = []
    own = path.removesuffix(".py").replace("/", ".")
    own = own if own.startswith("ptqc.") else f"ptqc.{own}"
    torch_throughout = path.startswith(TORCH_PACKAGES) and own not in WITHOUT_TORCH
    for name, line, early in imports(ast.parse(source)):
        indirect = name.startswith(TORCH_NAMES) and name not in WITHOUT_TORCH
        module = "torch" if indirect else name.partition(".")[0]
        if module not in HEAVY or (indirect and not early):
            continue
        allowed = HEAVY[module]
        if early and not (module == "torch" and torch_throughout):
            found.append(f"{path}:{line}: import {module} inside the function that needs it")
        if allowed is not None and not path.startswith(allowed):
            found.append(f"{path}:{line}: only {' and '.join(allowed) or 'nothing'} may import {module}")
    return found


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    found = [
        problem
        for path in SOURCES
        if not path.is_symlink()
        for problem in violations(path.relative_to(REPOSITORY).as_posix(), path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source", "problems"),
    [
        ("ptqc/report/html.py", "import matplotlib.pyplot as plt", 1),
        ("ptqc/report/html.py", "def draw():\n    import matplotlib.pyplot", 0),
        ("ptqc/graph/load.py", "def run():\n    from onnxruntime import InferenceSession", 1),
        ("ptqc/graph/load.py", "class A:\n    import torch", 2),
        ("ptqc/execute/torch_executor/block.py", "import torch", 0),
        ("calibrate/synthetic.py", "from ptqc.calibrate.distillation.distill import distill", 1),
        ("calibrate/synthetic.py", "from ptqc.calibrate.distillation.settings import METHODS", 0),
        ("ptqc/rounding/solve.py", "import torch", 0),
        ("ptqc/rounding/nearest.py", "import torch", 1),
        ("ptqc/rounding/nearest.py", "from ptqc.rounding.solve import solve", 1),
        ("ptqc/weights.py", "from ptqc.rounding.nearest import nearest_layers", 0),
        ("ptqc/weights.py", "from ptqc.rounding.second_order import round_second_order", 2),
        ("ptqc/api.py", "def run():\n    from ptqc.execute.torch_executor.executor import TorchExecutor", 0),
        ("passes/base.py", "if TYPE_CHECKING:\n    import onnx_graphsurgeon", 0),
        ("ptqc/execute/runtime.py", "from ptqc.execute import onnxruntime", 0),
    ],
)
def test_the_check_of_heavy_libraries_finds_what_it_should(path: str, source: str, problems: int) -> None:
    assert len(violations(path, source)) == problems


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    code = "from importlinter.cli import lint_imports_command as run; run(['--no-cache'])"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


def test_layers_are_kept() -> None:
    result = lint_imports(REPOSITORY)
    assert result.returncode == 0, result.stdout + result.stderr


def test_an_import_against_the_layers_is_reported(tmp_path: Path) -> None:
    for folder in ("ptqc", "calibrate", "passes", "targets"):
        shutil.copytree(
            REPOSITORY / folder, tmp_path / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    (tmp_path / "calibrate" / "planted.py").write_text("import ptqc.cli\n")
    result = lint_imports(tmp_path)
    assert result.returncode == 1
    assert "ptqc.calibrate.planted -> ptqc.cli (l.1)" in result.stdout


def test_architecture_names_every_module() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    words = set(re.findall(r"\w+", text))
    modules = [path for path in SOURCES if not path.name.startswith("__")]
    assert [str(path.relative_to(REPOSITORY)) for path in modules if path.stem not in words] == []
