import json
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from click.testing import CliRunner
from PIL import Image

from ptqc.calibrate.synthesis.info import synthetic_info
from ptqc.cli.main import main

MODEL = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3, 16, 16] image) => (float[N, 3, 1, 1] y) { y = GlobalAveragePool(image) }"""
UNITS = "image:kind=image,mean=0.5,std=0.5"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(MODEL), path)
    return path


def _run(*args: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, ["synth", *map(str, args)])
    return done.exit_code, done.stdout, done.stderr


def test_synth_writes_samples_beside_the_model_and_says_what_they_are(model: Path) -> None:
    code, out, err = _run(model, "-n", 6, "--input", UNITS, "--seed", 3)
    assert code == 0, err
    assert "image" in out and "float32 [6, 3, 16, 16]" in out and "model.synthetic.npz" in err
    path = model.with_name("model.synthetic.npz")
    info = synthetic_info(path)
    assert info is not None and (info.source, info.seed, info.samples) == ("procedural", 3, 6)
    assert info.ranges["image"] == (-1.0, 1.0)
    before = path.read_bytes()
    assert _run(model, "-n", 6, "--input", UNITS, "--seed", 3)[0] == 0  # its own file may be replaced
    assert path.read_bytes() == before


def test_json_is_one_document(model: Path, tmp_path: Path) -> None:
    output, png = tmp_path / "data.npz", tmp_path / "grid.png"
    code, out, err = _run(model, "-n", 4, "-o", output, "--png", png, "--input", UNITS, "--json")
    assert code == 0, err
    written = json.loads(out)
    assert written["output"] == str(output) and written["png"] == str(png) and written["samples"] == 4
    (described,) = written["inputs"]
    assert described["kind"] == "image" and described["shape"] == [4, 3, 16, 16] and described["legal"] == [-1.0, 1.0]
    with Image.open(png) as image:
        assert image.mode == "RGB" and min(image.size) > 32


def test_preprocessing_may_be_given(model: Path) -> None:
    code, _, err = _run(model, "-n", 4, "--preprocess", "mean=0,std=1,scale=1", "--input", "kind=image")
    assert code == 0, err
    with np.load(model.with_name("model.synthetic.npz"), allow_pickle=False) as archive:
        assert archive["image"].max() > 100


@pytest.mark.parametrize("args", [("-o", "data.txt"), ("--png", "grid.jpg"), ("-o", "nowhere/data.npz")])
def test_outputs_that_cannot_be_written(
    model: Path, args: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = _run(model, "-n", 2, "--input", UNITS, *args)
    assert code == 2 and args[1].split("/")[-1] in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx"]


def test_files_of_others_are_kept_unless_forced(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, image=np.zeros(3))
    code, _, err = _run(model, "-n", 2, "-o", path, "--input", UNITS)
    assert code == 2 and "--force" in err
    path.write_bytes(b"not even an archive")
    assert _run(model, "-n", 2, "-o", path, "--input", UNITS)[0] == 2
    assert _run(model, "-n", 2, "-o", path, "--input", UNITS, "--force")[0] == 0
    assert synthetic_info(path) is not None


def test_no_picture_of_what_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "encoder.onnx"
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 640] x) => (float[N, 640] y) { y = Relu(x) }"""
    onnx.save(onnx.parser.parse_model(text), path)
    code, _, err = _run(path, "-n", 2, "--png", tmp_path / "grid.png", "--input", "kind=vector")
    assert code == 2 and "no images to draw" in err
    assert not (tmp_path / "grid.png").exists()
