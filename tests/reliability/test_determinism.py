"""Same input, same bytes: whatever the hash seed, the thread count, the names, or the way the data is cut."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from ptqc.api import Result, quantize
from ptqc.core.options import QuantizeOptions
from ptqc.graph.save import serialize

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "models"
OPTIONS = QuantizeOptions(no_measure=True, cpu="vnni")
CODE = "from ptqc.cli.main import main; main()"


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.load(MODELS / "digits_calib.npz")["image"][:12]


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return onnx.load(MODELS / "digits_mobilenet.onnx")


def integers(result: Result) -> list[bytes]:
    """Every integer constant of the lowered graph that has elements to tell, in no order."""
    arrays = [value.const_value.numpy() for value in result.model.graph.initializers.values()]  # type: ignore[union-attr]
    return sorted(a.tobytes() + str(a.shape).encode() for a in arrays if a.dtype.kind in "iu")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits_mobilenet", "digits_vit"])
def test_other_processes_write_the_same_bytes(name, tmp_path):
    hashes = []
    for seed, threads, zone in (("0", "1", "UTC"), ("4242", "2", "Asia/Tokyo")):
        output = tmp_path / seed / "net.onnx"
        output.parent.mkdir()
        args = ["quantize", MODELS / f"{name}.onnx", "--data", MODELS / "digits_calib.npz", "--samples", 24]
        args += ["--no-measure", "--threads", threads, "-q", "-o", output]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": "C"}
        command = [sys.executable, "-B", "-c", CODE, *map(str, args)]
        done = subprocess.run(command, env=environment, cwd=output.parent, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert [path.name for path in output.parent.iterdir()] == ["net.onnx"]
        hashes.append(hashlib.sha256(output.read_bytes()).hexdigest())
    assert hashes[0] == hashes[1]


def test_the_cut_into_batches_does_not_matter(model, images):
    def batches(size: int) -> list[dict[str, np.ndarray]]:
        return [{"image": images[start : start + size]} for start in range(0, len(images), size)]

    results = [quantize(model, "int8", batches(size), options=OPTIONS) for size in (1, 5, 12)]
    first = integers(results[0])
    assert len(first) > 20
    assert all(integers(result) == first for result in results)


def test_names_do_not_matter(model, images):
    renamed = onnx.ModelProto()
    renamed.CopyFrom(model)
    graph = renamed.graph
    kept = {value.name for value in (*graph.input, *graph.output)}
    names = {name for node in graph.node for name in (*node.input, *node.output)} - kept - {""}
    new = {name: f"v{hashlib.sha256(name.encode()).hexdigest()[:8]}" for name in sorted(names)}
    for node in graph.node:
        node.name = f"n{hashlib.sha256(node.name.encode()).hexdigest()[:8]}"
        for values in (node.input, node.output):
            values[:] = [new.get(name, name) for name in values]
    for holder in (graph.initializer, graph.value_info):
        for item in holder:
            item.name = new.get(item.name, item.name)
    data = [{"image": images}]
    one, other = (quantize(each, "int8", data, options=OPTIONS) for each in (model, renamed))
    assert integers(one) == integers(other)
    assert len(one.plan.tensors) == len(other.plan.tensors)


def test_identities_do_not_matter(model, images):
    spread = onnx.ModelProto()
    spread.CopyFrom(model)
    nodes = list(spread.graph.node)
    del spread.graph.node[:]
    for index, node in enumerate(nodes):
        if index % 3 == 0 and node.input[0]:
            spread.graph.node.append(helper.make_node("Identity", [node.input[0]], [f"same_{index}"]))
            node.input[0] = f"same_{index}"
        spread.graph.node.append(node)
    data = [{"image": images}]
    one, other = (quantize(each, "int8", data, options=OPTIONS) for each in (model, spread))
    assert integers(one) == integers(other)


def test_a_second_run_gives_the_same_bytes(model, images):
    runs = [quantize(model, "int8", [{"image": images}], options=OPTIONS) for _ in range(2)]
    assert serialize(runs[0].model) == serialize(runs[1].model)
    assert runs[0].plan.text() == runs[1].plan.text()


def test_doubled_weights_double_scales_only(model, images):
    """Powers of two are exact: the codes of a network stay when its input is halved and its first weights doubled."""
    doubled = onnx.ModelProto()
    doubled.CopyFrom(model)
    first = next(node for node in doubled.graph.node if node.op_type == "Conv")
    assert first.input[0] == "image"
    weight = next(tensor for tensor in doubled.graph.initializer if tensor.name == first.input[1])
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 2, weight.name))
    one = quantize(model, "int8", [{"image": images}], options=OPTIONS)
    other = quantize(doubled, "int8", [{"image": images / 2}], options=OPTIONS)
    assert integers(one) == integers(other)
