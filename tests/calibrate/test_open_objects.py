"""Python objects and .pb folders as data: what may be read once is kept for the second time."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import InputSpec, input_specs
from ptqc.core.errors import DataError, ModelError, OptionError

FLOAT, INT = np.dtype(np.float32), np.dtype(np.int64)
ONE = [InputSpec("x", FLOAT, ("N", 2))]
TWO = [InputSpec("a", FLOAT, ("N", 2)), InputSpec("b", INT, ("M",))]


def items(*counts):
    for start, count in enumerate(counts):
        yield {"x": np.full((count, 2), start, np.float32)}


def firsts(source, size=8):
    return [batch.feeds["x"][:, 0].tolist() for batch in source.batches(size)]


def test_a_generator_can_be_read_again():
    source = open_source(items(2, 1, 3), ONE)
    assert (len(source), source.description) == (6, "generator in memory (6 samples)")
    for _ in range(2):
        assert firsts(source, 4) == [[0, 0, 1, 2], [2, 2]]


def test_readers_may_be_interleaved():
    source = open_source(items(2, 1, 3), ONE)
    assert [a.feeds["x"][0, 0] for a, _ in zip(source.batches(1), source.batches(2), strict=False)] == [0, 0, 1]


def test_an_endless_generator_with_a_limit():
    def endless():
        while True:
            yield {"x": np.zeros((1, 2), np.float32)}

    assert len(open_source(endless(), ONE, limit=5)) == 5


def test_no_more_is_read_than_the_limit_asks_for():
    given = []

    def counted():
        for _ in range(100):
            given.append(1)
            yield {"x": np.zeros((4, 2), np.float32)}

    assert len(open_source(counted(), ONE, limit=10)) == 10
    assert len(given) == 3


def test_an_item_that_does_not_fit_stops_the_reading():
    def endless():
        while True:
            yield {"x": np.zeros((1, 3), np.float32)}

    with pytest.raises(DataError, match="item 0 of the data.*the model takes"):
        open_source(endless(), ONE)


def test_no_temporary_folder(monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    with pytest.raises(DataError, match="set TMPDIR"):
        open_source(items(1), ONE)


class Reader:
    """Like onnxruntime's CalibrationDataReader."""

    def __init__(self):
        self.left = list(items(1, 1, 1))

    def get_next(self):
        return self.left.pop(0) if self.left else None


class RewindingReader(Reader):
    def rewind(self):
        self.left = list(items(1, 1))


def test_calibration_data_readers():
    assert firsts(open_source(Reader(), ONE)) == [[0, 1, 2]]
    assert firsts(open_source(RewindingReader(), ONE)) == [[0, 1]]


