"""What users say of inputs: texts and tables, what they imply, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptqc.calibrate.contract import Kind
from ptqc.calibrate.contract_options import Declared, read_declared
from ptqc.core.errors import OptionError

TEXT = "x:0:kind=image,range=0:1,mean=0.485:0.456:0.406,std=0.2,layout=NCHW,shape=1x3x224x224"


def refused(text):
    with pytest.raises(OptionError) as caught:
        Declared.parse(text)
    return str(caught.value)


def test_text_and_table_agree():
    table = {
        "kind": "image", "range": [0, 1], "mean": [0.485, 0.456, 0.406], "std": 0.2, "layout": "NCHW",
        "shape": [1, 3, 224, 224],
    }  # fmt: skip
    assert Declared.parse(TEXT) == Declared.from_table("x:0", table)
    assert Declared.parse(TEXT).shape == (1, 3, 224, 224)


@given(
    name=st.sampled_from(["", "x", "x:0", "a=b", "a.b/c:1"]),
    low=st.floats(-1e6, 1e6),
    width=st.floats(1e-3, 1e6),
    shape=st.none() | st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
)
def test_text_survives(name, low, width, shape):
    declared = Declared(name, Kind.VECTOR, (low, low + width), (), shape)
    assert Declared.parse(declared.text()) == declared


@pytest.mark.parametrize("key, kind", [("mean=0", "image"), ("vocabulary=9", "tokens"), ("value=8000", "value")])
def test_keys_imply_the_kind(key, kind):
    assert Declared.parse(key).kind == kind


def test_nearest_key_and_kind():
    assert "did you mean 'vocabulary'?" in refused("ids:vocabluary=3")
    assert "did you mean 'tokens'?" in refused("ids:kind=token")


@pytest.mark.parametrize(
    "text, message",
    [
        ("x", "says nothing of an input"),
        ("x:kind=image,kind=audio", "given twice"),
        ("x:kind=image,range", "has no value"),
        ("x:range=1", "is no range"),
        ("x:range=1:0", "is empty"),
        ("x:range=0:nan", "is no number"),
        ("x:shape=1x0", "is no shape"),
        ("x:shape=1x-1", "is no shape"),
        ("x:shape=99999x99999", "is no shape"),
        ("x:range=0:1e31", "too large"),
        ("x:range=0:1e-40", "is empty"),
        ("x:vocabulary=1.5", "is no number of tokens"),
        ("x:vocabulary=99999999999", "is no number of tokens"),
        ("x:value=fast", "is no number"),
        ("x:mean=a", "is no number"),
        ("x:std=0", "cannot be 0"),
        ("x:kind=audio,mean=0", "mean says nothing of an input of the kind audio"),
        ("x:mean=0,vocabulary=3", "vocabulary says nothing of an input of the kind image"),
        ("x:vocabulary=3,range=0:2", "has no range"),
    ],
)
def test_refused(text, message):
    assert message in refused(text)


@pytest.mark.parametrize(
    "table",
    [{"value": True}, {"value": 10**400}, {"range": [0, 10**400]}, {"vocabulary": 10**400}],
)
def test_no_number_in_a_table(table):
    with pytest.raises(OptionError, match="is no number"):
        Declared.from_table("x", table)


@pytest.mark.parametrize("shape", [[1, 2.5], [1, None], 5, [10**400]])
def test_no_shape_in_a_table(shape):
    with pytest.raises(OptionError, match="is no shape"):
        Declared.from_table("x", {"shape": shape})


def test_later_texts_win_key_by_key():
    found = read_declared(["a:range=0:1,shape=1x4", "b:kind=mask", "a:range=-1:1"], ("a", "b"))
    assert found["a"].range == (-1, 1)
    assert found["a"].shape == (1, 4)
    assert found["b"].kind is Kind.MASK


def test_units_of_images_do_not_mix():
    later, earlier = Declared.parse("range=0:1"), Declared.parse("mean=0.5,std=0.5,color=BGR")
    merged = later.or_else(earlier)
    assert dict(merged.steps) == {"color": "BGR"}
    assert merged.range == (0, 1)
    assert dict(Declared.parse("mean=0.5").or_else(Declared.parse("kind=image,range=0:1")).steps) == {"mean": "0.5"}
    assert Declared.parse("mean=0.5").or_else(Declared.parse("kind=image,range=0:1")).range is None


def test_names():
    assert read_declared({"a": {"kind": "mask"}, "b": "value=3"}, ("a", "b"))["b"].value == 3
    assert read_declared(["kind=mask"], ("only",))["only"].name == "only"
    with pytest.raises(OptionError, match="a name is missing.*write a:"):
        read_declared(["kind=mask"], ("a", "b"))
    with pytest.raises(OptionError, match="no input 'inptu'.*did you mean 'input'"):
        read_declared(["inptu:kind=mask"], ("input",))
