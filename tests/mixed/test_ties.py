"""What nodes of a graph must have in common."""

from ptqc.allocate.from_table import Likeness
from ptqc.allocate.place import place
from ptqc.allocate.restrict import Restrictions
from ptqc.core.types import NodeChoice, Precision
from ptqc.mixed.ties import graph_ties
from ptqc.targets.registry import find_target
from tests.allocate.networks import network

BRANCHES = network(
    """g (float[1,4] x, float[4,4] w0, float[4,4] w1) => (float[1,4] y) {
        [a] p = MatMul(x, w0)
        [r] q = Relu(p)
        [b] u = MatMul(q, w1)
        [c] v = MatMul(q, w0)
        y = Add(u, v)
    }"""
)


def ties(*widths):
    given = [NodeChoice(Precision(4, bits)) for bits in widths]
    placement = place(BRANCHES, find_target("mixed"), Restrictions())
    return graph_ties(BRANCHES, placement, dict.fromkeys("abc", given))


def test_nodes_that_share_weights_store_them_alike():
    assert ties(8) == (Likeness(("a", "c"), "choice", "they share weights"),)


def test_nodes_that_read_one_tensor_have_one_width_of_it_where_there_are_several():
    assert ties(8, 4)[1:] == (Likeness(("b", "c"), "activations", "they read one tensor"),)
