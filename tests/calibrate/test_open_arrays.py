"""Arrays as data: how they are cut into calls, which conversions keep their values, and what is refused."""

import io
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import InputSpec
from ptqc.core.errors import DataError, OptionError


def spec(*shape, name="x", dtype=np.float32):
    return InputSpec(name, np.dtype(dtype), shape)


IMAGE = spec("N", 3, 4, 4)


def ramp(*shape, dtype=np.float32):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


@pytest.fixture
def saved(tmp_path):
    def save(compressed=False, name="calib.npz", **arrays):
        path = tmp_path / name
        (np.savez_compressed if compressed else np.savez)(path, **arrays)
        return path

    return save


def refusal(data, specs, kind=DataError, **options):
    with pytest.raises(kind) as caught:
        for _ in open_source(data, specs, **options).batches(4):
            pass
    return str(caught.value)


@pytest.mark.parametrize("compressed", [False, True])
def test_npz_is_cut_into_batches(saved, compressed):
    x, labels = ramp(10, 3, 4, 4), np.arange(10) * 2
    source = open_source(saved(compressed, x=x, labels=labels), [IMAGE])
    assert (len(source), source.has_labels, source.notes) == (10, True, ())
    assert source.description.endswith("calib.npz (10 samples)")
    for _ in range(2):  # it can be read again
        batches = list(source.batches(4))
        assert [(batch.samples, batch.first) for batch in batches] == [(4, 0), (4, 4), (2, 8)]
        np.testing.assert_array_equal(np.concatenate([batch.feeds["x"] for batch in batches]), x)
        np.testing.assert_array_equal(np.concatenate([batch.labels for batch in batches]), labels)


def test_limit(saved):
    source = open_source(saved(x=ramp(10, 3, 4, 4), labels=np.arange(10)), [IMAGE], limit=6)
    assert len(source) == 6
    assert [batch.samples for batch in source.batches(4)] == [4, 2]
    assert "0 samples" in refusal(saved(x=ramp(10, 3, 4, 4)), [IMAGE], OptionError, limit=0)


def test_a_fixed_batch_of_one_gets_one_sample_at_a_time(saved):
    batches = list(open_source(saved(x=ramp(3, 3, 4, 4)), [spec(1, 3, 4, 4)]).batches(64))
    assert [batch.feeds["x"].shape for batch in batches] == [(1, 3, 4, 4)] * 3


def test_a_fixed_batch_of_four_stays_whole_and_the_rest_is_left_out(saved):
    path, fixed = saved(x=ramp(10, 3), labels=np.arange(10)), spec(4, 3)
    source = open_source(path, [fixed])
    assert len(source) == 8
    assert [(batch.samples, list(batch.labels)) for batch in source.batches(1)] == [
        (4, [0, 1, 2, 3]),
        (4, [4, 5, 6, 7]),
    ]
    assert "the last 2 samples" in source.notes[0]
    assert len(open_source(path, [fixed], limit=5)) == 4
    assert "takes 4 samples at a time" in refusal(saved(x=ramp(3, 3)), [fixed])


def test_an_axis_more_than_the_model_has_numbers_the_samples(saved):
    specs = [spec("batch", "time", name="a"), spec(2, "batch", 8, name="state"), spec(name="rate", dtype=np.int64)]
    arrays = {"a": ramp(5, 1, 7), "state": ramp(5, 2, 1, 8), "rate": np.arange(5)}
    source = open_source(saved(**arrays, labels=np.arange(5)), specs)
    batches = list(source.batches(64))
    assert len(source) == len(batches) == 5
    for index, batch in enumerate(batches):
        assert batch.samples == 1
        assert list(batch.labels) == [index]
        for name, values in arrays.items():
            np.testing.assert_array_equal(batch.feeds[name], values[index])
            assert batch.feeds[name].shape == values[index].shape


