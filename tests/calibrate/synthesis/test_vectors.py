import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from ptqc.calibrate.synthesis.moments import find_units
from ptqc.calibrate.synthesis.vectors import into_range, vectors
from ptqc.core.types import Array


def _reference(count: int = 256, size: int = 6) -> Array:
    return np.stack([vectors(np.random.default_rng([0, n]), (size,)) for n in range(count)])


def _model(body: str, **constants: Array) -> ir.Model:
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[N, 6] x) => (float[N, K] y) {{ {body} }}'
    model = ir.from_proto(onnx.parser.parse_model(text))
    for name, array in constants.items():
        for node in model.graph:
            for place, value in enumerate(node.inputs):
                if value is not None and value.name == name:
                    tensor = ir.tensor(array.astype(np.float32), name=name)
                    fresh = model.graph.initializers.get(name) or ir.Value(name=name, const_value=tensor)
                    model.graph.initializers[name] = fresh
                    node.replace_input_with(place, fresh)
    return model


@pytest.mark.parametrize("shape", [(), (1,), (640,), (3, 20), (4, 5, 6)])
def test_vectors_have_their_shape_and_about_unit_deviation(shape: tuple[int, ...]) -> None:
    made = np.stack([vectors(np.random.default_rng([1, n]), shape) for n in range(400)])
    assert made.shape == (400, *shape) and made.dtype == np.float32 and np.isfinite(made).all()
    assert 0.6 < made.std() < 1.7


def test_neighbours_resemble_each_other_more_than_independent_numbers_would() -> None:
    made = _reference(size=64)
    assert np.corrcoef(made[:, 20], made[:, 21])[0, 1] > 0.3


def test_a_declared_range_is_filled_to_its_ends_and_not_left() -> None:
    spread = into_range(_reference(), np.float32(-3), np.float32(5))
    assert spread.min() == -3 and spread.max() == 5
    assert abs(float(np.median(spread)) - 1) < 0.6


MEAN, DEVIATION = np.array([1.0, -2, 30, 0, 5, 7]), np.array([1.0, 2, 10, 0.1, 1, 4])


@pytest.mark.parametrize(
    ("body", "factor"),
    [
        ("c = Sub(x, mean) y = Div(c, factor)", DEVIATION),
        ("c = Sub(x, mean) y = Mul(c, factor)", 1 / DEVIATION),
        ("y = BatchNormalization(x, one, zero, mean, factor)", DEVIATION**2),
    ],
)
def test_standardization_at_the_input_gives_the_units_of_each_feature(body: str, factor: Array) -> None:
    model = _model(body, mean=MEAN, factor=factor, one=np.ones(6), zero=np.zeros(6))
    units = find_units(model, "x", _reference())
    assert units is not None
    scaled = _reference() * units.scale + units.shift
    standardized = (scaled - MEAN) / DEVIATION
    assert abs(standardized.mean()) < 0.1 and abs(standardized.std() - 1) < 0.1


def test_batch_statistics_behind_the_first_layer_give_offset_and_scale() -> None:
    rng = np.random.default_rng(0)
    weight, bias = np.linalg.qr(rng.standard_normal((24, 6)))[0].T, rng.standard_normal(24)
    truth = _reference(2000) * 7 + MEAN
    hidden = truth @ weight + bias
    model = _model(
        "h = Gemm(x, weight, bias) y = BatchNormalization(h, one, zero, mean, variance)",
        weight=weight,
        bias=bias,
        one=np.ones(24),
        zero=np.zeros(24),
        mean=hidden.mean(axis=0),
        variance=hidden.var(axis=0),
    )
    units = find_units(model, "x", _reference())
    assert units is not None and 6 < float(units.scale) < 8
    scaled = _reference() * units.scale + units.shift
    np.testing.assert_allclose(scaled.mean(axis=0), truth.mean(axis=0), atol=1e-3)


@pytest.mark.parametrize(
    "body",
    ["y = Relu(x)", "c = Sub(mean, x) y = Div(c, factor)", "c = Sub(x, mean) y = Div(factor, c)", "y = Gemm(x, w)"],
)
def test_units_are_not_guessed_from_look_alikes(body: str) -> None:
    model = _model(body, mean=MEAN, factor=DEVIATION, w=np.ones((6, 2)))
    assert find_units(model, "x", _reference()) is None


def test_a_vanishing_or_broken_deviation_gives_no_units() -> None:
    model = _model("c = Sub(x, mean) y = Mul(c, factor)", mean=MEAN, factor=np.zeros(6))
    assert find_units(model, "x", _reference()) is None
