"""Passes by name: options, mistakes in them, and plugins that collide."""

import subprocess
import sys
from importlib import metadata

import pytest

from ptqc.core.errors import OptionError
from ptqc.passes.registry import BUILTIN, list_passes, load_pass


def test_every_name_loads_and_agrees_with_its_spec() -> None:
    for name in BUILTIN:
        assert load_pass(name).spec.name == name


def test_options_are_typed() -> None:
    assert load_pass("fold-constants{max-growth=5}").max_growth == 5  # type: ignore[union-attr]
    assert load_pass("fold-constants").max_growth == 1 << 16  # type: ignore[union-attr]
    assert load_pass("ptqc.passes.fold_constants:FoldConstants{max_growth=7}").max_growth == 7  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("fold-constant", "did you mean 'fold-constants'"),
        ("fold-constants{size=1}", "no option 'size'"),
        ("fold-constants{max-growth=many}", "'many' is no whole number"),
        ("fold-constants{max-growth}", "write option=value"),
        ("fold-pad{x=1}", "it has none"),
        ("no_such_module:Pass", "cannot be imported"),
        ("ptqc.passes.fold_pad:FoldPads", "did you mean 'FoldPad'"),
        ("ptqc.passes.rules:Rule", "is no pass"),
        ("fold pad", "is no pass"),
    ],
)
def test_mistakes_are_explained(text: str, complaint: str) -> None:
    with pytest.raises(OptionError) as caught:
        load_pass(text)
    assert complaint in str(caught.value)


def test_duplicates_name_both_owners() -> None:
    point = metadata.EntryPoint("fold-pad", "elsewhere:FoldPad", "ptqc.passes")
    with pytest.raises(OptionError) as caught:
        list_passes([point])
    assert "ptqc has ptqc.passes.fold_pad:FoldPad" in caught.value.why
    assert "elsewhere:FoldPad" in caught.value.why
    twice = [metadata.EntryPoint("mine", f"{module}:P", "ptqc.passes") for module in ("b", "a")]
    with pytest.raises(OptionError, match="two packages offer a pass named 'mine'"):
        list_passes(twice)


def test_listing_imports_no_pass() -> None:
    code = (
        "import sys; from ptqc.passes.registry import list_passes; list_passes();"
        "print(sorted(m for m in sys.modules if m.startswith('ptqc.passes.')))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "['ptqc.passes.base', 'ptqc.passes.registry']"
