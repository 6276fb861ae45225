"""What the loss of a model with one quantized node is measured by: each metric adds up over batches.

The relative squared error is the default: between two sets of images it ranks layers alike, where the divergence of
class probabilities hardly does, and it adds up over nodes.
"""

import math
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import onnx_ir as ir

from ptqc.allocate.class_scores import ClassScores, find_class_scores, real_outputs
from ptqc.core.cost import SENSITIVITY_METRIC
from ptqc.core.errors import DataError, ModelError, OptionError, quoted
from ptqc.core.types import Array
from ptqc.core.user_function import load_function

if TYPE_CHECKING:
    from torch import Tensor

NOISE, KL = "noise", "kl"
HESSIAN, FISHER, RELEVANCE = "hessian", "fisher", "relevance"
MEASURED = (NOISE, KL)
GRADIENT = (HESSIAN, FISHER, RELEVANCE)  # from gradients of the float model: ptqc.allocate.gradients
MOST_LOSS = 1e20  # nothing is left of the model then; sums of such are far from the greatest number of a cost table
DESCRIPTIONS = {
    NOISE: SENSITIVITY_METRIC,
    KL: "divergence of class probabilities (KL)",
    HESSIAN: "mean of the Hessian's diagonal times squared weight error",
    FISHER: "Fisher information times squared weight error",
    RELEVANCE: "share of the relevance times relative weight error",
}


def description(metric: str) -> str:
    """What a sensitivity in this metric is, in words; a user's metric stands for itself."""
    return DESCRIPTIONS.get(metric, metric)


class Metric(Protocol):
    """The loss of singly quantized models, added up over batches.

    For each batch :meth:`start` is called once, then :meth:`add` once for each trial.

    Attributes:
        name: as on the command line.
    """

    name: str

    def start(self, exact: "Mapping[str, Tensor]", samples: int) -> None:
        """Takes the outputs of the float model for a batch: all those of real numbers."""
        ...

    def add(self, exact: "Mapping[str, Tensor]", found: "Mapping[str, Tensor]") -> float:
        """What this batch contributes, from 0 on; inf for outputs that are no numbers.

        Args:
            exact: as :meth:`start` got it last.
            found: the outputs that changed.
        """
        ...

    def finish(self, total: float) -> float:
        """The loss: the sum of a trial's contributions, normalised by all batches; finite."""
        ...


def make_metric(name: str, model: ir.Model) -> Metric:
    """The metric for outputs of ``model``: ``noise``, ``kl`` or a user's ``module:function``.

    Raises:
        ModelError: the model has no output of real numbers.
        OptionError: it has no class scores for ``kl``; there is no such function; the metric is none of these.
    """
    if not real_outputs(model):
        raise ModelError("the model has no output of real numbers", why="sensitivities are errors of such outputs")
    if name == NOISE:
        return RelativeSquaredError()
    if name == KL:
        return Divergence(class_scores(model, "the metric 'kl'"))
    if ":" in name:
        return UserMetric(name, load_function(name))
    why = "it is found from gradients of the float model" if name in GRADIENT else "there is no such metric"
    raise OptionError(f"no model can be measured by {quoted(name)}", why=why, fix=f"use {NOISE} or {KL}")


def class_scores(model: ir.Model, what: str) -> ClassScores:
    """The model's class scores. OptionError where there are none, saying that ``what`` needs them."""
    scores = find_class_scores(model)
    if scores is None:
        raise OptionError(
            f"{what} needs class scores, and this model has none",
            why="not exactly one output of real numbers has an axis of classes ([N, C], [N, T, C] or [N, C, ...])",
            fix=f"use {NOISE}",
        )
    return scores


