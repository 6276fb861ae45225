"""Every file of tests/golden: a model, the passes, the graph they must give, and what they must refuse and why.

Each case also runs with every check on (structure, promises, numbers on a probe) and a second time, which must do
nothing. ``PTQC_WRITE_GOLDEN=1`` writes the second half of the files anew; read the difference.
"""

import os
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ptqc.graph.load import load_model
from ptqc.graph.text import to_text
from ptqc.passes.base import PassContext
from ptqc.passes.pipeline import run_passes
from ptqc.passes.registry import load_pass

FOLDER = Path(__file__).parents[1] / "golden"
CASES = sorted(FOLDER.glob("*.txt"))


def source_model(text: str) -> onnx.ModelProto:
    """The model in ONNX's own text form; inputs named in a line ``// constants: a b`` become seeded constants."""
    lines = [line for line in text.splitlines() if not line.startswith("//")]
    model = onnx.parser.parse_model("\n".join(lines))
    named = re.search(r"^// constants: (.*)$", text, re.MULTILINE)
    names = named[1].split() if named else []
    for index, name in enumerate(names):
        value = next(value for value in model.graph.input if value.name == name)
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        array = np.random.default_rng(index).uniform(0.25, 1.0, shape).astype(np.float32)
        if name.startswith("signed"):
            array -= 0.6
        model.graph.initializer.append(numpy_helper.from_array(array, name))
        model.graph.input.remove(value)
    return model


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_golden(path: Path) -> None:
    source, marker, expected = path.read_text().partition("// passes: ")
    names, _, expected = expected.partition("\n")
    passes = [load_pass(name) for name in names.split()]
    model = load_model(source_model(source))
    before = to_text(model)

    results = run_passes(model, passes, PassContext(), check=True)

    after = to_text(model)
    refused = [f"// refused: {refusal.node}: {refusal.reason}\n" for one in results for refusal in one.refused]
    counts = " ".join(str(one.count) for one in results)
    written = f"// rewrites: {counts}\n" + "".join(refused) + ("// unchanged\n" if after == before else after)
    if os.environ.get("PTQC_WRITE_GOLDEN"):
        path.write_text(f"{source}{marker}{names}\n{written}")
    assert not results[0].unchecked
    assert written == expected

    again = run_passes(model, passes, PassContext(), check=True)
    assert [one.count for one in again] == [0] * len(passes)
    assert to_text(model) == after
