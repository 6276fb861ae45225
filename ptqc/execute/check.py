"""Whether the runtime takes a model at all: the last check of an import."""

import re

import onnx_ir as ir

from ptqc.core.errors import ModelError
from ptqc.execute.runtime import session_of


def check_runs(model: ir.Model, where: str = "") -> None:
    """Creates a session and throws it away.

    Args:
        model: a model as load_model gives it.
        where: the file that it came from, for the message.

    Raises:
        ModelError: the runtime does not accept the model; ``why`` is its reason on one line.
    """
    try:
        session_of(model)
    except ModelError as error:
        raise ModelError(
            "onnxruntime cannot run this model",
            where=where,
            why=clean_reason(error.why),
            fix="check that the file runs in onnxruntime as it is; operators of other runtimes are not supported",
        ) from error


def clean_reason(message: str) -> str:
    """The runtime's message on one line, without its error codes, source locations and temporary paths."""
    text = " ".join(message.split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"(Load model from \S* ?failed: ?|This is an invalid model\. |Error: )", "", text)
    text = re.sub(r"/\S*onnxruntime\S*:\d+ \S+(\([^)]*\))? ?", "", text)
    return text.strip()[:300]