def test_scalars_serve_every_call(saved):
    specs = [spec("N", 2), spec(name="rate", dtype=np.int64)]
    batches = list(open_source(saved(x=ramp(3, 2), rate=np.int64(16000)), specs).batches(2))
    assert [(batch.samples, batch.feeds["rate"].shape, int(batch.feeds["rate"])) for batch in batches] == [
        (2, (), 16000),
        (1, (), 16000),
    ]


def test_npy_and_folders(tmp_path):
    for index, count in enumerate((3, 1, 2)):
        np.save(tmp_path / f"part{index}.npy", np.full((count, 3, 4, 4), index, np.float32))
    np.save(tmp_path / "part3.npy", np.full((3, 4, 4), 3, np.float32))  # one sample without batch axis
    assert len(open_source(tmp_path / "part0.npy", [IMAGE])) == 3
    batches = list(open_source(tmp_path, [IMAGE]).batches(4))
    assert [batch.feeds["x"][:, 0, 0, 0].tolist() for batch in batches] == [[0, 0, 0, 1], [2, 2, 3]]


def test_samples_of_other_sizes_are_not_joined(tmp_path):
    for index, length in enumerate((5, 5, 2, 5)):
        np.save(tmp_path / f"{index}.npy", ramp(1, length))
    batches = list(open_source(tmp_path, [spec("N", "T")]).batches(8))
    assert [(batch.feeds["x"].shape, batch.first) for batch in batches] == [((2, 5), 0), ((1, 2), 2), ((1, 5), 3)]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (ramp(4, 2, dtype=np.uint8), np.float32),
        (ramp(4, 2, dtype=np.float64), np.float32),
        (ramp(4, 2, dtype=np.float16), np.float32),
        (ramp(4, 2), np.float16),
        (ramp(4, 2), ml_dtypes.bfloat16),
        (ramp(4, 2, dtype=np.int64), np.int32),
        (ramp(4, 2, dtype=np.uint16), np.int64),
        (ramp(4, 2, dtype=">f4"), np.float32),
    ],
)
@pytest.mark.parametrize("spooled", [False, True])
def test_conversions_that_keep_the_values(saved, values, dtype, spooled):
    data = iter([{"x": values}]) if spooled else saved(x=values)
    source = open_source(data, [spec("N", 2, dtype=dtype)])
    (batch,) = source.batches(9)
    assert batch.feeds["x"].dtype == dtype
    np.testing.assert_array_equal(batch.feeds["x"].astype(np.float64), values.astype(np.float64))
    assert f"converted from {values.dtype}" in source.notes[0]


def test_other_sizes_of_integers_are_converted_only_where_they_fit(saved):
    large = np.array([[1, 2], [3, 2**31]])
    assert "int32 cannot hold 2147483648" in (message := refusal(saved(x=large), [spec("N", 2, dtype=np.int32)]))
    assert "sample 1" in message
    assert "float32 cannot hold 16777217" in refusal(saved(x=np.array([[2**24 + 1]])), [spec("N", 1)])
    assert "float32 cannot hold 1e+300" in refusal(saved(x=np.array([[1e300]])), [spec("N", 1)])


@pytest.mark.parametrize(
    ("values", "dtype"),
    [(ramp(4, 2), np.int64), (np.ones((4, 2), bool), np.float32), (ramp(4, 2, dtype=np.int8), bool)],
)
def test_other_conversions_are_refused(saved, values, dtype):
    message = refusal(saved(x=values), [spec("N", 2, dtype=dtype)])
    assert f"'x' is {values.dtype}, the model takes {np.dtype(dtype)}" in message


def test_shapes_that_do_not_fit(saved):
    message = refusal(saved(x=ramp(2, 3, 4, 5)), [IMAGE])
    assert "'x' has shape [2, 3, 4, 5], the model takes float32[N, 3, 4, 4]" in message
    assert "calib.npz" in message
    message = refusal(saved(x=ramp(4, 2), y=ramp(5, 2)), [spec("N", 2), spec("N", 2, name="y")])
    assert "'x' 4, 'y' 5" in message


