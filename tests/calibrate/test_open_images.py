"""Images in folders and archives: pixels, labels, order, and damaged or hostile files."""

import io
import struct
import zipfile
import zlib

import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import InputSpec
from ptqc.core.errors import DataError, OptionError

SPEC = [InputSpec("x", np.dtype(np.float32), ("N", 3, 4, 4))]
RAW = "scale=1,crop=4"


def png(value, size=(4, 4), mode="RGB"):
    data = io.BytesIO()
    Image.new(mode, size[::-1], value if mode == "L" else (value,) * 3).save(data, "PNG")
    return data.getvalue()


def folder(path, files):
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def archive(path, files):
    file = path / "images.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as writer:
        for name, data in files.items():
            writer.writestr(name, data)
    return file


def read(source, size=8):
    batches = list(source.batches(size))
    values = np.concatenate([batch.feeds["x"] for batch in batches])[:, 0, 0, 0].tolist()
    return values, None if batches[0].labels is None else np.concatenate([b.labels for b in batches]).tolist()


def refusal(data, specs=SPEC, kind=DataError, **options):
    with pytest.raises(kind) as caught:
        for _ in open_source(data, specs, **options).batches(4):
            pass
    return str(caught.value)


@pytest.mark.parametrize("store", [folder, archive])
def test_images_come_in_the_order_of_their_names(tmp_path, store):
    files = {"b.png": png(2), "a.png": png(1), "c.PNG": png(3, mode="L"), "notes.txt": b"x", ".hidden.png": b"x"}
    source = open_source(store(tmp_path, files), SPEC, preprocessing=RAW)
    assert read(source) == ([1, 2, 3], None)
    assert read(source, 2) == ([1, 2, 3], None)
    assert len(source) == 3
    assert read(open_source(store(tmp_path, files), SPEC, preprocessing=RAW, limit=2))[0] == [1, 2]


@pytest.mark.parametrize("store", [folder, archive])
def test_class_folders_take_turns(tmp_path, store):
    files = {f"{name}/{i}.png": png(v + i) for name, v in (("cat", 10), ("dog", 20)) for i in range(3)}
    source = open_source(store(tmp_path, files), SPEC, preprocessing=RAW, limit=4)
    assert read(source) == ([10, 20, 11, 21], [0, 1, 0, 1])
    assert "2 class folders" in source.notes[0]


def test_numbered_class_folders_are_their_labels(tmp_path):
    files = {f"{name}/a.png": png(name) for name in (2, 10, 100)}
    assert read(open_source(folder(tmp_path, files), SPEC, preprocessing=RAW)) == ([10, 100, 2], [10, 100, 2])


@pytest.mark.parametrize("store", [folder, archive])
def test_label_files(tmp_path, store):
    files = {"b.png": png(2), "sub/a.png": png(1), "labels.csv": b"file,label,extra\nb.png,7,x\na.png,5,y\n"}
    assert read(open_source(store(tmp_path, files), SPEC, preprocessing=RAW)) == ([2, 1], [7, 5])
    files["sub/labels.csv"] = files.pop("labels.csv")
    (tmp_path / "labels.csv").unlink(missing_ok=True)
    assert read(open_source(store(tmp_path, files), SPEC, preprocessing=RAW))[1] == [7, 5]
    (tmp_path / "sub" / "labels.csv").unlink(missing_ok=True)
    del files["sub/labels.csv"]
    files["labels.csv"] = b"file,label\nb.png,7\n"
    assert "there is no label for" in refusal(store(tmp_path, files))
    files["labels.csv"] = b"name,label\nb.png,7\n"
    assert "lacks the columns" in refusal(store(tmp_path, files))


def test_a_label_file_beside_the_archive(tmp_path):
    file = archive(tmp_path, {"b.png": png(2), "a.png": png(1)})
    (tmp_path / "labels.csv").write_text("file,label\nb.png,7\na.png,5\n")
    source = open_source(file, SPEC, preprocessing=RAW)
    assert read(source)[1] == [5, 7]
    assert "labels were taken from" in source.notes[0]


def test_half_precision_models_take_images(tmp_path):
    file = archive(tmp_path, {"a.png": png(51)})
    for dtype in (np.float16, ml_dtypes.bfloat16):
        (batch,) = open_source(file, [InputSpec("x", np.dtype(dtype), (1, 3, 4, 4))], preprocessing="crop=4").batches(1)
        assert batch.feeds["x"].dtype == dtype
        assert batch.feeds["x"][0, 0, 0, 0] == dtype(0.2)


def test_labels_given_apart(tmp_path):
    images = folder(tmp_path / "i", {"b.png": png(2), "a.png": png(1)})
    (tmp_path / "l.csv").write_text("file,label\nb.png,7\na.png,5\n")
    assert read(open_source(images, SPEC, preprocessing=RAW, labels=tmp_path / "l.csv"))[1] == [5, 7]
    assert read(open_source(images, SPEC, preprocessing=RAW, labels=[1, 2]))[1] == [1, 2]
    assert "3 labels for 2 samples" in refusal(images, labels=[1, 2, 3])


def test_images_of_many_sizes(tmp_path):
    files = {"a.png": png(1, (4, 6)), "b.png": png(2, (8, 4)), "c.png": png(3, (8, 4))}
    free = [InputSpec("x", np.dtype(np.float32), ("N", 3, "H", "W"))]
    batches = list(open_source(folder(tmp_path, files), free).batches(8))
    assert [batch.feeds["x"].shape for batch in batches] == [(1, 3, 4, 6), (2, 3, 8, 4)]
    (batch,) = open_source(tmp_path, SPEC).batches(8)
    assert batch.feeds["x"].shape == (3, 3, 4, 4)


