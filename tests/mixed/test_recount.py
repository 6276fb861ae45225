"""What is read back from models of mixed precision is what was chosen."""

import random
from dataclasses import replace
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from ptqc.allocate.restrict import Restrictions
from ptqc.core.options import QuantizeOptions
from ptqc.core.types import FLOAT, NodeChoice, Precision, WeightFormat
from ptqc.graph.costs import node_costs
from ptqc.graph.save import save_model, serialize
from ptqc.mixed.made_up import MadeUp
from ptqc.mixed.recount import recount
from ptqc.mixed.stored import stored_costs
from ptqc.targets.registry import find_target
from tests.allocate.networks import network
from tests.mixed.test_stored import MODELS, NETWORK, OPTIONS, canonical_of, choices_of


def written(
    model: ir.Model, target: str, chosen: dict[str, NodeChoice], options: QuantizeOptions = OPTIONS
) -> ir.Model:
    """The file with these choices, read again."""
    restrictions = Restrictions(
        float_nodes={node: "chosen" for node, choice in chosen.items() if choice.precision == FLOAT},
        allocated={node: choice for node, choice in chosen.items() if choice.precision != FLOAT},
    )
    lowered, _ = MadeUp.of(model, find_target(target), options, restrictions).stored({})
    return ir.from_proto(onnx.load_from_string(serialize(lowered)))


@pytest.mark.parametrize("name", ["digits_resnet", "digits_vit"])
@pytest.mark.parametrize("target", ["mixed", "mixed-integer"])
def test_counts_what_was_chosen(name: str, target: str) -> None:
    model = canonical_of(Path(MODELS / f"{name}.onnx"), target)
    found = choices_of(model, target, with_float=True)
    found.pop("/GlobalAveragePool", None)  # an average has a storage of its own
    drawn = random.Random(5)
    chosen = {node: drawn.choice(given) for node, given in found.items()}
    counted = recount(written(model, target, chosen))
    products = [one for one in counted.products if one.node != "/GlobalAveragePool"]
    assert [one.weight_bits for one in products] == [one.precision.weight_bits or 32 for one in chosen.values()]
    assert [one.activation_bits for one in products] == [one.precision.activation_bits or 32 for one in chosen.values()]
    costs = stored_costs(model, find_target(target), {node: given[:1] for node, given in found.items()}, OPTIONS)
    assert [one.weights for one in products] == list(costs.weights.values())
    macs = {cost.name: cost.macs for cost in node_costs(model)}
    assert [one.macs for one in products] == [macs[node] for node in chosen]
    bits = [(one.precision.weight_bits or 32) * (one.precision.activation_bits or 32) for one in chosen.values()]
    bops = sum(macs[node] * both for node, both in zip(chosen, bits, strict=True))
    assert counted.bops == bops + sum(64 * (one.macs or 0) for one in counted.products if one not in products)


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_counts_in_every_form(form: str) -> None:
    model = network(NETWORK)
    found = choices_of(model, "mixed", activation_bits=(4,))
    storages = "int3", "codebook4/channel", "codebook2"
    chosen = {
        node: next(one for one in given if str(one.storage) == storage)
        for (node, given), storage in zip(found.items(), storages, strict=True)
    }
    options = replace(OPTIONS, format=form)
    counted = recount(written(model, "mixed", chosen, options))
    assert [one.weight_bits for one in counted.products] == [3, 4, 2]
    assert [one.activation_bits for one in counted.products] == [4, 4, 4]
    sizes = [16 * 8 * 9, 64 * 16 * 9, 640]
    assert counted.mean_bits == pytest.approx((3 * sizes[0] + 4 * sizes[1] + 2 * sizes[2]) / sum(sizes))


def test_weights_alone_and_shared_ones() -> None:
    model = network(
        """g (float[B, 64] x, float[64, 64] w) => (float[B, 64] y) {
            h = MatMul (x, w)
            r = Sigmoid (h)
            y = MatMul (r, w)
        }"""
    )
    storage = WeightFormat(4, block=32, zero_points=True)
    nodes = [node.name or "" for node in model.graph if node.op_type == "MatMul"]
    counted = recount(written(model, "mixed", dict.fromkeys(nodes, NodeChoice(Precision(4, None), storage))))
    assert [(one.weights, one.weight_bits, one.activation_bits) for one in counted.products] == [
        (4096, 4, 32),
        (0, 4, 32),
    ]
    assert counted.bops == 2 * 4096 * 4 * 32


def test_a_float_model() -> None:
    model = network(NETWORK)
    counted = recount(model)
    assert counted.mean_bits == 32
    assert counted.bytes == len(serialize(model))


def test_unknown_shapes_leave_bit_operations_unknown() -> None:
    model = network(
        """g (float[B, 64] x, float[64, 64] w) => (float[B, 64] y) {
            y = MatMul (x, w)
        }"""
    )
    node = model.graph[0]
    node.domain, node.op_type = "com.microsoft", "MatMulNBits"
    for name, number in {"K": 64, "N": 64, "bits": 4}.items():
        node.attributes.add(ir.AttrInt64(name, number))
    (found,) = recount(model).products
    assert (found.weights, found.weight_bits, found.macs) == (4096, 4, None)
    assert recount(model).bops is None


def test_reads_files_with_their_external_data(tmp_path: Path) -> None:
    model = network(NETWORK)
    chosen = {node: given[0] for node, given in choices_of(model, "mixed").items()}
    lowered = written(model, "mixed", chosen)
    for external in (False, True):
        files = save_model(lowered, tmp_path / "model.onnx", external_data=external)
        counted = recount(files[0])
        assert counted.bytes == sum(file.stat().st_size for file in files)
        assert [one.weight_bits for one in counted.products] == [2, 2, 2]
        assert counted.bops == recount(lowered).bops
    assert len(files) == 2
