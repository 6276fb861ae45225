"""Gradients of the whole set's loss, whatever fits into memory at a time; steps that stay legal and stop in time."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ptqc.calibrate.distillation import optimize
from ptqc.calibrate.distillation.network import as_tensors
from ptqc.calibrate.distillation.optimize import evaluate_statistics, gradients, minimise
from ptqc.calibrate.distillation.settings import BATCH_NORM, BATCH_NORM_NOISE, CLASS_CONFIDENCE, METHODS, SAMPLE_NORM
from ptqc.execute.torch_executor.threads import torch_threads
from tests.calibrate.distillation.networks import CLASSIFIER, network, problem_of, with_statistics_of

RNG = np.random.default_rng(7)
DATA = (RNG.normal(size=(16, 3, 8, 8)) * 0.5).astype(np.float32)
START = RNG.uniform(-2, 2, size=(6, 3, 8, 8)).astype(np.float32)
SOFTMAX = CLASSIFIER.replace("y = MatMul(h, v)", "s = MatMul(h, v) y = Softmax <axis=1> (s)")
LOG_OF_MASKED = CLASSIFIER.replace("y = MatMul(h, v)", "s = MatMul(h, v) p = Softmax <axis=1> (s) y = Relu(p)")
UNITS = {"x": torch.tensor(0.94)}
BOUNDS = {"x": (torch.tensor([-2.0]), torch.tensor([2.0]))}


@pytest.fixture(autouse=True)
def _threads():
    with torch_threads():
        yield


def _model(text: str = CLASSIFIER):
    return with_statistics_of(network(text), {"x": DATA})


@pytest.mark.parametrize("settings", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("text", [CLASSIFIER, SOFTMAX, LOG_OF_MASKED], ids=["scores", "softmax", "probabilities"])
def test_gradients_by_pieces_are_those_in_one_piece(settings, text):
    problem = problem_of(_model(text), settings)
    whole, *pieces = ({"x": as_tensors({"x": START})["x"].requires_grad_()} for _ in range(4))
    losses = [gradients(problem, whole, 6)]
    for size, samples in zip((1, 4, 5), pieces, strict=True):
        losses.append(gradients(problem, samples, size))
        scale = whole["x"].grad.abs().max()
        assert scale > 0
        assert (samples["x"].grad - whole["x"].grad).abs().max() <= 1e-5 * scale
    for loss in losses[1:]:
        assert loss == pytest.approx(losses[0], rel=1e-5)


def test_the_gradient_is_that_of_the_loss():
    problem = problem_of(_model(), BATCH_NORM)
    samples = as_tensors({"x": START})
    samples["x"].requires_grad_()
    gradients(problem, samples, 2)
    direction = torch.sign(samples["x"].grad)
    slope = float((samples["x"].grad * direction).sum())
    with torch.no_grad():
        moved = [{"x": (samples["x"] + step * direction).requires_grad_()} for step in (1e-3, -1e-3)]
    high, low = (gradients(problem, one, 2)[0] for one in moved)
    assert (high - low) / 2e-3 == pytest.approx(slope, rel=0.02)


def test_a_softmax_at_the_end_does_not_change_the_class_term():
    problems = [problem_of(_model(text), CLASS_CONFIDENCE) for text in (CLASSIFIER, SOFTMAX)]
    plain, through = (gradients(one, as_tensors_with_gradient(), 6) for one in problems)
    assert plain == pytest.approx(through, rel=1e-5)


def as_tensors_with_gradient() -> dict[str, torch.Tensor]:
    return {"x": as_tensors({"x": START})["x"].requires_grad_()}


def _minimised(settings, steps: list[float] | None = None, text: str = CLASSIFIER):
    problem = problem_of(_model(text), settings)

    def tell(step: int, loss: float) -> None:
        if steps is not None:
            steps.append(loss)

    return problem, *minimise(problem, as_tensors({"x": START}), UNITS, BOUNDS, 4, tell)


def test_the_loss_falls_and_values_stay_legal():
    settings, losses = replace(BATCH_NORM, steps=25), []
    problem, found, steps = _minimised(settings, losses)
    before, after = (evaluate_statistics(problem, one, 6) for one in (as_tensors({"x": START}), found))
    assert after < before / 2
    assert losses[0] == pytest.approx(before, rel=1e-5) and len(losses) == steps == 25
    assert found["x"].min() >= -2.0 and found["x"].max() <= 2.0
    assert not found["x"].requires_grad


def test_without_clamping_values_leave_the_range():
    _, found, _ = _minimised(replace(SAMPLE_NORM, steps=8))
    assert found["x"].abs().max() > 2.0


def test_it_stops_where_nothing_is_gained():
    _, _, steps = _minimised(replace(BATCH_NORM_NOISE, steps=500, rate=1e-7))
    assert steps == optimize.PATIENCE + 1


def test_the_best_step_is_kept_even_if_later_ones_are_worse():
    losses: list[float] = []
    problem, found, _ = _minimised(replace(BATCH_NORM_NOISE, steps=3, rate=3.0), losses)
    assert evaluate_statistics(problem, found, 6) == pytest.approx(min(losses), rel=1e-4)
    assert losses[-1] > min(losses)


def test_a_loss_that_is_no_number_ends_it_with_what_there_was():
    problem = problem_of(_model(), BATCH_NORM)
    start = {"x": torch.full((6, 3, 8, 8), float("nan"))}
    found, steps = minimise(problem, start, UNITS, BOUNDS, 6, lambda step, loss: None)
    assert steps == 1 and found["x"] is start["x"]
