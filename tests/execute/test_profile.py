"""Profiles: every kernel of the optimized graph with its time, and times of runs brought together."""

import numpy as np
import onnx
import onnx_ir as ir

from ptqc.execute.profile import WARM_UP, kernel_times, profile_kernels

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[128, 128] x, float[128, 128] w) => (float[128, 128] y)
{ [product] t = MatMul(x, w) [other] u = MatMul(t, w) [end] y = Relu(u) }
"""


def test_every_kernel_has_its_time() -> None:
    model = ir.from_proto(onnx.parser.parse_model(TEXT))
    feeds = {"x": np.eye(128, dtype=np.float32), "w": np.eye(128, dtype=np.float32), "more": np.zeros(1)}
    profile = profile_kernels(model, feeds, seconds=0)
    assert list(profile.microseconds) == [node.name for node in profile.graph] == ["product", "other", "end"]
    assert all(time >= 0 for time in profile.microseconds.values())
    assert profile.microseconds["product"] > 0


def event(name: str, duration: float, category: str = "Node") -> dict[str, object]:
    return {"cat": category, "name": name, "dur": duration}


def test_times_are_those_of_one_usual_run() -> None:
    events = [event("model_run", 1, "Session")] * (WARM_UP + 4)
    events += [event("a_kernel_time", 900)] * WARM_UP  # not counted
    events += [event("a_kernel_time", duration) for duration in (14, 10, 12, 5000)]
    events += [event("b_kernel_time", 3)] * 2 * (WARM_UP + 4)  # two kernels of one name
    events += [event("in_a_body_kernel_time", 7), event("a_fence_before", 7), event("a_kernel_time", 7, "Session")]
    assert kernel_times(events, {"a", "b", "c"}) == {"a": 11.5, "b": 6.0}
