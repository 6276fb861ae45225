"""Neighbours: what follows each other, what meets in one node, and what is too far away."""

from ptqc.allocate.neighbours import neighbours
from tests.allocate.networks import network

CHAIN = """g (float[N,4] x, float[4,4] w, float[4,4] w2, float[4,4] w3) => (float[N,4] y)
    { [a] t = MatMul(x, w) u = Relu(t) [b] v = MatMul(u, w2) [c] y = MatMul(v, w3) }"""


def test_a_chain_has_links():
    assert neighbours(network(CHAIN)) == (("a", "b"), ("b", "c"))


def test_branches_that_meet():
    for operator in ("Add(u, v)", "Concat<axis = 1>(u, v)"):
        body = f"""g (float[N,4] x, float[4,4] w, float[4,4] w2, float[4,4] w3) => (float[N,M] y)
            {{ [a] t = MatMul(x, w) [b] u = MatMul(t, w2) [c] v = MatMul(t, w3) y = {operator} }}"""
        assert neighbours(network(body)) == (("a", "b"), ("a", "c"), ("b", "c"))


def test_a_residual_stream_does_not_make_all_nodes_neighbours():
    """Behind the second sum, what the first one added up is too far away; the stream itself is added to c."""
    body = """g (float[N,4] x, float[4,4] w, float[4,4] w2, float[4,4] w3, float[4,4] w4) => (float[N,4] y)
        { [a] t = MatMul(x, w) [b] u = MatMul(t, w2) s = Add(t, u) [c] v = MatMul(s, w3) r = Add(s, v)
          q = Relu(r) [d] y = MatMul(q, w4) }"""
    found = neighbours(network(body))
    assert found == (("a", "b"), ("a", "c"), ("b", "c"), ("c", "d"))


def test_a_value_that_meets_itself_is_nothing_new():
    """x * Sigmoid(x) twice: a is still near enough to b."""
    body = """g (float[N,4] x, float[4,4] w, float[4,4] w2) => (float[N,4] y)
        { [a] t = MatMul(x, w) s = Sigmoid(t) u = Mul(t, s) p = Sigmoid(u) q = Mul(u, p) [b] y = MatMul(q, w2) }"""
    assert neighbours(network(body)) == (("a", "b"),)


def test_products_of_activations_are_met_in_not_counted():
    body = """g (float[N,4,4] x, float[4,4] w, float[4,4] w2, float[4,4] w3) => (float[N,4,4] y)
        { [q] t = MatMul(x, w) [k] u = MatMul(x, w2) p = MatMul(t, u) [o] y = MatMul(p, w3) }"""
    assert neighbours(network(body)) == (("q", "k"), ("q", "o"), ("k", "o"))
