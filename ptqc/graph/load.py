"""Reading a model into the form that every pass expects."""

from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes import common


def load_model(model: str | Path | onnx.ModelProto | ir.Model) -> ir.Model:
    """Reads a model and brings it into the form that every pass expects. ModelError says what is wrong with it."""
    if isinstance(model, ir.Model):
        loaded = model.clone()
    elif isinstance(model, onnx.ModelProto):
        loaded = ir.from_proto(model)
    else:
        loaded = ir.load(model)
    common.InlinePass()(loaded)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(loaded)
    common.RemoveInitializersFromInputsPass()(loaded)
    common.NameFixPass()(loaded)
    common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(loaded)
    return loaded
