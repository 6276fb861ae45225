"""Engines on the same inputs: equal bits for good networks, a counterexample with its node for others."""

import numpy as np
import pytest

from ptqc.verify.compare import Task, compare, same_bits, sampled
from ptqc.verify.engines import Engine, Forms, engines_of, open_engine
from ptqc.verify.inputs import Kind, input_space, make_batch, plan_inputs
from ptqc.verify.kernels import check_kernels
from ptqc.verify.program import Carrier
from tests.verify.networks import Network


def silent(*_):
    """No progress is shown."""


def compared(network: Network, count: int = 100, **task):
    program = network.program
    space = input_space(program)
    plan = plan_inputs(space, count, 0)
    forms = Forms(network.model, program)
    found = Task(forms, engines_of(program, False, False), space, plan, sampled(plan, 40), **task)
    return compare(found, silent)


@pytest.mark.parametrize("carrier", [Carrier.QLINEAR, Carrier.QDQ])
@pytest.mark.parametrize("batch", ["N", 1])
def test_a_good_network_is_the_same_everywhere(carrier, batch):
    found = compared(Network(carrier=carrier, batch=batch))
    assert found.holds and not found.stopped
    by_name = {result.engine: result for result in found.engines}
    assert sum(by_name["onnxruntime, all optimisations, 2 threads"].inputs.values()) == 100
    assert 30 <= sum(by_name["interpreter"].inputs.values()) <= 50
    assert ("onnxruntime, no optimisation, 1 thread" in by_name) == (carrier is Carrier.QLINEAR)
    assert {result.kind: result.inputs for result in found.kinds} == by_name[
        "onnxruntime, all optimisations, 1 thread"
    ].inputs


def test_digests_do_not_depend_on_how_the_file_says_it():
    first, second = (compared(Network(carrier=carrier)).kinds for carrier in (Carrier.QLINEAR, Carrier.QDQ))
    assert first == second
    assert compared(Network(), seed=1).kinds[-1].sha256 != first[-1].sha256


def test_a_wrong_multiplier_is_found_with_its_node():
    network = Network(nudge=1e-4)
    found = compared(network)
    assert not found.holds
    (reference,) = [result for result in found.engines if result.engine == "onnxruntime, all optimisations, 1 thread"]
    difference = reference.difference
    assert difference.against == "interpreter"
    assert difference.place.node == "conv" and difference.place.tensor == "a"
    assert abs(difference.place.expected - difference.place.found) == 1
    # The counterexample can be made again from what the result says.
    space = input_space(network.program)
    feeds = make_batch(space, Kind(difference.kind), 0, difference.index, 1).feeds
    forms = Forms(network.model, network.program)
    for engine, value in ((Engine("onnxruntime"), difference.found), (Engine("interpreter"), difference.expected)):
        (output,) = open_engine(engine, forms)(feeds)
        assert output[(0, *difference.element[1:])] == value


def test_an_odd_zero_point_is_found_in_the_sum():
    found = compared(Network(zero_point=11, carrier=Carrier.QDQ))
    places = [result.difference.place.node for result in found.engines if result.difference]
    assert places and set(places) == {"add"}


def test_an_engine_that_does_not_run_is_refused_and_not_passed_over():
    network = Network()
    program = network.program
    space = input_space(program)
    plan = plan_inputs(space, 10, 0)
    engines = (Engine("onnxruntime"), Engine("reference"))  # which has no QLinearAdd
    found = compare(Task(Forms(network.model, program), engines, space, plan, plan), silent)
    assert not found.holds
    assert found.engines[1].refused and not found.engines[1].inputs


def test_a_budget_stops_early_and_says_so():
    found = compared(Network(), count=100_000, budget=0.2)
    assert "of 100,000 inputs ran in the 0.2 s" in found.stopped
    assert {result.kind for result in found.kinds} == set(Kind) - {Kind.GIVEN}  # each had its turn


def test_a_sample_has_every_kind():
    plan = {Kind.MINIMUM: 1, Kind.TIES: 16, Kind.RANDOM: 5000, Kind.SMOOTH: 5000}
    found = sampled(plan, 100)
    assert found[Kind.MINIMUM] == 1 and found[Kind.TIES] == 16 and 95 <= sum(found.values()) <= 105
    assert sampled(plan, 1) == dict.fromkeys(plan, 1)


def test_bits_and_not_values_are_compared():
    zero, negative = np.float32([0.0]), np.float32([-0.0])
    assert not same_bits(zero, negative)
    assert same_bits(np.float32([np.nan]), np.float32([np.nan]))
    assert not same_bits(np.uint8([1]), np.int8([1]))


def test_kernels_of_a_good_network_pass_at_ties():
    tests = check_kernels(Network().program, 0, silent)
    assert [test.node for test in tests] == ["conv", "point", "add"]
    assert all(test.holds for test in tests)
    assert all(test.ties > 0 for test in tests)
    assert tests[2].outputs == 256 * 256


def test_the_kernel_of_a_sum_with_an_odd_zero_point_differs():
    tests = check_kernels(Network(zero_point=11).program, 0, silent)
    assert [test.holds for test in tests] == [True, True, False]
    assert tests[2].differ > 0 and "first = " in tests[2].operands
