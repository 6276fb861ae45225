"""Opening the models and data that a command line names."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ptqc.cli.console import Console
from ptqc.core.errors import OptionError, quoted
from ptqc.core.types import Array

if TYPE_CHECKING:
    import onnx_ir as ir

    from ptqc.calibrate.source import Source


def open_model(path: Path) -> "ir.Model":
    """A float or quantized model; one of ``--io integer`` with its doors. ModelError where it cannot be read."""
    from ptqc.graph.load import load_model
    from ptqc.integer_only import takes_codes, with_doors

    model = load_model(path, allow_quantized=True)
    return with_doors(model) if takes_codes(model) else model


def open_data(model: "ir.Model", data: Path, samples: int | None, preprocess: str | None, console: Console) -> "Source":
    """The samples that ``--data``, ``--samples`` and ``--preprocess`` name; their notes are shown.

    Raises DataError where they do not fit the model, OptionError for a preprocessing that cannot be read.
    """
    from ptqc.calibrate.open import open_source
    from ptqc.calibrate.source import input_specs

    source = open_source(data, input_specs(model), limit=samples, preprocessing=preprocess)
    for note in source.notes:
        console.say(note)
    return source


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """``name=1,3,224,224`` of ``--shape``. OptionError for anything else."""
    shapes = {}
    for text in texts:
        name, _, sizes = text.rpartition("=")
        if not name or not all(size.strip().isdecimal() for size in sizes.split(",")):
            raise OptionError(f"--shape {quoted(text)} cannot be read", fix="write it like images=1,3,224,224")
        shapes[name] = tuple(int(size) for size in sizes.split(","))
    return shapes


def made_up_feeds(model: "ir.Model", batch: int, shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Array]:
    """One input of normally distributed numbers (zeros for integers): the speed hardly depends on the values.

    Raises OptionError for a free dimension, other than the first, that ``shapes`` leaves open, and for a shape of
    no input.
    """
    import numpy as np

    from ptqc.calibrate.source import input_specs, shape_text
    from ptqc.core.errors import nearest

    specs = input_specs(model)
    for name in shapes:
        if name not in {spec.name for spec in specs}:
            raise OptionError(f"the model has no input {quoted(name)}", fix=nearest(name, [s.name for s in specs]))
    rng = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for spec in specs:
        known = spec.shape or ()
        free_first = tuple(batch if i == 0 and not isinstance(size, int) else size for i, size in enumerate(known))
        sizes: tuple[int | str | None, ...] = shapes.get(spec.name, free_first)
        if spec.shape is None or len(sizes) != len(known) or not all(isinstance(size, int) for size in sizes):
            raise OptionError(
                f"the input {quoted(spec.name)} has free sizes: {shape_text(spec.shape)}",
                fix=f"give --data, or its sizes: --shape {spec.name}=...",
            )
        shape = tuple(size for size in sizes if isinstance(size, int))
        numbers = rng.standard_normal(shape) if np.issubdtype(spec.dtype, np.floating) else np.zeros(shape)
        feeds[spec.name] = numbers.astype(spec.dtype)
    return feeds
