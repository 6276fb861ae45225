"""Every real model of the data folder: loaded, saved, and equal to the original in onnxruntime."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ptqc.execute.check import check_runs
from ptqc.execute.runtime import create_session
from ptqc.graph.costs import node_costs
from ptqc.graph.load import import_model
from ptqc.graph.save import save_model
from ptqc.graph.versions import CANONICAL_OPSET
from ptqc.graph.walk import is_op

# Sizes for the dimensions that the models leave free.
SIZES = {"H": 32, "W": 24, "T": 16, "sequence": 576}


def _feeds(session: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    feeds = {}
    for value in session.get_inputs():
        shape = [size if isinstance(size, int) else SIZES.get(size, 2) for size in value.shape]
        if value.type == "tensor(float)":
            feeds[value.name] = rng.standard_normal(shape).astype(np.float32)
        elif value.name == "sr":
            feeds[value.name] = np.array(16000, np.int64)
        else:
            kind = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}[value.type]
            feeds[value.name] = rng.integers(0, 100, shape).astype(kind)
    return feeds


def _cards(root: Path) -> list[dict[str, Any]]:
    cards: list[dict[str, Any]] = json.loads((root / "manifest.json").read_text())["models"]
    return cards


def test_every_model_loads_saves_and_computes_the_same(data_root: Path, tmp_path: Path) -> None:
    cards = _cards(data_root)
    assert cards
    for card in cards:
        source = data_root / card["file"]
        loaded = import_model(source)
        assert loaded.sha256 == card["sha256"]
        _check_canonical(loaded.model)
        saved = save_model(loaded.model, tmp_path / "saved.onnx")[0]
        onnx.checker.check_model(onnx.load(saved))
        before, after = create_session(source, optimize=False), create_session(saved, optimize=False)
        _check_same(before, after, card["name"])


def _check_same(before: Any, after: Any, name: str) -> None:
    for kind in ("get_inputs", "get_outputs"):
        interfaces = [[(v.name, v.type, v.shape) for v in getattr(session, kind)()] for session in (before, after)]
        assert interfaces[0] == interfaces[1], name
    feeds = _feeds(before)
    for expected, got in zip(before.run(None, feeds), after.run(None, feeds), strict=True):
        scale = float(np.abs(expected).max()) or 1.0
        assert float(np.abs(got - expected).max()) <= 1e-5 * scale, name


def _check_canonical(model: ir.Model) -> None:
    assert model.graph.opset_imports[""] == CANONICAL_OPSET
    names = [node.name for node in model.graph]
    assert all(names)
    assert len(set(names)) == len(names)
    assert not any(is_op(node, "Constant") for node in model.graph)
    assert not any(value.is_initializer() for value in model.graph.inputs)


def test_a_real_model_runs(data_root: Path) -> None:
    check_runs(import_model(data_root / "zoo/silero_vad_16k.onnx").model)


def test_macs_of_known_networks(data_root: Path) -> None:
    """ResNet-20 and -56 have 40.8 and 125.7 million in the literature, with and without the shortcuts' share."""
    for file, millions in (("models/resnet20.onnx", 40.55), ("models/resnet56.onnx", 125.49)):
        costs = node_costs(import_model(data_root / file).model)
        assert sum(cost.macs for cost in costs) / 1e6 == pytest.approx(millions, abs=0.01)
