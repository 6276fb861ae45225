"""Latency: the ratio points the right way, the rounds are interleaved, and the machine is described."""

import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ptqc.core.errors import DataError
from ptqc.execute import latency
from ptqc.execute.latency import cpu_description, has_vnni, measure_ratio


def matmuls(count: int) -> ir.Model:
    steps = "\n".join(f"t{i + 1} = MatMul(t{i}, w)" for i in range(count))
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[64, 64] t0, float[64, 64] w) => (float[64, 64] t{count}) {{ {steps} }}
    """
    return ir.from_proto(onnx.parser.parse_model(text))


FEEDS = {"t0": np.eye(64, dtype=np.float32), "w": np.eye(64, dtype=np.float32)}


def test_ratio_is_first_over_second() -> None:
    result = measure_ratio(matmuls(24), matmuls(2), FEEDS, seconds=0.2)
    assert 2 < result.ratio < 40
    assert result.ratio_lower <= result.ratio_upper
    assert result.first.lower_us <= result.first.median_us <= result.first.upper_us
    assert (result.threads, result.batch, result.clock) == (1, 64, "thread")
    assert result.rounds >= latency.FEWEST_ROUNDS
    json.dumps(result.to_json())


def test_several_threads_are_measured_by_the_wall_clock() -> None:
    data = ir.to_proto(matmuls(2)).SerializeToString()
    assert measure_ratio(data, data, FEEDS, threads=2, seconds=0).clock == "wall"


def test_runs_alternate_and_start_in_turn() -> None:
    calls: list[str] = []
    thread, wall = latency._interleaved([lambda: calls.append("a"), lambda: calls.append("b")], seconds=0)
    assert "".join(calls) == "ab" + "abba" * 3 + "ab"
    assert [len(column) for column in (*thread, *wall)] == [7, 7, 7, 7]


def test_bad_feeds_are_data_errors() -> None:
    with pytest.raises(DataError):
        measure_ratio(matmuls(1), matmuls(1), {"t0": FEEDS["t0"]}, seconds=0)


@pytest.mark.parametrize(("flags", "vnni"), [("avx2 avx512f", False), ("avx2 avx_vnni", True), ("asimddp", True)])
def test_vnni_is_read_from_the_flags(monkeypatch: pytest.MonkeyPatch, flags: str, vnni: bool) -> None:
    monkeypatch.setattr(latency, "_cpu_flags", lambda: ("some CPU", frozenset(flags.split())))
    assert has_vnni() is vnni
    assert cpu_description()["vnni"] is vnni
    assert cpu_description()["name"] == "some CPU"
