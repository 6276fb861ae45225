"""Doors of integer-only models, put back where ``--io integer`` left them to the caller."""

import numpy as np
import onnx_ir as ir
import pytest

from ptqc.core.errors import ModelError
from ptqc.execute.runtime import create_session
from ptqc.graph.save import save_model, serialize
from ptqc.integer_only import takes_codes, with_doors, without_doors
from tests.verify.networks import SIZE, Network


def bits(model: ir.Model, feed: np.ndarray) -> bytes:
    return bytes(create_session(serialize(model)).run(None, {"x": feed})[0].tobytes())


@pytest.fixture
def codes() -> ir.Model:
    return without_doors(Network().model)


def test_doors_that_come_back_are_those_that_went(codes):
    feed = np.random.default_rng(0).normal(size=(3, 4, SIZE, SIZE)).astype(np.float32)
    assert takes_codes(codes) and not takes_codes(Network().model)
    assert codes.graph.inputs[0].dtype == ir.DataType.UINT8
    assert bits(with_doors(codes), feed) == bits(Network().model, feed)
    assert codes.graph.inputs[0].dtype == ir.DataType.UINT8  # a copy was changed


@pytest.mark.parametrize(
    "text",
    ["", "[", "{}", "[1]", "[" * 100_000]
    + [
        f'{{"type": {kind}, "scale": {scale}, "zero_point": {zero_point}}}'
        for kind, scale, zero_point in [
            ('"int8"', 0.1, 0),
            ('"nonsense"', 0.1, 0),
            ("3", 0.1, 0),
            ('"uint8"', 0, 0),
            ('"uint8"', -1, 0),
            ('"uint8"', "NaN", 0),
            ('"uint8"', "Infinity", 0),
            ('"uint8"', 1e300, 0),
            ('"uint8"', 1e-300, 0),
            ('"uint8"', 0.1, 256),
            ('"uint8"', 0.1, -2),
            ('"uint8"', 0.1, "null"),
        ]
    ],
)
def test_damaged_metadata_are_refused(codes, text):
    codes.metadata_props["ptqc.codes.x"] = text
    with pytest.raises(ModelError, match=r"ptqc\.codes\.x"):
        with_doors(codes)


def test_commands_give_real_numbers_to_models_that_take_codes(codes, tmp_path):
    from click.testing import CliRunner

    from ptqc.cli.main import main

    save_model(codes, tmp_path / "codes.onnx")
    save_model(Network().model, tmp_path / "real.onnx")
    np.save(tmp_path / "data.npy", np.random.default_rng(0).normal(size=(8, 4, SIZE, SIZE)).astype(np.float32))
    names = [str(tmp_path / name) for name in ("codes.onnx", "real.onnx", "data.npy")]
    found = CliRunner().invoke(
        main, ["eval", names[0], "--reference", names[1], "--data", names[2], "--metric", "sqnr"]
    )
    assert found.exit_code == 0 and "exact" in found.output, found.output
