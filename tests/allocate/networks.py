"""Small networks as text, and compiling them without measuring."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from ptqc.allocate.place import Placement, place
from ptqc.allocate.restrict import Restrictions
from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import input_specs
from ptqc.compile import Compiled, compile_graph
from ptqc.core.options import QuantizeOptions
from ptqc.core.types import Array
from ptqc.targets.registry import find_target
from tests.passes.lowering import parsed, with_weights

INT8 = find_target("int8")


def network(body: str, opset: int = 21) -> ir.Model:
    """A model as text; inputs whose names begin with ``w``, ``b`` or ``c`` become seeded constants.

    ``w`` are signed weights that keep the variance, ``b`` biases, ``c`` positive factors.
    """
    model = parsed(body, opset)
    arrays: dict[str, Array] = {}
    for index, value in enumerate(model.graph.inputs):
        name = value.name or ""
        if name[0] not in "wbc":
            continue
        assert value.shape is not None
        shape = tuple(int(size) for size in value.shape)  # type: ignore[arg-type]
        rng = np.random.default_rng(index)
        fan = max(1.0, float(np.prod(shape[1:])))
        drawn = rng.uniform(0.5, 1.5, shape) if name[0] == "c" else rng.normal(size=shape) / np.sqrt(fan)
        arrays[name] = drawn.astype(np.float32)
    return with_weights(model, **arrays)


def placed(body: str, restrictions: Restrictions | None = None, opset: int = 21) -> Placement:
    """Its placement on the target int8."""
    return place(network(body, opset), INT8, restrictions or Restrictions())


def forms(body: str, restrictions: Restrictions | None = None, opset: int = 21) -> dict[str, str]:
    """Form of each node by name."""
    return {name: str(plan.form) for name, plan in placed(body, restrictions, opset).nodes.items()}


def samples(model: ir.Model, count: int = 8) -> list[dict[str, Array]]:
    """Normal samples, one at a time; free dimensions are 1."""
    rng = np.random.default_rng(7)
    return [
        {
            spec.name: rng.normal(size=[s if isinstance(s, int) else 1 for s in spec.shape or ()]).astype(np.float32)
            for spec in input_specs(model)
        }
        for _ in range(count)
    ]


def compiled(
    model: ir.Model, data: list[Mapping[str, Array]] | list[dict[str, Array]] | None = None, **options: object
) -> Compiled:
    """The lowered form of a model with ranges from the least and greatest values and weights rounded to nearest."""
    simple = {"calibration_method": "minmax", "rounding": "nearest", "cpu": "vnni", "check_passes": True}
    chosen = QuantizeOptions(**{**simple, **options})  # type: ignore[arg-type]
    restrictions = Restrictions(chosen.keep_float, chosen.precision, chosen.op_types, chosen.activations)
    source = open_source(data or samples(model), input_specs(model))
    return compile_graph(model, INT8, source, restrictions, chosen, lambda stage, done, total: None)
