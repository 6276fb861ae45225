"""States of recurrent models as the models themselves leave them: calls in sequence, each with the last one's state."""

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from ptqc.calibrate.contract import InputContract, Kind
from ptqc.core.types import Array

if TYPE_CHECKING:
    import onnxruntime as ort


class StateRunner:
    """Runs a model over the samples of a recording, feeding its states back.

    Attributes:
        pairs: input name -> output that holds the state for the next call. Empty where no output fits.
    """

    def __init__(self, model: ir.Model, contracts: Sequence[InputContract]) -> None:
        from ptqc.execute.runtime import session_of

        self._contracts = tuple(contracts)
        self._states = [contract for contract in contracts if contract.kind is Kind.STATE]
        self._session: ort.InferenceSession = session_of(model)
        self._names = [value.name or "" for value in model.graph.outputs]
        self.pairs: Mapping[str, str] = {}

    def find_pairs(self, first: Mapping[str, Array]) -> None:
        """Matches states with outputs of the same shape and type, found by a run from zeros; names decide ties.

        Args:
            first: a sample by input name, states left out.

        Raises DataError where the model does not run on the sample.
        """
        outputs = self._run(first, self._zeros())
        pairs: dict[str, str] = {}
        free = [name for name, values in outputs.items() if isinstance(values, np.ndarray)]
        for state in self._states:
            fitting = [
                name for name in free if outputs[name].shape == state.shape and outputs[name].dtype == state.dtype
            ]
            if fitting:
                # Between equally similar names the first: inputs and outputs stand in the same order.
                chosen = max(fitting, key=lambda name: SequenceMatcher(None, state.name, name).ratio())
                pairs[state.name] = chosen
                free.remove(chosen)
        self.pairs = pairs

    def run(self, samples: Mapping[str, Array], calls: int) -> dict[str, Array]:
        """The states before each of ``calls`` calls that begin with zeros: [calls, *sample_shape] by input name.

        A state that is no longer finite starts again from zero. DataError where the model does not run.
        """
        states = self._zeros()
        seen: dict[str, list[Array]] = {state.name: [] for state in self._states}
        for call in range(calls):
            for state in self._states:
                before = states[state.name]
                seen[state.name].append(before if state.stacked else before[0])
            outputs = self._run({name: values[call] for name, values in samples.items()}, states)
            for name, output in self.pairs.items():
                after = outputs[output]
                states[name] = after if np.isfinite(after).all() else np.zeros_like(after)
        return {name: np.stack(values) for name, values in seen.items()}

    def _zeros(self) -> dict[str, Array]:
        return {state.name: np.zeros(state.shape, state.dtype) for state in self._states}

    def _run(self, sample: Mapping[str, Array], states: Mapping[str, Array]) -> dict[str, Array]:
        from ptqc.execute.runtime import run_session

        feeds: dict[str, Array] = dict(states)
        for contract in self._contracts:
            if contract.kind is not Kind.STATE:
                values = np.asarray(sample[contract.name], contract.dtype)
                feeds[contract.name] = np.ascontiguousarray(np.broadcast_to(values, contract.shape))
        return dict(zip(self._names, run_session(self._session, self._names, feeds), strict=True))


def random_states(rng: np.random.Generator, index: int, contract: InputContract) -> Array:
    """A state where no model is at hand to make one: zeros for every fourth sample, then small numbers."""
    shape = contract.sample_shape
    if index % 4 == 0:
        return np.zeros(shape, np.float32)
    values = rng.standard_normal(shape) * float(rng.choice([0.1, 0.3, 1.0]))
    return np.asarray(values, np.float32)
