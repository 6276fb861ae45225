"""The pipeline refuses chains that do not fit and catches every kind of broken promise, naming the pass."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ptqc.core.errors import OptionError, PassError
from ptqc.graph.load import load_model
from ptqc.graph.text import to_text
from ptqc.passes.base import Fact, PassContext, PassSpec, Rewrites
from ptqc.passes.pipeline import (
    CANONICAL,
    canonical_passes,
    insert_after,
    insert_before,
    insert_from_option,
    run_passes,
)
from ptqc.passes.registry import load_pass

SMALL = """<ir_version: 10, opset_import: ["": 21]>
graph (float[N,3] x) => (float[N,4] y) <float[3,4] w = {1,2,3,4,5,6,7,8,9,1,2,3}> {
  [fc] p = MatMul (x, w)
  [act] y = Relu (p)
}"""


def small(text: str = SMALL) -> ir.Model:
    return load_model(onnx.parser.parse_model(text))


@dataclass(frozen=True)
class Liar:
    """Does to the graph what its field says, whatever its spec promises."""

    deed: str
    spec: ClassVar[PassSpec] = PassSpec("liar", gives=frozenset({Fact.NO_IDENTITIES}), numerics="exact")

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        fc, act = model.graph[0], model.graph[1]
        weight = model.graph.initializers["w"]
        if self.deed == "numbers":
            weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1 + 1e-6), name="w")
        elif self.deed == "silent":
            act.op_type = "Identity"
            return Rewrites()
        elif self.deed == "names":
            fc.outputs[0].name = "y"
        elif self.deed == "order":
            model.graph.remove(fc)
            model.graph.append(fc)
        elif self.deed == "dangling":
            act.replace_input_with(0, ir.Value(name="nowhere", type=ir.TensorType(ir.DataType.FLOAT)))
        elif self.deed == "operator":
            act.op_type = "NoSuchOperator"
        elif self.deed == "fact":
            model.graph.insert_after(fc, node := ir.node("Identity", [fc.outputs[0]], name="idle"))
            node.outputs[0].name = "idle"
            act.replace_input_with(0, node.outputs[0])
        elif self.deed == "output":
            act.outputs[0].name = "other"
        elif self.deed == "shape":
            weight.const_value = ir.tensor(np.ones((2, 4), np.float32), name="w")
        return Rewrites(1)


@pytest.mark.parametrize(
    ("deed", "complaint"),
    [
        ("numbers", "numerics are 'exact', but output 'y' changed"),
        ("silent", "reports no rewrite, but the graph changed"),
        ("names", "the name 'y' belongs to two values"),
        ("order", "nothing before it computes"),
        ("dangling", "reads 'nowhere', which nothing before it computes"),
        ("operator", "not well formed"),
        ("fact", "it gives no-identities, but node 'idle' is a Identity"),
        ("output", "the outputs are"),
        ("shape", "the model does not run any more"),
    ],
)
def test_broken_promises_are_caught(deed: str, complaint: str) -> None:
    with pytest.raises(PassError) as caught:
        run_passes(small(), [Liar(deed)], PassContext(), check=True)
    assert "'liar'" in caught.value.what
    assert complaint in caught.value.why


def test_unchecked_runs_do_not_check() -> None:
    (result,) = run_passes(small(), [Liar("numbers")], PassContext())
    assert result.count == 1


@dataclass(frozen=True)
class Close:
    """Scales a weight by the factor given."""

    factor: float = 1.0
    spec: ClassVar[PassSpec] = PassSpec("close", breaks=frozenset({Fact.CONSTANTS_LIFTED}))

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        weight = model.graph.initializers["w"]
        weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(self.factor), name="w")
        return Rewrites(1)


def test_close_has_a_tolerance() -> None:
    run_passes(small(), [Close(1 + 1e-5)], PassContext(), check=True)
    with pytest.raises(PassError, match="broke its promise"):
        run_passes(small(), [Close(1.01)], PassContext(), check=True)


def test_chain_is_checked_before_anything_runs() -> None:
    model = small()
    before = to_text(model)
    with pytest.raises(PassError) as caught:
        run_passes(model, [Close(2.0), load_pass("fold-pad")], PassContext())
    assert "needs constants-lifted" in caught.value.what
    assert "fold-constants" in caught.value.fix
    assert to_text(model) == before
    run_passes(model, [Close(1.0), load_pass("fold-constants"), load_pass("fold-pad")], PassContext())


def test_no_probe_says_why() -> None:
    noisy = small(SMALL.replace("y = Relu (p)", "r = RandomNormalLike (p)  [sum] y = Add (r, p)"))
    (result,) = run_passes(noisy, [load_pass("fold-constants")], PassContext(), check=True)
    assert "random" in result.unchecked


def test_half_precision_is_compared_with_its_own_tolerance() -> None:
    text = SMALL.replace("float[", "float16[")
    model = small(text)
    weight = model.graph.initializers["w"]
    weight.const_value = ir.tensor(weight.const_value.numpy() / np.float16(10), name="w")
    run_passes(model, [Close(1.001)], PassContext(), check=True)


def test_placing_passes() -> None:
    chain = canonical_passes()
    assert tuple(one.spec.name for one in chain) == CANONICAL
    new = Close()
    names = [one.spec.name for one in insert_after(chain, "fold-batchnorm", new)]
    assert names.index("close") == names.index("fold-batchnorm") + 1
    names = [one.spec.name for one in insert_before(chain, "fold-pad", new)]
    assert names.index("close") == names.index("fold-pad") - 1
    names = [one.spec.name for one in insert_from_option(chain, "matmul-to-gemm@before=fold-pad")]
    assert names.index("matmul-to-gemm") == names.index("fold-pad") - 1
    assert insert_from_option(chain, "fold-pad")[-1].spec.name == "fold-pad"
    with pytest.raises(OptionError, match="did you mean 'fold-pad'"):
        insert_after(chain, "fold-pads", new)
    with pytest.raises(OptionError, match="is no pass"):
        insert_from_option(chain, "fold-pad@beside=fold-pad")


class Foreign:
    """A pass of the user's own that does what its field says."""

    spec: ClassVar[PassSpec] = PassSpec("foreign")

    def __init__(self, deed: str) -> None:
        self.deed = deed

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        if self.deed == "raise":
            raise ZeroDivisionError("by hand")
        return None  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("deed", "words"),
    [
        ("raise", r"pass 'foreign' failed. ZeroDivisionError: by hand \(.*test_pipeline.py, line"),
        ("forget", "pass 'foreign' returned NoneType. return Rewrites"),
    ],
)
def test_what_fails_in_a_foreign_pass_is_reported_as_its_author_s(deed, words):
    with pytest.raises(PassError, match=words):
        run_passes(small(), [Foreign(deed)], PassContext())
