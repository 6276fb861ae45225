"""Real models with their own inputs: every zoo layout becomes feeds that the runtime takes."""

import json

import numpy as np
import onnx_ir as ir
import pytest

from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import input_specs
from ptqc.execute.runtime import create_session

ZOO = ["silero_vad_16k", "gtcrn_simple", "dtln_1", "mnist_cntk", "magika_v3_3", "toycar_autoencoder"]


@pytest.mark.parametrize("name", ZOO)
def test_zoo_inputs(data_root, name):
    (card,) = [card for card in json.loads((data_root / "manifest.json").read_text())["models"] if card["name"] == name]
    path = data_root / card["file"]
    with np.load(data_root / card["data"]["calib"]) as stored:
        arrays = {key.removeprefix("in_"): stored[key] for key in stored.files}
    source = open_source(arrays, input_specs(ir.load(path)), limit=6)
    session = create_session(path)
    batches = list(source.batches(3))
    assert len(source) == 6
    assert [batch.samples for batch in batches] == ([3, 3] if card["batch"] == "dynamic" else [1] * 6)
    for batch in batches[:2]:
        assert all(np.isfinite(output).all() for output in session.run(None, dict(batch.feeds)))


def test_the_language_model(data_root):
    with np.load(data_root / "lm" / "pylm_tokens.npz") as stored:
        tokens = stored["calib"].astype(np.int64)
    specs = input_specs(ir.load(data_root / "models" / "pylm.onnx"))
    source = open_source({"input_ids": tokens[:, :-1], "labels": tokens[:, 1:]}, specs, limit=5)
    (batch,) = source.batches(8)
    assert batch.feeds["input_ids"].shape == batch.labels.shape == (5, 128)
