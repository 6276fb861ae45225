"""Bytes by node and choice against the files that these choices make."""

import random
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import pytest

from ptqc.allocate.choices import choices
from ptqc.allocate.place import place
from ptqc.allocate.restrict import Restrictions
from ptqc.api import quantize
from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import input_specs
from ptqc.compile import canonicalise, compile_graph, restrictions_of
from ptqc.core.options import QuantizeOptions
from ptqc.core.types import FLOAT, KEPT_FLOAT, NodeChoice, Precision, WeightFormat
from ptqc.graph.load import import_model
from ptqc.graph.save import serialize
from ptqc.mixed.entries import file_bytes
from ptqc.mixed.made_up import MadeUp
from ptqc.mixed.stored import StoredCosts, stored_costs
from ptqc.targets.registry import find_target
from tests.allocate.networks import network, samples
from tests.conftest import REPOSITORY

OPTIONS = QuantizeOptions(no_measure=True)
TOLERANCE = 0.002
DECODERS = 200  # bytes of what odd widths need, which is taken to be in every file
MODELS = REPOSITORY / "models"


def canonical_of(path: Path, target: str) -> ir.Model:
    model = import_model(path).model
    canonicalise(model, find_target(target), OPTIONS)
    return model


def choices_of(
    model: ir.Model, target: str, *, with_float: bool = False, activation_bits: tuple[int, ...] = (8,)
) -> dict[str, tuple[NodeChoice, ...]]:
    found, restrictions = find_target(target), restrictions_of(OPTIONS)
    placement = place(model, found, restrictions)
    return choices(
        model, placement, restrictions, found, OPTIONS, activation_bits=activation_bits, with_float=with_float
    )


def written(model: ir.Model, target: str, assignment: dict[str, NodeChoice]) -> int:
    """Bytes of the file with these choices, its codes made up."""
    in_float = {node: "chosen" for node, choice in assignment.items() if choice.precision == FLOAT}
    restrictions = replace(
        restrictions_of(OPTIONS),
        float_nodes=in_float,
        allocated={node: choice for node, choice in assignment.items() if node not in in_float},
    )
    made_up = MadeUp.of(model, find_target(target), OPTIONS, restrictions)
    return len(serialize(made_up.stored({})[0]))


def assert_predicted(model: ir.Model, target: str, costs: StoredCosts, draws: int) -> None:
    drawn = random.Random(0)
    for _ in range(draws):
        assignment = {node: drawn.choice(list(found)) for node, found in costs.bytes.items()}
        assert costs.predicted(assignment) == pytest.approx(written(model, target, assignment), rel=TOLERANCE)
    for bits in (4, 8):
        assignment = {
            node: next((choice for choice in found if choice.precision.weight_bits == bits), next(iter(found)))
            for node, found in costs.bytes.items()
        }
        assert 0 <= costs.predicted(assignment) - written(model, target, assignment) < DECODERS


@pytest.mark.parametrize("target", ["mixed", "mixed-integer"])
def test_predicts_the_files_of_a_convolutional_network(target: str) -> None:
    model = canonical_of(MODELS / "digits_resnet.onnx", target)
    found = choices_of(model, target, with_float=True)
    costs = stored_costs(model, find_target(target), found, OPTIONS)
    assert (KEPT_FLOAT in next(iter(costs.bytes.values()))) == (target == "mixed")
    assert_predicted(model, target, costs, 2)


def test_predicts_the_files_of_a_transformer() -> None:
    model = canonical_of(MODELS / "digits_vit.onnx", "mixed")
    assert_predicted(model, "mixed", stored_costs(model, find_target("mixed"), choices_of(model, "mixed"), OPTIONS), 2)


def test_predicts_the_files_of_resnet8(data_root: Path) -> None:
    model = canonical_of(data_root / "models" / "resnet8.onnx", "mixed")
    assert_predicted(model, "mixed", stored_costs(model, find_target("mixed"), choices_of(model, "mixed"), OPTIONS), 2)


NETWORK = """g (float[B, 8, 6, 6] x, float[16, 8, 3, 3] w1, float[16] b1, float[64, 16, 3, 3] w2, float[64] b2,
        float[64, 10] w3, float[10] b3) => (float[B, 10] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    r = Relu (a)
    c = Conv (r, w2, b2)
    s = Relu (c)
    p = GlobalAveragePool (s)
    f = Flatten (p)
    y = Gemm (f, w3, b3)
}"""
ACTIVATIONS = (8, 4)


def compiled_bytes(model: ir.Model, assignment: dict[str, NodeChoice]) -> int:
    """Bytes of the graph that is really rounded to these choices."""
    source = open_source(samples(model), input_specs(model))
    options = replace(OPTIONS, effort="fast", calibration_method="minmax")
    restrictions = Restrictions(allocated=assignment)
    done = compile_graph(model, find_target("mixed"), source, restrictions, options, lambda stage, done, total: None)
    return len(serialize(done.model))


