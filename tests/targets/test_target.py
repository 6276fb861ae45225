"""The targets int8 and int4: what each node may be and why not, and that their descriptions name real passes."""

import onnx
import pytest

from ptqc.core.errors import OptionError
from ptqc.core.types import DYNAMIC_INT8, KEEP_FLOAT, STATIC_INT8
from ptqc.passes.registry import load_pass
from ptqc.targets.registry import find_target, target_names
from ptqc.targets.target import Role, positive_factor
from tests.passes.lowering import parsed

TARGET = find_target("int8")


def node(text, inputs="float[N,4,6,6] x", constants="<float[4,4,1,1] w = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}>"):
    model = parsed(f"g ({inputs}) => (float[N,a,b,c] y) {constants} {{ {text} }}", canonical=False)
    return list(model.graph)[-1]


# Node, its role, words of the reason.
CASES = [
    ("y = Conv(x, w)", Role.LINEAR, ""),
    ("y = Conv(x, x)", Role.FLOAT, "weights are no constant"),
    ("y = Conv(x, w, x)", Role.FLOAT, "bias is no constant"),
    ("y = MatMul(x, x)", Role.FLOAT, "both operands"),
    ("y = MatMul(x, w)", Role.FLOAT, "more than two dimensions"),
    ("y = Gemm<transA = 1>(x, w)", Role.FLOAT, "transA"),
    ("y = Gemm<alpha = 2.0>(x, w)", Role.FLOAT, "alpha"),
    ("y = Gemm<beta = 2.0>(x, w, w)", Role.FLOAT, "beta"),
    ("y = AveragePool<kernel_shape = [2,2]>(x)", Role.ELEMENTWISE, ""),
    ("y = AveragePool<kernel_shape = [2,2], ceil_mode = 1>(x)", Role.FLOAT, "ceil_mode"),
    ("y = AveragePool<kernel_shape = [2,2], dilations = [2,2]>(x)", Role.FLOAT, "dilations"),
    ("y = MaxPool<kernel_shape = [2,2]>(x)", Role.MOVE, ""),
    ("y, i = MaxPool<kernel_shape = [2,2]>(x)", Role.FLOAT, "indices"),
    ('y = Resize<mode = "linear">(x)', Role.FLOAT, "nearest"),
    ("y = Resize(x)", Role.MOVE, ""),
    ('y = Pad<mode = "reflect">(x, w)', Role.MOVE_CODES, ""),
    ("y = Pad(x, x)", Role.MOVE_CODES, ""),
    ("y = Pad(x, x, w)", Role.FLOAT, "other than zero"),
    ("y = Clip(x, x)", Role.FLOAT, "bounds"),
    ("y = Clip(x)", Role.CLAMP, ""),
    ("y = Relu(x)", Role.CLAMP, ""),
    ("y = Erf(x)", Role.FLOAT, "no integer kernel"),
    ("y = Softmax(x)", Role.FLOAT, "slower"),
    ("y = LSTM(x, w, w)", Role.FLOAT, "recurrent"),
]


@pytest.mark.parametrize(("text", "role", "words"), CASES, ids=[case[0] for case in CASES])
def test_roles(text, role, words):
    found, why = TARGET.role(node(text))
    assert found is role
    assert words in why
    assert bool(why) == (role is Role.FLOAT)


def test_other_domains_stay_in_float():
    found, why = TARGET.role(node("y = com.example.Conv(x, w)"))
    assert found is Role.FLOAT
    assert "com.example" in why


@pytest.mark.parametrize(
    ("constant", "factor"),
    [
        ("float s = {0.5}", 0.5),
        ("float[1] s = {3.0}", 3.0),
        ("float[1,1] s = {2.0}", 2.0),
        ("float s = {0.0}", None),
        ("float s = {-2.0}", None),
        ("float s = {1e30}", None),
        ("float[2] s = {1.0, 2.0}", None),
        ("int64 s = {2}", None),
    ],
)
def test_factors_that_only_change_the_scale(constant, factor):
    for text in ("y = Mul(x, s)", "y = Mul(s, x)"):
        one = node(text, constants=f"<{constant}>")
        assert positive_factor(one) == factor
        assert (TARGET.role(one)[0] is Role.RESCALE) == (factor is not None)
    assert positive_factor(node("y = Mul(x, x)")) is None
    assert positive_factor(node("y = Div(x, s)", constants=f"<{constant}>")) is None


def test_choices_begin_with_the_preferred_one():
    assert TARGET.choices(node("y = Conv(x, w)")) == (STATIC_INT8, KEEP_FLOAT)
    assert TARGET.choices(node("y = Gemm(x, w)")) == (STATIC_INT8, DYNAMIC_INT8, KEEP_FLOAT)
    assert TARGET.choices(node("y = Erf(x)")) == (KEEP_FLOAT,)


def test_four_bits_are_the_target_int8_with_other_weights():
    int4 = find_target("int4")
    assert (int4.roles, int4.reasons, int4.prepare, int4.lower) == (
        TARGET.roles,
        TARGET.reasons,
        TARGET.prepare,
        TARGET.lower,
    )
    assert int4.weight_bits == {"vnni": 4, "avx2": 4}
    assert int4.sensitive_bits == TARGET.sensitive_bits == {"vnni": 8, "avx2": 7}
    assert [str(choice) for choice in int4.choices(node("y = Conv(x, w)"))] == ["w4a8", "w8a8", "float"]
    assert [str(choice) for choice in int4.choices(node("y = Gemm(x, w)"))] == [
        "w4a8",
        "w4a8 dynamic",
        "w8a8",
        "w8a8 dynamic",
        "float",
    ]
    assert int4.choices(node("y = Sigmoid(x)")) == (STATIC_INT8, KEEP_FLOAT)


def test_the_description_names_passes_and_operators_that_exist():
    for name in (*TARGET.prepare, *TARGET.lower, *TARGET.lower_qoperator, *TARGET.lower_plain):
        assert load_pass(name).spec.name == name.split("{")[0]
    known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert set(TARGET.roles) <= known
    assert set(TARGET.reasons) <= known
    assert not set(TARGET.roles) & set(TARGET.reasons)
    assert TARGET.weight_bits == {"vnni": 8, "avx2": 7}


def test_an_unknown_target_names_the_nearest():
    assert target_names() == ("int4", "int4-integer", "int8", "int8-integer", "mixed", "mixed-integer")
    with pytest.raises(OptionError, match="'in8'") as caught:
        find_target("in8")
    assert "'int8'" in caught.value.fix
