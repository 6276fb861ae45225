"""Cost tables and allocations from files, for the model that they belong to only."""

import pytest

from ptqc.core.allocation import AllocatedNode, Allocation
from ptqc.core.cost import Cost, CostTable
from ptqc.core.errors import OptionError
from ptqc.core.types import KEPT_FLOAT, NodeChoice, Precision, WeightFormat
from ptqc.graph.walk import graph_hash
from ptqc.mixed.files import read_allocation, read_table
from tests.allocate.networks import network

MODEL = network("agraph (float[1,3] x, float[3,2] w) => (float[1,2] y) { y = MatMul(x, w) }")
W4, W8 = (NodeChoice(Precision(bits, 8), WeightFormat(bits)) for bits in (4, 8))
CHOICES = {"fc": (W4, W8, KEPT_FLOAT)}


def allocation(node="fc", choice=W4, graph=""):
    return Allocation(
        graph, (AllocatedNode(node, choice.precision, choice.storage, "", 0.1),), (), "", 0.1, 0.1, "", 0.0
    )


def written(path, text):
    path.write_text(text)
    return path


def test_a_table_of_this_model_or_of_none_is_read(tmp_path):
    for graph in ("", graph_hash(MODEL)):
        table = CostTable(graph, (Cost("fc", W4.precision, W4.storage, 0.1, origin={"sensitivity": "given"}),))
        assert read_table(written(tmp_path / "table.json", table.text()), MODEL) == table


def test_per_cent_of_a_size_are_those_of_the_file_at_hand(tmp_path):
    table = CostTable("", (Cost("fc", W4.precision, W4.storage, 0.1, origin={"sensitivity": "given"}),))
    assert read_table(written(tmp_path / "table.json", table.text()), MODEL, 700).float_model.bytes == 700


def test_a_table_of_another_model_is_refused(tmp_path):
    path = written(tmp_path / "table.json", CostTable("0" * 64, ()).text())
    with pytest.raises(OptionError, match="of another model"):
        read_table(path, MODEL)


def test_an_allocation_is_read(tmp_path):
    found = allocation(graph=graph_hash(MODEL))
    assert read_allocation(written(tmp_path / "plan.json", found.text()), MODEL, CHOICES) == found


@pytest.mark.parametrize("choice", [KEPT_FLOAT, NodeChoice(Precision(8, 8))])
def test_float_and_precisions_without_storage_are_choices_too(tmp_path, choice):
    path = written(tmp_path / "plan.json", allocation(choice=choice).text())
    assert read_allocation(path, MODEL, CHOICES).nodes[0].precision == choice.precision


def test_float_is_no_choice_of_integer_only_targets(tmp_path):
    path = written(tmp_path / "plan.json", allocation(choice=KEPT_FLOAT).text())
    with pytest.raises(OptionError, match="cannot be float"):
        read_allocation(path, MODEL, {"fc": (W4, W8)})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (allocation(graph="0" * 64), "of another model"),
        (allocation(node="fd"), "no node 'fd'"),
        (allocation(choice=NodeChoice(Precision(3, 8), WeightFormat(3))), "cannot be w3a8 int3"),
    ],
)
def test_allocations_that_do_not_fit_are_refused(tmp_path, given, words):
    with pytest.raises(OptionError, match=words) as caught:
        read_allocation(written(tmp_path / "plan.json", given.text()), MODEL, CHOICES)
    assert caught.value.fix


def test_a_damaged_allocation_is_named(tmp_path):
    path = written(tmp_path / "plan.json", '{"version": 1, "nodes": [{"node": "fc"}]}')
    with pytest.raises(OptionError, match="precision") as caught:
        read_allocation(path, MODEL, CHOICES)
    assert "plan.json" in caught.value.where
