"""Names of passes: our own, and those that installed packages offer under the entry-point group ``ptqc.passes``."""

import dataclasses
import importlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, get_type_hints

from ptqc.core.errors import OptionError, nearest, quoted
from ptqc.passes.base import AnyPass, PassSpec

ENTRY_POINT_GROUP = "ptqc.passes"

# Name -> "module:Class". Strings, so that listing the passes imports none of them.
BUILTIN: Mapping[str, str] = {
    "fold-constants": "ptqc.passes.fold_constants:FoldConstants",
    "remove-identities": "ptqc.passes.remove_identities:RemoveIdentities",
    "fold-batchnorm": "ptqc.passes.fold_batchnorm:FoldBatchNorm",
    "cancel-transposes": "ptqc.passes.cancel_transposes:CancelTransposes",
    "recognize-layernorm": "ptqc.passes.recognize_layernorm:RecognizeLayerNorm",
    "simplify-operators": "ptqc.passes.simplify_operators:SimplifyOperators",
    "recognize-activations": "ptqc.passes.recognize_activations:RecognizeActivations",
    "fold-pad": "ptqc.passes.fold_pad:FoldPad",
    "matmul-to-gemm": "ptqc.passes.matmul_to_gemm:MatMulToGemm",
    "lower-hardswish": "ptqc.passes.lower_hardswish:LowerHardSwish",
    "lower-average-pool": "ptqc.passes.lower_average_pool:LowerAveragePool",
    "lower-channel-shuffle": "ptqc.passes.lower_channel_shuffle:LowerChannelShuffle",
    "fold-columns": "ptqc.passes.fold_columns:FoldColumns",
    "pad-channels": "ptqc.passes.pad_channels:PadChannels",
    "separate-constants": "ptqc.passes.separate_constants:SeparateConstants",
    "scale-tensors": "ptqc.passes.scale_tensors:ScaleTensors",
    "equalize-channels": "ptqc.passes.equalize_channels:EqualizeChannels",
    "qdq-to-qoperator": "ptqc.passes.qdq_to_qoperator:QDQToQOperator",
    "smooth-activations": "ptqc.passes.smooth_activations:SmoothActivations",
    "quantize-embeddings": "ptqc.passes.quantize_embeddings:QuantizeEmbeddings",
    "insert-qdq": "ptqc.passes.insert_qdq:InsertQDQ",
    "keep-products-float": "ptqc.passes.keep_products_float:KeepProductsFloat",
    "lower-to-integers": "ptqc.passes.lower_to_integers:LowerToIntegers",
    "lower-weight-only": "ptqc.passes.lower_weight_only:LowerWeightOnly",
    "pack-weights": "ptqc.passes.pack_weights:PackWeights",
    "lower-matmul-nbits": "ptqc.passes.lower_matmul_nbits:LowerMatMulNBits",
    "drop-zero-points": "ptqc.passes.drop_zero_points:DropZeroPoints",
    "remove-doors": "ptqc.passes.remove_doors:RemoveDoors",
    "drop-value-types": "ptqc.passes.drop_value_types:DropValueTypes",
}


@dataclass(frozen=True, slots=True)
class PassEntry:
    """Where a pass of that name comes from: ``target`` is ``module:Class``, ``owner`` the package that offers it."""

    name: str
    target: str
    owner: str


def list_passes(entry_points: Iterable[metadata.EntryPoint] | None = None) -> tuple[PassEntry, ...]:
    """Every known pass, our own first, without importing any. OptionError where two owners offer one name."""
    found = {name: PassEntry(name, target, "ptqc") for name, target in BUILTIN.items()}
    if entry_points is None:
        entry_points = metadata.entry_points(group=ENTRY_POINT_GROUP)
    for point in sorted(entry_points, key=lambda point: (point.name, point.value)):
        owner = point.dist.name if point.dist is not None else point.value
        earlier = found.get(point.name)
        if earlier is not None and (earlier.target, earlier.owner) != (point.value, owner):
            raise OptionError(
                f"two packages offer a pass named {quoted(point.name)}",
                why=f"{earlier.owner} has {earlier.target}, {owner} has {point.value}",
                fix="uninstall one of them",
            )
        found[point.name] = PassEntry(point.name, point.value, owner)
    return tuple(found.values())


def load_pass(text: str) -> AnyPass:
    """The pass called ``name`` or ``module:Class``, with options as in ``name{option=value,other=value}``.

    OptionError names an unknown pass, module, class or option, or a value of the wrong type.
    """
    parts = re.fullmatch(r"([\w.:-]+)(?:\{(.*)\})?", text.strip())
    if parts is None:
        raise OptionError(f"{quoted(text)} is no pass", fix="write name, module:Class or name{option=value}")
    name, options = parts[1], parts[2]
    if ":" in name:
        target = name
    else:
        entries = {entry.name: entry for entry in list_passes()}
        if name not in entries:
            raise OptionError(f"there is no pass {quoted(name)}", fix=nearest(name, list(entries)))
        target = entries[name].target
    return _create(_import_class(target), name, _split_options(options or "", text))


def _import_class(target: str) -> type[Any]:
    module_name, _, class_name = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise OptionError(
            f"the pass {quoted(target)} cannot be imported",
            why=str(error),
            fix="is its folder on PYTHONPATH, or its package installed?",
        ) from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        classes = [name for name, value in vars(module).items() if isinstance(getattr(value, "spec", None), PassSpec)]
        raise OptionError(
            f"module {quoted(module_name)} has no class {quoted(class_name)}", fix=nearest(class_name, classes)
        )
    if not isinstance(getattr(found, "spec", None), PassSpec) or not callable(getattr(found, "run", None)):
        raise OptionError(
            f"{quoted(target)} is no pass",
            why="a pass has a class attribute 'spec' (a PassSpec) and a method 'run(model, context)'",
            fix="see docs/writing-a-pass.md",
        )
    return found


def _split_options(text: str, whole: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for item in filter(None, (item.strip() for item in text.split(","))):
        key, equals, value = item.partition("=")
        if not equals:
            raise OptionError(f"{quoted(item)} in {quoted(whole)} is no option", fix="write option=value")
        options[key.strip().replace("-", "_")] = value.strip()
    return options


def _create(kind: type[Any], name: str, options: Mapping[str, str]) -> AnyPass:
    hints = get_type_hints(kind)
    fields = (
        {f.name: hints[f.name] for f in dataclasses.fields(kind) if f.init} if dataclasses.is_dataclass(kind) else {}
    )
    values: dict[str, object] = {}
    for key, text in options.items():
        if key not in fields:
            fix = nearest(key, list(fields)) if fields else "it has none"
            raise OptionError(f"the pass {quoted(name)} has no option {quoted(key)}", fix=fix)
        values[key] = _parse_value(text, fields[key], f"{name}{{{key}}}")
    created: AnyPass = kind(**values)
    return created


def _parse_value(text: str, kind: object, where: str) -> object:
    if kind is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise OptionError(f"{quoted(text)} is neither true nor false", where=where)
    if kind is str:
        return text
    if kind is int or kind is float:
        try:
            return int(text) if kind is int else float(text)
        except ValueError as error:
            raise OptionError(f"{quoted(text)} is no {'whole ' if kind is int else ''}number", where=where) from error
    raise OptionError("this option can only be set in Python", where=where)
