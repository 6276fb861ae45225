"""Text, held in NumPy arrays: what needs no kernel of onnxruntime's, whose letter cases depend on installed locales."""

import numpy as np

from ptqc.core.types import Array
from ptqc.execute.torch_executor.registry import Call, operator


@operator("StringNormalizer", since=10)
def normalize(call: Call, x: Array) -> Array:
    """Text without stop words, in upper or lower case; one empty string where nothing is left."""
    change = {"UPPER": str.upper, "LOWER": str.lower}.get(call.get("case_change_action", "NONE"), str)
    compared = str if call.get("is_case_sensitive", 0) else str.lower
    stopped = {compared(word) for word in call.get("stopwords") or ()}
    words = [str(word) for word in x.reshape(-1).tolist()]
    left = [change(word) for word in words if compared(word) not in stopped] or [""]
    return np.asarray(left, object).reshape([1] * (x.ndim - 1) + [-1])
