"""Damaged files: whatever byte changes, the importer either takes the model or refuses it with a PtqcError.

The budget is PTQC_FUZZ mutations (400 by default); a failure prints its seed.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]
from onnx import helper, numpy_helper

from ptqc.core.errors import PtqcError
from ptqc.graph.load import load_model
from ptqc.graph.save import serialize
from ptqc.graph.text import to_text
from ptqc.graph.walk import graph_hash
from tests.graph.graph_models import text_model

BUDGET = int(os.environ.get("PTQC_FUZZ", "400"))


def seed_models() -> list[bytes]:
    """Small files that use much of the format: functions, bodies, float16, attributes, older opsets, odd types."""
    rich = text_model(
        """<ir_version: 8, opset_import: ["" : 16, "f" : 1]>
        net (float16[N,3,4,4] x, bool c) => (float16[N,2] y, float z) <float16[2,3,1,1] k = {1,2,3,4,5,6}> {
            s = Constant <value_float = 2.0> ()
            z = Identity (s)
            a = Conv <pads = [0, 0, 0, 0], group = 1, auto_pad = "NOTSET"> (x, k)
            b = f.act (a)
            p = GlobalAveragePool (b)
            r = If (c) <
                then_branch = one () => (t) { t = Flatten <axis = 1> (p) },
                else_branch = two () => (e) { n = Neg (p) e = Flatten <axis = 1> (n) }
            >
            y = Identity (r)
        }
        <opset_import: ["" : 16], domain: "f"> act (v) => (w) { u = Relu (v)  w = Sigmoid (u) }"""
    )
    rich.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.arange(6, dtype=np.float16).reshape(2, 3, 1, 1), "k"))
    rich.metadata_props.add(key="a", value="b")
    old = text_model(
        """<ir_version: 3, opset_import: ["" : 8]>
        net (float[2,3] x, float[3,2] w) => (float[2,2] y) {
            m = MatMul (x, w)  b = Dropout <ratio = 0.3> (m)  y = Softmax <axis = 1> (b)
        }""",
        {"w": np.ones((3, 2), np.float32)},
    )
    typed = text_model(
        """<ir_version: 10, opset_import: ["" : 21]>
        net (float[4] x) => (float[4] y) { y = Add (x, t) }"""
    )
    typed.graph.initializer.append(helper.make_tensor("t", 1, [4], [1.0, 2.0, 3.0, 4.0]))
    typed.graph.initializer.append(numpy_helper.from_array(np.array(["a", "b"], object), "s"))
    typed.graph.initializer.append(helper.make_tensor("i", 22, [3], [1, 2, 3]))
    return [model.SerializeToString() for model in (rich, old, typed)]


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """One or two edits that change a byte, or one that also changes the length of the file."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 3)):
        at = int(rng.integers(0, len(out)))
        kind = int(rng.integers(0, 10))
        size = int(rng.integers(1, 9))
        if kind < 4:
            out[at] ^= 1 << int(rng.integers(0, 8))
        elif kind < 6:
            out[at] = (0, 1, 0x7F, 0x80, 0xFF)[int(rng.integers(0, 5))]
        elif kind == 6:
            del out[at : at + size]
        elif kind == 7:
            out[at:at] = out[at : at + size]
        else:
            other = int(rng.integers(0, len(out)))
            out[at : at + size] = out[other : other + size]
    return bytes(out)


def distorted(data: bytes, rng: np.random.Generator) -> bytes:
    """A file that parses: one to three fields of the message removed, doubled or set to an odd value."""
    model = onnx.ModelProto.FromString(data)
    for _ in range(rng.integers(1, 4)):
        message = model
        while True:
            fields = message.ListFields()
            if not fields:
                break
            field, value = fields[int(rng.integers(0, len(fields)))]
            repeated = hasattr(value, "append") or hasattr(value, "add")
            if repeated and field.type != field.TYPE_MESSAGE:
                _distort_list(value, field, rng)
                break
            if repeated:
                index = int(rng.integers(0, len(value)))
                action = int(rng.integers(0, 8))
                if action == 0:
                    del value[index]
                    break
                if action == 1:
                    value.add().CopyFrom(value[index])
                    break
                message = value[index]
            elif field.type == field.TYPE_MESSAGE:
                message = value
            else:
                if int(rng.integers(0, 4)) == 0:
                    message.ClearField(field.name)
                else:
                    _set(message, field, rng)
                break
    out: bytes = model.SerializeToString()
    return out


_NUMBERS = (-1, 0, 1, 2, 3, 7, 10, 16, 17, 22, 127, 2**31 - 1)
_NAMES = ("", "x", "y", "w", "a", "Relu", "Constant", "If", "Cast", "QLinearConv", "value", "f", "to", "ai.onnx")


def _odd(field: FieldDescriptor, rng: np.random.Generator) -> object:
    if field.type == field.TYPE_STRING:
        return _NAMES[int(rng.integers(0, len(_NAMES)))]
    if field.type == field.TYPE_BYTES:
        return bytes(rng.integers(0, 256, int(rng.integers(0, 30)), dtype=np.uint8))
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return (0.0, -1.0, float("nan"), float("inf"))[int(rng.integers(0, 4))]
    number = _NUMBERS[int(rng.integers(0, len(_NUMBERS)))]
    return abs(number) if field.type == field.TYPE_UINT64 else number


def _set(message: Any, field: FieldDescriptor, rng: np.random.Generator) -> None:
    if field.type == field.TYPE_ENUM:
        values = [value.number for value in field.enum_type.values]
        setattr(message, field.name, values[int(rng.integers(0, len(values)))])
    else:
        setattr(message, field.name, _odd(field, rng))


def _distort_list(values: Any, field: FieldDescriptor, rng: np.random.Generator) -> None:
    index, action = int(rng.integers(0, len(values))), int(rng.integers(0, 3))
    if action == 0:
        del values[index]
    elif action == 1:
        values.append(_odd(field, rng))
    else:
        values[index] = _odd(field, rng)


def damaged(seed: int, models: list[bytes]) -> bytes:
    """The damaged file of this seed."""
    rng = np.random.default_rng(seed)
    return (distorted if seed % 2 else mutated)(models[seed // 2 % len(models)], rng)


def test_damaged_files(tmp_path: Path) -> None:
    seeds = seed_models()
    path = tmp_path / "damaged.onnx"
    for data in seeds:
        path.write_bytes(data)
        load_model(path)
    taken = refused = 0
    for seed in range(BUDGET):
        path.write_bytes(damaged(seed, seeds))
        try:
            model = load_model(path, allow_quantized=seed % 4 > 1)
        except PtqcError as error:
            refused += 1
            assert len(str(error)) < 2000
            assert str(error).isprintable(), repr(str(error))
            continue
        except BaseException:
            print("seed", seed)
            raise
        taken += 1
        serialize(model)
        to_text(model)
        graph_hash(model)
    assert taken > BUDGET // 20, "the mutations are too rough to test anything"
    assert refused > BUDGET // 20
