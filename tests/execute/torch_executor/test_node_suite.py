"""Onnx's own cases of single operators: computed in torch, in onnxruntime, or listed here with the reason why not."""

import warnings
from collections import Counter
from fnmatch import fnmatch
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.backend.test.case.node import collect_testcases
from onnx_ir.passes.common import InlinePass

from ptqc.core.errors import PtqcError
from ptqc.execute.runtime import create_session, run_session
from ptqc.execute.torch_executor.convert import from_feed, to_array
from ptqc.execute.torch_executor.executor import TorchExecutor
from ptqc.graph.naming import fix_names

CASES = 1884
IN_TORCH = 1833

# Values that depend on a generator of random numbers: types and shapes are compared.
RANDOM = ("test_bernoulli*", "test_training_dropout*")

# Neither in torch nor in onnxruntime 1.31: pattern -> reason.
NOT_COMPUTED = {
    "test_image_decoder_*": "images are decoded before the model",
}

# Computed as onnxruntime 1.31 does, which gives something else than onnx's reference: pattern -> what it does.
LIKE_RUNTIME = {
    "test_maxunpool_export_with_output_shape": "takes the indices as those of the larger output",
    "test_resize_downsample_scales_*_align_corners": "aligns with the last whole pixel, not with a fraction of one",
}


def _value(stored: Any) -> Any:
    if isinstance(stored, onnx.SequenceProto):
        stored = onnx.numpy_helper.to_list(stored)
    elif isinstance(stored, onnx.OptionalProto):
        stored = onnx.numpy_helper.to_optional(stored)
    elif isinstance(stored, onnx.TensorProto):
        stored = onnx.numpy_helper.to_array(stored)
    if isinstance(stored, list):
        return [np.asarray(item) for item in stored]
    return None if stored is None else np.asarray(stored)


def _differs(found: Any, expected: Any, case: Any) -> str:
    """How two values differ; empty where they do not."""
    if expected is None or isinstance(expected, list):
        if type(found) is not type(expected) or len(found or ()) != len(expected or ()):
            return f"{found} instead of {expected}"
        return "".join(_differs(*pair, case) for pair in zip(found or (), expected or (), strict=True))
    found = np.asarray(found)
    if found.shape != expected.shape or (found.dtype != expected.dtype and expected.dtype.kind not in "OUST"):
        return f"{found.dtype}{found.shape} instead of {expected.dtype}{expected.shape}"
    if any(fnmatch(case.name, pattern) for pattern in RANDOM):
        return ""
    if expected.dtype.kind in "OUST":
        return "" if found.astype(str).tolist() == expected.astype(str).tolist() else "other text"
    if expected.dtype.kind in "biu" and expected.dtype.isbuiltin == 1:
        return "" if np.array_equal(found, expected) else "other values"
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    with np.errstate(invalid="ignore"):  # NaN of eight bits
        exact, values, eps = expected.astype(wide), found.astype(wide), _precision(expected.dtype)
    most = np.abs(exact[np.isfinite(exact)]).max(initial=0.0)
    rtol, atol = max(case.rtol, 4 * eps), case.atol + 4 * eps * most
    return "" if np.allclose(values, exact, rtol=rtol, atol=atol, equal_nan=True) else "other values"


def _precision(dtype: Any) -> float:
    # Attention in 16 bits rounds in another order than the reference.
    return {"bfloat16": 2.0**-8, "float16": 2.0**-11}.get(dtype.name, 1.2e-7 if dtype.itemsize >= 4 else 0.0)


def _run(case: Any) -> tuple[str, str]:
    """Where the case was computed, and what is wrong with the result."""
    model = ir.from_proto(case.model)
    if model.functions:
        InlinePass()(model)
    fix_names(model)
    executor = TorchExecutor(model)
    for inputs, outputs in case.data_sets:
        names = [value.name or "" for value in model.graph.inputs]
        feeds = {name: from_feed(_value(stored), executor.device) for name, stored in zip(names, inputs, strict=True)}
        try:
            found = executor(feeds)
        except PtqcError as error:
            return "nowhere", str(error)
        expected = [_value(stored) for stored in outputs]
        if any(fnmatch(case.name, pattern) for pattern in LIKE_RUNTIME):
            arrays = {name: to_array(value) for name, value in feeds.items()}
            expected = run_session(create_session(case.model.SerializeToString()), executor.outputs, arrays)
        for name, exact in zip(executor.outputs, expected, strict=True):
            if wrong := _differs(to_array(found[name]), exact, case):
                return "island" if executor.islands else "torch", f"{name}: {wrong}"
    return "island" if executor.islands else "torch", ""


@pytest.mark.slow
def test_every_case_is_computed_or_listed() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NumPy, while the cases are made
        cases = collect_testcases(None)
    assert len(cases) == CASES
    where: Counter[str] = Counter()
    wrong: dict[str, str] = {}
    for case in cases:
        place, why = _run(case)
        where[place if not why else "wrong"] += 1
        if why:
            wrong[case.name] = f"{place}: {why}"
    listed = {name: pattern for name in wrong for pattern in NOT_COMPUTED if fnmatch(name, pattern)}
    assert {name: why for name, why in wrong.items() if name not in listed} == {}
    assert sorted(set(NOT_COMPUTED) - set(listed.values())) == [], "these are computed now"
    assert where["torch"] >= IN_TORCH, where