@pytest.mark.parametrize("first", [1, 2])
def test_fixed_batches(tmp_path, first):
    files = {f"{i}.png": png(i) for i in range(5)}
    fixed = [InputSpec("x", np.dtype(np.float32), (first, 3, 4, 4))]
    batches = list(open_source(folder(tmp_path, files), fixed, preprocessing=RAW).batches(8))
    assert [len(batch.feeds["x"]) for batch in batches] == [first] * (5 // first)


def test_pixels_in_arrays(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "p.npz", images=pixels, labels=np.arange(5))
    batches = list(open_source(tmp_path / "p.npz", SPEC, preprocessing="mean=0.5,color=BGR").batches(3))
    found = np.concatenate([batch.feeds["x"] for batch in batches])
    np.testing.assert_array_equal(found, (pixels[..., ::-1] / np.float32(255) - np.float32(0.5)).transpose(0, 3, 1, 2))
    np.savez(tmp_path / "f.npz", x=np.zeros((2, 3, 4, 4), np.float32))
    assert "preprocessing takes images" in refusal(tmp_path / "f.npz", preprocessing="mean=0.5")


def test_damaged_images_are_named(tmp_path):
    data = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    jpeg = io.BytesIO()
    data.save(jpeg, "JPEG")
    for name, content in (("cut.jpg", jpeg.getvalue()[:900]), ("empty.png", b""), ("text.png", b"hello")):
        message = refusal(folder(tmp_path / name.split(".")[0], {"a.png": png(1), name: content}))
        assert name in message
        assert "damaged" in message


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_decompression_bombs(tmp_path):
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")
    assert "a.png" in refusal(folder(tmp_path / "a", {"a.png": bomb}))
    long_header = struct.pack(">IIBBBBB", 16_000, 1, 8, 2, 0, 0, 0)
    narrow = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", long_header) + chunk(b"IDAT", zlib.compress(bytes(48_001)))
    narrow += chunk(b"IEND", b"")
    assert "too narrow" in refusal(folder(tmp_path / "b", {"a.png": narrow}))


def test_members_that_claim_to_be_huge(tmp_path, monkeypatch):
    monkeypatch.setattr("ptqc.calibrate.images.MAX_FILE_BYTES", 1000)
    (tmp_path / "zip").mkdir()
    message = refusal(archive(tmp_path / "zip", {"a.png": bytes(100_000)}))
    assert "larger than" in message


def test_names_in_archives_are_not_paths(tmp_path):
    file = archive(tmp_path, {"../../a.png": png(1), "/etc/b.png": png(2)})
    assert sorted(read(open_source(file, SPEC, preprocessing=RAW))[0]) == [1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["images.zip"]


def test_formats_that_are_no_photographs(tmp_path):
    assert "no known format" in refusal(
        folder(tmp_path, {"a.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n"})
    )


def test_no_images(tmp_path):
    (tmp_path / "bad.zip").write_bytes(b"hello")
    assert "no readable zip archive" in refusal(tmp_path / "bad.zip")
    assert "no images" in refusal(archive(tmp_path, {"a.txt": b"x"}))
    two = [*SPEC, InputSpec("y", np.dtype(np.float32), ("N", 2))]
    assert "images cannot feed 2 inputs" in refusal(archive(tmp_path, {"a.png": png(1)}), two)
    assert "did you mean 'crop'" in refusal(tmp_path / "images.zip", kind=OptionError, preprocessing="krop=4")


def test_the_calibration_images_of_the_shared_data(data_root):
    steps = "mean=0.485:0.456:0.406,std=0.229:0.224:0.225"
    spec = [InputSpec("input", np.dtype(np.float32), ("N", 3, 32, 32))]
    source = open_source(data_root / "cifar10" / "calib.npz", spec, preprocessing=steps, limit=8)
    raw = np.load(data_root / "cifar10" / "calib.npz")["images"][:8]
    expected = (raw / np.float32(255) - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    (batch,) = source.batches(8)
    np.testing.assert_array_equal(batch.feeds["input"], expected.transpose(0, 3, 1, 2))
    test = open_source(data_root / "cifar10" / "test.zip", spec, preprocessing=steps)
    assert len(test) == 5000


def test_digest_follows_files_steps_and_limit(tmp_path):
    files = {"a.png": png(1), "b.png": png(2)}
    path = folder(tmp_path, files)
    digest = open_source(path, SPEC, preprocessing=RAW).digest
    assert digest == open_source(path, SPEC, preprocessing=RAW).digest
    assert digest != open_source(path, SPEC, preprocessing=RAW, limit=1).digest
    assert digest != open_source(path, SPEC, preprocessing="crop=4").digest
    folder(tmp_path, {"b.png": png(3)})
    assert digest != open_source(path, SPEC, preprocessing=RAW).digest


def test_sixteen_bit_images_are_refused(tmp_path):
    data = io.BytesIO()
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(data, "PNG")
    assert "not 8 bits" in refusal(folder(tmp_path, {"a.png": data.getvalue()}))


def test_one_folder_around_the_class_folders(tmp_path):
    files = {f"val/{name}/a.png": png(v) for name, v in (("cat", 1), ("dog", 2))}
    assert read(open_source(folder(tmp_path, files), SPEC, preprocessing=RAW)) == ([1, 2], [0, 1])