def test_names(saved):
    specs = [spec("N", 2, name="input_ids"), spec("N", 2, name="attention_mask")]
    message = refusal(saved(input_ids=ramp(2, 2), attention_msk=ramp(2, 2)), specs)
    assert "'attention_mask'" in message
    assert "did you mean 'attention_msk'?" in message
    source = open_source(saved(input_ids=ramp(2, 2), attention_mask=ramp(2, 2), extra=ramp(1)), specs)
    assert "no input 'extra'" in source.notes[0]
    source = open_source(saved(images=ramp(2, 2), labels=np.arange(2)), [spec("N", 2)])
    assert (source.has_labels, source.notes) == (True, ("'images' was taken for the input 'x'",))
    assert "one .npy file cannot feed 2 inputs" in refusal(_npy(saved), specs)


def _npy(saved):
    path = saved(x=ramp(1)).with_name("one.npy")
    np.save(path, ramp(2, 2))
    return path


@pytest.mark.parametrize(("bad", "name"), [(np.nan, "NaN"), (np.inf, "Inf"), (-np.inf, "Inf")])
def test_values_that_are_no_numbers(saved, bad, name):
    x = ramp(9, 3, 4, 4)
    x[6, 1, 2, 3] = bad
    message = refusal(saved(x=x), [IMAGE])
    assert f"holds {name}" in message
    assert "'x'" in message
    assert "sample 6" in message


def test_labels(saved):
    x = ramp(4, 2)
    assert "3 labels for 4 samples" in refusal(saved(x=x, labels=np.arange(3)), [spec("N", 2)])
    assert "no whole numbers" in refusal(saved(x=x, labels=np.arange(4) / 2), [spec("N", 2)])
    assert "no whole numbers" in refusal(saved(x=x, labels=np.array([np.nan] * 4)), [spec("N", 2)])
    assert "2 labels for 4 samples" in refusal(saved(x=x), [spec("N", 2)], labels=[1, 2])
    (batch,) = open_source(saved(x=x), [spec("N", 2)], labels=[3, 2, 1, 0], limit=3).batches(9)
    assert batch.labels.tolist() == [3, 2, 1]


def test_labels_from_files(saved, tmp_path):
    x = saved(x=ramp(3, 2))
    np.save(tmp_path / "labels.npy", np.array([[2], [1], [0]]))
    (tmp_path / "labels.csv").write_text("file,label\na,2\nb,1\nc,0\n")
    for labels in (
        tmp_path / "labels.npy",
        str(tmp_path / "labels.csv"),
        saved(name="l.npz", labels=np.array([2, 1, 0])),
    ):
        (batch,) = open_source(x, [spec("N", 2)], labels=labels).batches(9)
        assert batch.labels.tolist() == [2, 1, 0]
    (tmp_path / "bad.csv").write_text("file,label\na,cat\n")
    assert "labels cannot be read" in refusal(x, [spec("N", 2)], labels=tmp_path / "bad.csv")
    assert "labels cannot be read" in refusal(x, [spec("N", 2)], labels=tmp_path / "none.csv")


def test_empty_and_missing(saved, tmp_path):
    assert "has no samples" in refusal(saved(x=ramp(0, 3, 4, 4)), [IMAGE])
    assert "data set is empty" in refusal([], [IMAGE])
    assert "data set is empty" in refusal(iter([]), [IMAGE])
    assert "cannot be found. No such file" in refusal(tmp_path / "none.npz", [IMAGE])
    (tmp_path / "empty").mkdir()
    assert "holds no data" in refusal(tmp_path / "empty", [IMAGE])
    (tmp_path / "x.txt").write_text("1")
    assert "of this kind" in refusal(tmp_path / "x.txt", [IMAGE])


def test_pickles_are_not_read(saved, tmp_path):
    objects = np.array([{"a": 1}], dtype=object)
    assert "not unpickled" in refusal(saved(x=objects), [IMAGE])
    np.save(tmp_path / "x.npy", objects, allow_pickle=True)
    assert "not unpickled" in refusal(tmp_path / "x.npy", [IMAGE])
    assert "not numbers" in refusal(saved(x=np.array(["a"])), [IMAGE])


