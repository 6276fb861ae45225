"""The worked examples of CONTRIBUTING.md work."""

import re
from pathlib import Path

import onnx
import pytest

from ptqc.graph.load import load_model
from ptqc.graph.text import to_text
from ptqc.passes.base import PassContext
from ptqc.passes.pipeline import run_passes
from ptqc.passes.registry import load_pass
from ptqc.targets import registry

REPOSITORY = Path(__file__).resolve().parent.parent
MODELS = REPOSITORY / "models"


def block(language: str) -> str:
    """The only code block in that language."""
    blocks = re.findall(
        rf"^```{language}\n(.*?)^```$",
        (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    assert len(blocks) == 1
    found: str = blocks[0]
    return found


def test_pass_does_what_its_golden_text_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cancel_negations.py").write_text(block("python"), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    source, _, expected = block("text").partition("// passes: cancel-negations remove-identities\n// rewrites: 1 1\n")
    model = load_model(onnx.parser.parse_model(source))
    passes = [load_pass("cancel_negations:CancelNegations"), load_pass("remove-identities")]
    results = run_passes(model, passes, PassContext(), check=True)
    assert [result.count for result in results] == [1, 1]
    assert to_text(model) == expected


def test_target_quantizes_convolutions_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ptqc.api import quantize

    (tmp_path / "int8-conv.toml").write_text(block("toml"), encoding="utf-8")
    monkeypatch.setitem(registry.SPECS, "int8-conv", str(tmp_path / "int8-conv.toml"))
    result = quantize(MODELS / "digits_resnet.onnx", "int8-conv", MODELS / "digits_calib.npz")
    integer = {name for name, node in result.plan.nodes.items() if str(node.choice.precision) == "w8a8"}
    assert sum(name.endswith("/Conv") for name in integer) == 9
    assert "this target quantizes convolutions only" in result.plan.nodes["/classifier/Gemm"].reason