class RelativeSquaredError:
    """Noise power over all outputs and samples, divided by their signal power."""

    name = NOISE

    def __init__(self) -> None:
        self.signal = 0.0

    def start(self, exact: "Mapping[str, Tensor]", samples: int) -> None:
        """Adds the signal power."""
        self.signal += sum(_power(values) for values in exact.values())

    def add(self, exact: "Mapping[str, Tensor]", found: "Mapping[str, Tensor]") -> float:
        """The noise power."""
        return _known(sum(_power(values - exact[name]) for name, values in found.items()))

    def finish(self, total: float) -> float:
        """DataError where all outputs of the float model are zero."""
        if self.signal == 0.0:
            why = "an error cannot be put in relation to nothing"
            raise DataError("all outputs of the float model are zero", why=why)
        return bounded(total / self.signal)


class Divergence:
    """Mean of KL(probabilities of the float model, those of the other) over samples and positions.

    As in Cai et al., "ZeroQ" (arXiv 2001.00281), section 3.2, equation 3.
    """

    name = KL

    def __init__(self, scores: ClassScores) -> None:
        self.scores, self.rows = scores, 0
        self._exact: Tensor | None = None

    def start(self, exact: "Mapping[str, Tensor]", samples: int) -> None:
        """Keeps the logarithms of the float model's probabilities."""
        self._exact = self._logarithms(exact[self.scores.output])
        self.rows += self._exact.numel() // self._exact.shape[self.scores.axis]

    def add(self, exact: "Mapping[str, Tensor]", found: "Mapping[str, Tensor]") -> float:
        """The sum of the divergences; rounding may make single ones negative, not the sum."""
        if self.scores.output not in found:
            return 0.0
        assert self._exact is not None  # start() was called
        ratio = self._exact - self._logarithms(found[self.scores.output])
        return max(0.0, _known(float((self._exact.exp() * ratio).sum())))

    def finish(self, total: float) -> float:
        """The mean."""
        return bounded(total / max(self.rows, 1))

    def _logarithms(self, values: "Tensor") -> "Tensor":
        import torch

        values = values.double()
        if self.scores.form == "logits":
            return torch.log_softmax(values, self.scores.axis)
        return values if self.scores.form == "logarithms" else values.clamp_min(sys.float_info.min).log()


UserFunction = Callable[[dict[str, Array], dict[str, Array]], float]


class UserMetric:
    """Mean over samples of ``function(exact, found)``: outputs of a batch by name, of the float model and the other."""

    def __init__(self, name: str, function: UserFunction) -> None:
        self.name, self.function = name, function
        self.samples = self._now = 0
        self._exact: dict[str, Array] = {}

    def start(self, exact: "Mapping[str, Tensor]", samples: int) -> None:
        """Keeps the float model's outputs as arrays."""
        self._exact, self._now = _arrays(exact), samples
        self.samples += samples

    def add(self, exact: "Mapping[str, Tensor]", found: "Mapping[str, Tensor]") -> float:
        """What the function returns, times the samples. OptionError where it fails or returns no number from 0 on."""
        try:
            value = float(self.function(dict(self._exact), {**self._exact, **_arrays(found)}))
        except Exception as error:  # the user's code may raise anything; it is reported as theirs
            fix = "it is called as function(exact, found), dicts of arrays by output, and returns a number from 0 on"
            why = f"{type(error).__name__}: {error}"
            raise OptionError(f"the metric {quoted(self.name)} failed", why=why, fix=fix) from error
        if math.isnan(value) or value < 0.0:
            fix = "return a number from 0 on, the greater the worse"
            raise OptionError(f"the metric {quoted(self.name)} returned {value}", fix=fix)
        return value * self._now

    def finish(self, total: float) -> float:
        """The mean."""
        return bounded(total / max(self.samples, 1))


def _arrays(tensors: "Mapping[str, Tensor]") -> dict[str, Array]:
    from ptqc.execute.torch_executor.convert import to_array

    return {name: to_array(tensor) for name, tensor in tensors.items()}


def _power(tensor: Any) -> float:
    return float(tensor.double().square().sum())


def _known(value: float) -> float:
    return math.inf if math.isnan(value) else value


def bounded(value: float) -> float:
    """A loss as a sensitivity: finite, so that those of a whole model can be added up, whatever NaN and inf came."""
    return min(_known(value), MOST_LOSS)
