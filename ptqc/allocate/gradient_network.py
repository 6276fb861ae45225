"""The float network with the weights and inputs of its linear nodes as leaves of gradients, and what is derived."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from ptqc.allocate.class_scores import ClassScores, find_class_scores, real_outputs
from ptqc.allocate.trials import DATA, WEIGHT
from ptqc.calibrate.source import Batch, Source
from ptqc.core.errors import DataError, ModelError, OptionError, quoted
from ptqc.core.types import Array
from ptqc.graph.linear import Linear

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from ptqc.execute.torch_executor.block import Environment, Step

PIECE_BYTES = 128 << 20  # of activations that are kept for the gradient; a double one takes some times as much
MOST_SAMPLES = 64  # of a batch
TINY = 1e-30  # probabilities from 0 on have logarithms


@dataclass(frozen=True, slots=True)
class Objective:
    """The loss whose second derivatives say how much the outputs suffer; at the float model itself it is least.

    With class scores it is the cross-entropy against the model's own probabilities, so that its Hessian is that of the
    divergence (KL), the Fisher information. Without, it is half the relative squared error of all outputs of real
    numbers.

    Attributes:
        outputs: tensors of the main graph that it reads.
        scores: of classes; None without.
        signal: mean power of the outputs of a sample; 1 with class scores.
    """

    outputs: tuple[str, ...]
    scores: ClassScores | None
    signal: float = 1.0

    def loss(self, found: "Mapping[str, Tensor]", samples: int) -> "Tensor":
        """The mean over samples and positions."""
        import torch

        if self.scores is not None:
            logarithms = self._logarithms(found)
            return -(logarithms.detach().exp() * logarithms).sum() / self._rows(logarithms)
        errors = [(values - values.detach()).square().sum() for values in found.values()]
        return torch.stack(errors).sum() / (2.0 * samples * self.signal)

    def direction(self, found: "Mapping[str, Tensor]", samples: int, random: "Generator") -> "Tensor":
        """A number whose gradient has the Hessian of the loss, summed over samples, as its second moment.

        Random signs stand for the labels that the model itself would draw: the mean is the same, the variance less.
        """
        import torch

        if self.scores is None:
            signed = [(values * random_signs(values, random)).sum() for values in found.values()]
            return torch.stack(signed).sum() / float(self.signal**0.5)
        logarithms, axis = self._logarithms(found), self.scores.axis
        exact = logarithms.detach().exp()
        drawn = exact.sqrt() * random_signs(exact, random)
        along = drawn - exact * drawn.sum(axis, keepdim=True)
        positions = self._rows(logarithms) / samples
        # Adding a constant to all logits changes nothing, so logarithms of probabilities serve as logits.
        return (along * logarithms).sum() / float(positions**0.5)

    def top(self, found: "Mapping[str, Tensor]") -> "Tensor":
        """The sum of the greatest logits, or half the squares of all outputs: where relevance starts."""
        import torch

        if self.scores is not None:
            return found[self.scores.tensor].amax(self.scores.axis).sum()
        return torch.stack([values.square().sum() for values in found.values()]).sum() / 2.0

    def _logarithms(self, found: "Mapping[str, Tensor]") -> "Tensor":
        import torch

        assert self.scores is not None
        values = found[self.scores.tensor]
        if self.scores.tensor != self.scores.output or self.scores.form == "logits":
            # torch's log_softmax waits for its threads at each of three derivatives, however few the scores are.
            return values - torch.logsumexp(values, self.scores.axis, keepdim=True)
        return values if self.scores.form == "logarithms" else values.clamp_min(TINY).log()

    def _rows(self, logarithms: "Tensor") -> int:
        assert self.scores is not None
        return logarithms.numel() // logarithms.shape[self.scores.axis]


def make_objective(model: ir.Model) -> Objective:
    """The objective of a model, before its signal power is known. ModelError without outputs of real numbers."""
    outputs = real_outputs(model)
    if not outputs:
        raise ModelError("the model has no output of real numbers", why="sensitivities are errors of such outputs")
    scores = find_class_scores(model) if len(outputs) == 1 else None
    if scores is not None:
        return Objective((scores.tensor,), scores)
    return Objective(tuple(out.name or "" for out in outputs), None)


def random_signs(like: "Tensor", random: "Generator") -> "Tensor":
    """A tensor of -1 and 1 (Rademacher) of the shape and type of another."""
    import torch

    return torch.randint(0, 2, like.shape, generator=random).to(like.dtype) * 2.0 - 1.0


@dataclass(slots=True)
class Pass:
    """One run of a network, for gradients.

    Attributes:
        outputs: that the objective reads.
        weights: of each linear node, a leaf.
        data: what each linear node reads, for itself alone; empty where it was not asked for.
        products: what it computes, before a bias that is an Add.
    """

    outputs: "dict[str, Tensor]" = field(default_factory=dict)
    weights: "dict[str, Tensor]" = field(default_factory=dict)
    data: "dict[str, Tensor]" = field(default_factory=dict)
    products: "dict[str, Tensor]" = field(default_factory=dict)


class GradientNetwork:
    """A float network, run for gradients.

    Attributes:
        parts: the linear nodes that lead to an output of real numbers, by name.
    """

    def __init__(self, model: ir.Model, parts: Mapping[str, Linear]) -> None:
        """``model``: canonical float graph; it must not change afterwards. ModelError without real outputs."""
        from ptqc.execute.torch_executor.executor import TorchExecutor

        self.objective = make_objective(model)
        self.executor: TorchExecutor = TorchExecutor(model, self.objective.outputs)
        reached = {step.node.name for step in self.executor.steps}
        self.parts = {name: one for name, one in parts.items() if name in reached}

    def run(self, feeds: Mapping[str, Array], *, data: bool = False) -> Pass:
        """One run; a node that shares its weights with others has a leaf of its own."""
        executor, found = self.executor, Pass()
        environment = executor.start(feeds)
        for step in executor.steps:
            name = step.node.name or ""
            if name in self.parts:
                inputs = list(executor.read(step, environment))
                found.weights[name] = inputs[WEIGHT] = inputs[WEIGHT].detach().requires_grad_()
                if data:
                    read = inputs[DATA]
                    leaf = read.view_as(read) if read.requires_grad else read.detach().requires_grad_()
                    found.data[name] = inputs[DATA] = leaf
                products = self.compute(step, inputs, environment)
                found.products[name] = products[0]
                executor.store(step, products, environment)
            else:
                products = self.compute(step, executor.read(step, environment), environment)
                executor.store(step, products, environment)
        found.outputs = {name: environment[name] for name in self.objective.outputs}
        return found

    def compute(self, step: "Step", inputs: Sequence[Any], environment: "Environment") -> Sequence[Any]:
        """The outputs of one step; subclasses change what flows back through it."""
        return self.executor.compute(step, inputs, environment)

    def measure_signal(self, source: Source, size: int) -> None:
        """Puts the signal power into the objective where it needs it.

        DataError where the float model gives NaN, Inf or nothing but zeros.
        """
        import torch

        total, samples = 0.0, 0
        with torch.no_grad():
            for batch in source.batches(size):
                outputs = self.executor(batch.feeds)
                power = sum(float(values.double().square().sum()) for values in outputs.values())
                if not power < float("inf"):
                    where = f"{source.description}, samples from {batch.first}"
                    raise DataError("the float model gives NaN or Inf", where=where, fix="leave these samples out")
                total, samples = total + power, samples + batch.samples
        if total == 0.0:
            why = "an error cannot be put in relation to nothing"
            raise DataError("all outputs of the float model are zero", where=source.description, why=why)
        if self.objective.scores is None:
            self.objective = Objective(self.objective.outputs, None, total / samples)

    def batches(self, source: Source) -> Iterator[Batch]:
        """Batches of about equal sizes whose activations fit into memory, from the first sample to the last."""
        size = self.batch_size(source)
        return source.batches(-(-len(source) // -(-len(source) // size)))

    def batch_size(self, source: Source) -> int:
        """Samples whose activations fit into memory, found by running the first."""
        import torch

        first, used = next(source.batches(1)), 0
        with torch.no_grad():
            environment = self.executor.start(first.feeds)
            for step in self.executor.steps:
                outputs = self.executor.compute(step, self.executor.read(step, environment), environment)
                used += sum(out.nbytes for out in outputs if isinstance(out, torch.Tensor) and out.is_floating_point())
                self.executor.store(step, outputs, environment)
        return max(1, min(MOST_SAMPLES, PIECE_BYTES * first.samples // max(used, 1)))

    def gradients(
        self,
        value: "Tensor",
        names: Iterable[str],
        leaves: "Iterable[Tensor]",
        metric: str,
        *,
        keep: bool = False,
        twice: bool = False,
    ) -> "list[Tensor]":
        """The gradient of ``value`` by each of ``leaves``.

        Args:
            value: a number made of a pass's outputs.
            names: of the nodes that the leaves belong to.
            leaves: of the same pass.
            metric: for messages.
            keep: other gradients of this pass will follow.
            twice: these gradients will be derived themselves.

        Raises OptionError for the first node to which none comes back.
        """
        import torch

        wanted = list(leaves)
        found: Sequence[Tensor | None] = [None] * len(wanted)
        if value.requires_grad:
            found = torch.autograd.grad(
                value, wanted, retain_graph=keep or twice, create_graph=twice, allow_unused=True
            )
        gradients = []
        for name, gradient in zip(names, found, strict=True):
            if gradient is None:
                islands = "; ".join(f"{one} {why}" for one, why in list(self.executor.islands.items())[:3])
                why = f"these nodes have none: {islands}" if islands else "an operator behind it has none"
                what = f"no gradient reaches {quoted(name)}"
                raise OptionError(what, where=f"metric {quoted(metric)}", why=why, fix="use the metric noise")
            gradients.append(gradient)
        return gradients

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on nodes that ran without gradient so far."""
        return tuple(f"{name} ({why}) ran without gradient" for name, why in self.executor.islands.items())
