"""The README keeps its word: its commands run, its output is what is printed, its links lead somewhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
TEXT = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"<!-- runs -->\n```(sh|python)\n(.*?)```", re.DOTALL)
BLOCKS = BLOCK.findall(TEXT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a new user has: the models, pictures, a classifier of 224 x 224 pixels, and ``ptqc``."""
    root = tmp_path_factory.mktemp("readme")
    (root / "models").mkdir()
    for file in (REPOSITORY / "models").iterdir():
        if file.suffix in (".onnx", ".npz"):
            shutil.copy(file, root / "models")
    (root / "photos").mkdir()
    generator = np.random.default_rng(0)
    for number in range(4):
        pixels = generator.integers(0, 256, (260, 300, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "photos" / f"{number}.jpg")
    onnx.save(_classifier(), root / "classifier.onnx")
    script = root / "bin" / "ptqc"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nfrom ptqc.cli.main import main\n\nmain()\n")
    script.chmod(0o755)
    return root


def _classifier() -> onnx.ModelProto:
    generator = np.random.default_rng(0)
    weights = {
        "w": generator.standard_normal((8, 3, 32, 32)).astype(np.float32) * 0.02,
        "v": generator.standard_normal((8, 5)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["a"], strides=[32, 32]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "v"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 224, 224])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _run(folder: Path, language: str, code: str) -> str:
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "PTQC_CACHE": str(folder / "cache"),
    }
    command = [sys.executable, "-c", code] if language == "python" else ["sh", "-e", "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="the commands of the README are for a Unix shell")
def test_commands_run_in_order_and_print_what_is_shown(folder: Path) -> None:
    printed = [_run(folder, language, code) for language, code in BLOCKS]
    assert (folder / "from_python.onnx").exists() and (folder / "report.html").exists()
    assert (folder / "classifier.int8.onnx").exists()
    # The lines that do not depend on the machine: words as shown, figures near the ones shown.
    shown = re.search(r"<!-- output -->\n```text\n(.*?)```", TEXT, re.DOTALL)
    assert shown is not None
    for line in shown[1].splitlines():
        if line.startswith(("│ model", "│ output", "│ calibration", "│ measured")):
            assert line in printed[0]
    assert _decibels(printed[0]) == pytest.approx(_decibels(shown[1]), abs=1.0)


def _decibels(text: str) -> float:
    found = re.search(r"SQNR ([\d.]+) dB", text)
    assert found is not None, text
    return float(found[1])


def test_the_readme_has_blocks_to_run() -> None:
    languages = [language for language, _ in BLOCKS]
    assert languages.count("sh") >= 4 and languages.count("python") >= 1
    # Every fenced block is either run or shown as output; none is left untested.
    assert TEXT.count("```") == 2 * (len(BLOCKS) + TEXT.count("<!-- output -->"))


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for target in sorted(set(re.findall(r"(?:^    |`)make ([a-z]+)", TEXT, re.MULTILINE))):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", ["README.md", "docs/benchmarks.md"])
def test_links_lead_somewhere(page: str) -> None:
    path = REPOSITORY / page
    links = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8"))
    assert all((path.parent / link).exists() for link in links), links