def test_real_codes_take_what_made_up_ones_do() -> None:
    model = network(NETWORK)
    found = choices_of(model, "mixed")
    costs = stored_costs(model, find_target("mixed"), found, OPTIONS)
    storages = ("codebook3", "codebook4/channel", "int6"), ("int2", "int5", "codebook2")
    differences = []
    for wanted in storages:
        chosen = {
            node: next(one for one in given if str(one.storage) == storage)
            for (node, given), storage in zip(found.items(), wanted, strict=True)
        }
        differences.append(costs.predicted(chosen) - compiled_bytes(model, chosen))
    assert all(150 < difference < 400 for difference in differences)  # what the finished file says of itself
    assert max(differences) - min(differences) < 60


def test_what_finished_files_say_of_themselves_counts() -> None:
    model = network(NETWORK)
    done = quantize(model, "int8", samples(model), options=replace(OPTIONS, calibration_method="minmax"))
    canonical = network(NETWORK)
    canonicalise(canonical, find_target("int8"), OPTIONS)
    made_up, _ = MadeUp.of(canonical, find_target("int8"), OPTIONS, Restrictions()).stored({})
    assert len(serialize(done.model)) == len(serialize(made_up))


def test_fewer_bits_of_activations_add_clips() -> None:
    model = network(NETWORK)
    found = choices_of(model, "mixed", activation_bits=ACTIVATIONS)
    costs = stored_costs(model, find_target("mixed"), found, OPTIONS)
    for bits in ACTIVATIONS:
        chosen = {
            node: next(one for one in given if one.precision == Precision(4, bits)) for node, given in found.items()
        }
        assert -20 < costs.predicted(chosen) - written(model, "mixed", chosen) < DECODERS
    assert all(
        costs.bytes[node][NodeChoice(Precision(4, 4), WeightFormat(4))]
        > costs.bytes[node][NodeChoice(Precision(4, 8), WeightFormat(4))]
        for node in found
    )


def test_weights_alone_in_blocks() -> None:
    model = network(
        """g (float[B, 70] x, float[70, 96] w1, float[96, 10] w2) => (float[B, 10] y) {
            h = MatMul (x, w1)
            s = Sigmoid (h)
            y = MatMul (s, w2)
        }"""
    )
    nodes = [node.name or "" for node in model.graph if node.op_type == "MatMul"]
    storages = WeightFormat(4, block=32, zero_points=True), WeightFormat(3, block=32), WeightFormat(8, block=32)
    given = {node: tuple(NodeChoice(Precision(one.bits, None), one) for one in storages) for node in nodes}
    costs = stored_costs(model, find_target("mixed"), given, OPTIONS)
    first, second = given[nodes[0]], given[nodes[1]]
    for one, other in ((0, 1), (1, 2), (2, 0), (1, 1)):
        chosen = {nodes[0]: first[one], nodes[1]: second[other]}
        assert -20 < costs.predicted(chosen) - written(model, "mixed", chosen) < DECODERS
    assert costs.bytes[nodes[0]][first[1]] < costs.bytes[nodes[0]][first[2]]


def test_shared_weights_count_at_the_first_reader() -> None:
    model = network(
        """g (float[B, 32] x, float[32, 32] w) => (float[B, 32] y) {
            h = MatMul (x, w)
            r = Relu (h)
            y = MatMul (r, w)
        }"""
    )
    found = choices_of(model, "mixed")
    costs = stored_costs(model, find_target("mixed"), found, OPTIONS)
    first, second = found
    assert costs.weights == {first: 32 * 32, second: 0}
    assert set(costs.bytes[second].values()) == {0}
    chosen = {node: next(one for one in given if str(one.storage) == "int6") for node, given in found.items()}
    assert abs(costs.predicted(chosen) - written(model, "mixed", chosen)) < 20


def test_every_byte_of_a_file_is_found() -> None:
    model = canonical_of(MODELS / "digits_vit.onnx", "mixed")  # constants as the file has them, one with empty texts
    lowered, weights = MadeUp.of(model, find_target("mixed"), OPTIONS, Restrictions()).stored({})
    size = len(serialize(lowered))
    assert file_bytes(lowered, weights, {}).total == size


def test_what_is_no_choice_belongs_to_the_rest() -> None:
    model = network(
        """g (float[B, 4, 6, 6] x, float[4, 4, 1, 1] w1, float[4, 8, 3, 3] w2, float[4, 8, 1, 1] w3)
                => (float[B, 4, 8, 8] y) {
            a = Conv (x, w1)
            r = Relu (a)
            t = ConvTranspose (r, w2)
            y = Conv (t, w3)
        }"""
    )
    found = choices_of(model, "mixed", with_float=True)  # in float these weights are smaller than their conversions
    costs = stored_costs(model, find_target("mixed"), found, OPTIONS)
    assert list(costs.bytes) == [model.graph[0].name, model.graph[3].name]
    assert all(size >= 0 for given in costs.bytes.values() for size in given.values())
    for one in (KEPT_FLOAT, NodeChoice(Precision(4, 8), WeightFormat(4))):
        chosen = {**{node: given[0] for node, given in found.items()}, next(iter(found)): one}
        assert -20 < costs.predicted(chosen) - written(model, "mixed", chosen) < DECODERS