class Shuffled:
    """Gives its items in another order each time."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __iter__(self):
        return iter([{"x": np.full((1, 2), i, np.float32)} for i in self.rng.permutation(9)])


def test_an_iterable_that_shuffles_is_read_once():
    source = open_source(Shuffled(), ONE)
    assert firsts(source) == firsts(source)


def test_torch_data_loaders():
    torch = pytest.importorskip("torch")
    x, y = torch.arange(12.0).reshape(6, 2), torch.arange(6)
    dataset = torch.utils.data.TensorDataset(x, y)
    source = open_source(torch.utils.data.DataLoader(dataset, batch_size=4), ONE)
    batches = list(source.batches(3))
    assert source.has_labels
    np.testing.assert_array_equal(np.concatenate([b.feeds["x"] for b in batches]), x.numpy())
    assert np.concatenate([b.labels for b in batches]).tolist() == list(range(6))
    dicts = torch.utils.data.DataLoader([{"a": row, "b": label} for row, label in dataset], batch_size=2)
    assert [b.feeds["b"].tolist() for b in open_source(dicts, TWO).batches(4)] == [[0, 1, 2, 3], [4, 5]]
    grad = [{"x": torch.ones(1, 2, requires_grad=True)}]
    assert len(open_source(grad, ONE)) == 1


def test_tuples_and_plain_arrays():
    assert firsts(open_source([np.ones((2, 2), np.float32)], ONE)) == [[1, 1]]
    (batch,) = open_source([(np.ones((2, 2), np.float32), np.arange(2))], TWO).batches(4)
    assert (batch.feeds["b"].tolist(), batch.labels) == ([0, 1], None)


def test_first_axes_of_different_sizes_are_one_call():
    call = {"a": np.ones((3, 2), np.float32), "b": np.arange(5)}
    batches = list(open_source([call, call], TWO).batches(8))
    assert [(b.samples, b.feeds["a"].shape, b.feeds["b"].shape) for b in batches] == [(1, (3, 2), (5,))] * 2


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (7, "int cannot be read"),
        ([{"y": np.zeros((1, 2)), "z": np.zeros(1)}], "no data for the input 'x'"),
        ([{"x": np.zeros((1, 2))}, {"x": np.zeros((1, 3))}], "item 1 of the data"),
        ([{"x": np.array([[0, np.nan]])}], "holds NaN"),
        ([{"x": "cat"}], "no array of numbers"),
        ([(np.zeros((1, 2)),) * 3], "tuple of 3 arrays"),
        ([(np.zeros((1, 2)), [1]), {"x": np.zeros((1, 2))}], "have labels and others have none"),
        ([(np.zeros((1, 2)), [1, 2])], "2 labels for 1 samples"),
    ],
)
@pytest.mark.parametrize("once", [False, True])
def test_refused_items(data, says, once):
    with pytest.raises(DataError) as caught:
        for _ in open_source(iter(data) if once and isinstance(data, list) else data, ONE).batches(2):
            pass
    assert says in str(caught.value)


def test_preprocessing_is_for_files():
    with pytest.raises(OptionError, match="images in files"):
        open_source(items(1), ONE, preprocessing="mean=1")


def test_a_full_temporary_folder(monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.lib.format.write_array", full)
    with pytest.raises(DataError, match="No space left on device"):
        open_source(items(1), ONE)


def write_pb(path, array, name=""):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(onnx.numpy_helper.from_array(np.asarray(array), name).SerializeToString())


def test_test_data_sets_of_onnx(tmp_path):
    for index in (0, 1, 10, 2):
        folder = tmp_path / f"test_data_set_{index}"
        write_pb(folder / "input_0.pb", np.full((1, 2), index, np.float32))
        write_pb(folder / "input_1.pb", np.array([index]))
        write_pb(folder / "output_0.pb", np.zeros(3))
    (batch,) = open_source(tmp_path, TWO).batches(8)
    assert batch.feeds["b"].tolist() == [0, 1, 2, 10]
    assert len(open_source(tmp_path / "test_data_set_0", TWO)) == 1


def test_pb_files_of_a_model_with_one_input(tmp_path):
    write_pb(tmp_path / "a.pb", np.ones((1, 2), np.float32))
    write_pb(tmp_path / "b.pb", np.full((3, 2), 2, np.float32))
    assert firsts(open_source(tmp_path, ONE)) == [[1, 2, 2, 2]]
    with pytest.raises(DataError, match="do not say which of the 2 inputs"):
        open_source(tmp_path, TWO)


def test_pb_files_name_their_input(tmp_path):
    write_pb(tmp_path / "input_0.pb", np.array([5]), "b")
    write_pb(tmp_path / "input_1.pb", np.ones((1, 2), np.float32), "a")
    (batch,) = open_source(tmp_path, TWO).batches(8)
    assert batch.feeds["b"].tolist() == [5]


def test_pb_files_that_are_no_tensors(tmp_path):
    file = tmp_path / "input_0.pb"
    file.write_bytes(b"\xff\xff\xff")
    with pytest.raises(DataError, match="no ONNX tensor"):
        open_source(tmp_path, ONE)
    tensor = onnx.helper.make_tensor("x", onnx.TensorProto.FLOAT, [1, 2], bytes(8), raw=True)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    file.write_bytes(tensor.SerializeToString())
    with pytest.raises(DataError, match="lies in another file"):
        open_source(tmp_path, ONE)


def test_input_specs():
    text = """<ir_version: 10, opset_import: ["" : 17]>
    graph (float[N, 3, ?, 2] x, bfloat16[1] h, int64 rate, float[1] w) => (float[N, 3, ?, 2] y) <float[1] w = {1.0}>
    { y = Identity(x) }"""
    specs = input_specs(ir.from_onnx_text(text))
    assert [(spec.name, str(spec)) for spec in specs] == [
        ("x", "float32[N, 3, ?, 2]"),
        ("h", "bfloat16[1]"),
        ("rate", "int64[]"),
    ]


def test_inputs_that_are_no_numbers_are_refused():
    text = """<ir_version: 10, opset_import: ["" : 17]>
    graph (string[N] x) => (string[N] y) { y = Identity(x) }"""
    with pytest.raises(ModelError, match="'x' is not a tensor of numbers"):
        input_specs(ir.from_onnx_text(text))
