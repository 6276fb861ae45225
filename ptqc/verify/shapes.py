"""Shapes as they follow from the inputs and the operators: what a file states of its tensors may be wrong."""

import onnx_ir as ir

from ptqc.graph.shapes import infer_shapes


def with_inferred_shapes(model: ir.Model) -> ir.Model:
    """A copy of ``model`` whose nodes' outputs have the shapes that inference finds, and no others.

    Bounds of sums depend on shapes, and an engine does not stop at a stated shape that is wrong.
    """
    copy = model.clone()
    copy.meta.update(model.meta)  # which a clone has not
    for node in copy.graph:
        for value in node.outputs:
            value.shape = None
    infer_shapes(copy)
    return copy
