"""Graphs of one node, run in torch and in onnxruntime, and their gradients."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx.helper import (
    make_graph,
    make_model,
    make_node,
    make_opsetid,
    make_tensor_value_info,
    np_dtype_to_tensor_dtype,
)

from ptqc.core.types import Array
from ptqc.execute.runtime import create_session, run_session
from ptqc.execute.torch_executor.convert import to_array
from ptqc.execute.torch_executor.executor import TorchExecutor


def one_node(
    op: str, inputs: Sequence[Array | None], outputs: int = 1, opset: int = 21, domain: str = "", **attributes: Any
) -> onnx.ModelProto:
    """A model of one node, whose inputs x0, x1, ... have the types and ranks of ``inputs``; None is absent."""
    names = ["" if array is None else f"x{index}" for index, array in enumerate(inputs)]
    node = make_node(op, names, [f"y{index}" for index in range(outputs)], name="node", domain=domain, **attributes)
    given = [
        make_tensor_value_info(name, np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim)
        for name, array in zip(names, inputs, strict=True)
        if array is not None
    ]
    found = [onnx.ValueInfoProto(name=name) for name in node.output]
    opsets = [make_opsetid("", opset)] + ([make_opsetid(domain, 1)] if domain else [])
    return make_model(make_graph([node], "one_node", given, found), opset_imports=opsets, ir_version=10)


def in_torch(model: onnx.ModelProto, inputs: Sequence[Array | None]) -> list[Any]:
    """The outputs in torch; no node may be an island."""
    executor = TorchExecutor(ir.from_proto(model))
    found = executor({f"x{index}": array for index, array in enumerate(inputs) if array is not None})
    assert not executor.islands
    return [to_array(found[name]) for name in executor.outputs]


def in_runtime(model: onnx.ModelProto, inputs: Sequence[Array | None]) -> list[Any]:
    """The outputs in onnxruntime."""
    session = create_session(model.SerializeToString())
    feeds = {f"x{index}": array for index, array in enumerate(inputs) if array is not None}
    return run_session(session, [out.name for out in session.get_outputs()], feeds)


def assert_like_runtime(
    op: str, *inputs: Array | None, outputs: int = 1, opset: int = 21, rtol: float = 1e-5, **attributes: Any
) -> None:
    """The node gives in torch what it gives in onnxruntime: the types, the shapes and, up to ``rtol``, the values."""
    model = one_node(op, inputs, outputs, opset, **attributes)
    for found, expected in zip(in_torch(model, inputs), in_runtime(model, inputs), strict=True):
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol)


def assert_gradients(
    op: str, *inputs: Array | None, wanted: Sequence[int] = (0,), outputs: int = 1, opset: int = 21, **attributes: Any
) -> None:
    """Gradients of all outputs to the (double) inputs ``wanted`` are those of finite differences."""
    executor = TorchExecutor(ir.from_proto(one_node(op, inputs, outputs, opset, **attributes)))

    def run(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        feeds: dict[str, Any] = {f"x{index}": array for index, array in enumerate(inputs) if array is not None}
        feeds |= {f"x{index}": tensor for index, tensor in zip(wanted, tensors, strict=True)}
        return tuple(executor(feeds).values())

    leaves = [torch.from_numpy(np.array(inputs[index])).requires_grad_() for index in wanted]
    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)
    assert not executor.islands