def test_declared_sizes_are_not_believed(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 3, 4, 4)})
    path = tmp_path / "x.npy"
    path.write_bytes(header.getvalue() + b"0" * 100)
    assert "there are 100" in refusal(path, [IMAGE])
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", header.getvalue() + b"0" * 100)
    assert "there are 100" in refusal(tmp_path / "x.npz", [IMAGE])
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1, 1 << 40)})
    path.write_bytes(header.getvalue())
    assert "larger than 1 GiB" in refusal(path, [spec("N", "T")])


def test_fortran_order_is_refused_with_the_cure(tmp_path):
    np.save(tmp_path / "x.npy", np.asfortranarray(ramp(4, 3)))
    assert "ascontiguousarray" in refusal(tmp_path / "x.npy", [spec("N", 3)])


SMALL = {False: io.BytesIO(), True: io.BytesIO()}
np.savez(SMALL[False], x=ramp(2, 3))
np.savez_compressed(SMALL[True], x=ramp(2, 3))


@settings(max_examples=150, deadline=None)
@given(
    compressed=st.booleans(),
    cut=st.integers(0, 400),
    changes=st.lists(st.tuples(st.integers(0, 399), st.integers(0, 255)), max_size=3),
)
def test_damaged_archives_are_read_or_refused(tmp_path_factory, compressed, cut, changes):
    data = bytearray(SMALL[compressed].getvalue())
    for at, value in changes:
        data[at % len(data)] = value
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(data[: len(data) - cut % len(data)] if cut > 200 else data)
    try:
        source = open_source(path, [spec("N", 3)])
        assert sum(batch.samples for batch in source.batches(1)) == len(source)
    except DataError:
        pass


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5), size=st.integers(1, 7), limit=st.integers(1, 30))
def test_batches_hold_every_sample_once_in_order(sizes, size, limit):
    data = ramp(sum(sizes), 2)
    items = [{"x": part} for part in np.split(data, np.cumsum(sizes)[:-1])]
    source = open_source(iter(items), [spec("N", 2)], limit=limit)
    batches = list(source.batches(size))
    np.testing.assert_array_equal(np.concatenate([batch.feeds["x"] for batch in batches]), data[:limit])
    assert len(source) == min(limit, len(data))
    assert all(batch.samples == size for batch in batches[:-1])
    assert [batch.first for batch in batches] == list(range(0, len(source), size))
    assert source.digest == open_source([{"x": data[:limit]}], [spec("N", 2)]).digest


def test_arrays_in_memory():
    x = ramp(5, 2)
    source = open_source({"x": x, "labels": np.arange(5)}, [spec("N", 2)])
    assert (len(source), source.has_labels, source.description) == (5, True, "arrays in memory (5 samples)")
    assert [batch.samples for batch in open_source(x, [spec("N", 2)], limit=4).batches(3)] == [3, 1]
    pixels = np.full((2, 4, 4, 3), 255, np.uint8)
    (batch,) = open_source(pixels, [IMAGE], preprocessing="mean=0.5").batches(2)
    assert (batch.feeds["x"] == 0.5).all()
    message = refusal(x, [spec("N", 2), spec("N", 2, name="y")])
    assert "does not say which input" in message


@pytest.mark.parametrize("path", ["a\0b.npz", "x" * 5000])
def test_impossible_paths(path):
    assert "cannot be found" in refusal(path, [IMAGE])


def test_digest_follows_names_types_shapes_bytes_and_labels(saved):
    def digest(array, name="x", **options):
        return open_source({name: array}, [spec("N", None, name=name, dtype=array.dtype)], **options).digest

    x = ramp(4, 6)
    changed = x.copy()
    changed[3, 5] += 1
    digests = [digest(x), digest(x, name="y"), digest(x.astype(np.float64)), digest(x.reshape(6, 4)), digest(changed)]
    digests.append(digest(x, limit=3))
    assert len(set(digests)) == len(digests)
    assert digest(x) == open_source(saved(True, x=x), [spec("N", None)]).digest
