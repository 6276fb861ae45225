"""What synthetic images are for: ranges measured on them serve photographs, where those measured on noise do not."""

import numpy as np

from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import input_specs
from ptqc.calibrate.synthesis.images import synthesize_images
from ptqc.compile import canonicalise, compile_graph, restrictions_of
from ptqc.core.options import QuantizeOptions
from ptqc.execute.runtime import create_session, session_of
from ptqc.graph.load import import_model
from ptqc.targets.registry import find_target

STEPS = "mean=0.485:0.456:0.406,std=0.229:0.224:0.225"


def preprocessed(pixels, specs):
    (batch,) = open_source({"input": pixels}, specs, preprocessing=STEPS).batches(len(pixels))
    return batch.feeds["input"]


def quantized(path, samples):
    options = QuantizeOptions(calibration_method="minmax", rounding="nearest", no_measure=True)
    loaded, target = import_model(path), find_target("int8")
    canonicalise(loaded.model, target, options)
    source = open_source({"input": samples}, input_specs(loaded.model))
    compiled = compile_graph(loaded.model, target, source, restrictions_of(options), options, lambda *_: None)
    return session_of(compiled.model)


def test_resnet20_on_photographs(data_root):
    path = data_root / "models" / "resnet20.onnx"
    specs = input_specs(import_model(path).model)
    with np.load(data_root / "cifar10" / "calib.npz") as stored:
        photographs = preprocessed(stored["images"][:256], specs)
    (expected,) = create_session(path).run(None, {"input": photographs})
    sqnr = {}
    for name, samples in {
        "synthetic": preprocessed(synthesize_images(64, 32, 32, 3, 0), specs),
        "noise": np.random.default_rng(0).standard_normal((64, 3, 32, 32), np.float32),
    }.items():
        (found,) = quantized(path, samples).run(None, {"input": photographs})
        sqnr[name] = 10 * np.log10(np.square(expected).sum() / np.square(found - expected).sum())
    # 27.9 dB with 256 synthetic images, 29.4 with as many photographs, 24.7 with noise.
    assert sqnr["synthetic"] > 25.5
    assert sqnr["synthetic"] > sqnr["noise"] + 1
