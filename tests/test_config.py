"""ptqc.toml: what is read from it, and what is refused with file, line and the nearest key."""

import pytest

from ptqc.config import load_config
from ptqc.core.errors import OptionError

FULL = """
target = "int8"
data = "calib.npz"
samples = 256
calibration-method = "percentile:99.99"
keep_float = ["head*", "stem"]
precision = "w8a8"
op-types = ["Conv", "Gemm"]
max-size = "60%"
min-sqnr = 20
min-confidence = "B"
distill = "batch-norm"
stats-from = "training.onnx"
no-measure = true

[preprocess]
resize = 256
crop = [224, 224]
mean = [0.485, 0.456, 0.406]
std = "0.229:0.224:0.225"
color = "bgr"
"""


@pytest.fixture
def refused(tmp_path):
    def refuse(text):
        file = tmp_path / "ptqc.toml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(OptionError) as caught:
            load_config(file)
        return str(caught.value)

    return refuse


def test_options_of_integer_only_models(tmp_path):
    file = tmp_path / "ptqc.toml"
    file.write_text(
        'target = "int8-integer"\nscales = "pow2"\nmultiplier-bits = 6\nio = "integer"\nallow-float = ["head*"]\n'
        'format = "portable"\n'
    )
    assert load_config(file) == {
        "target": "int8-integer",
        "scales": "pow2",
        "multiplier_bits": 6,
        "io": "integer",
        "allow_float": ("head*",),
        "format": "portable",
    }


def test_all_kinds_of_values(tmp_path):
    file = tmp_path / "ptqc.toml"
    file.write_text(FULL)
    assert load_config(file) == {
        "target": "int8",
        "data": str(tmp_path / "calib.npz"),
        "samples": 256,
        "calibration_method": "percentile:99.99",
        "keep_float": ("head*", "stem"),
        "precision": ("w8a8",),
        "op_types": "Conv,Gemm",
        "max_size": "60%",
        "min_sqnr": "20",
        "min_confidence": "B",
        "distill": "batch-norm",
        "stats_from": str(tmp_path / "training.onnx"),
        "no_measure": True,
        "preprocess": "resize=256x256,crop=224x224,mean=0.485:0.456:0.406,std=0.229:0.224:0.225,color=BGR,"
        "resize_mode=shorter,interpolation=bilinear",
    }


def test_tables_of_inputs(tmp_path):
    file = tmp_path / "ptqc.toml"
    file.write_text(
        '[inputs.x]\nrange = [0, 1]\n[inputs."ids:0"]\nkind = "tokens"\nvocabulary = 30522\nshape = [1, 64]\n'
    )
    assert load_config(file) == {"input": ("x:range=0.0:1.0", "ids:0:kind=tokens,shape=1x64,vocabulary=30522")}


def test_bad_tables_of_inputs(refused):
    assert "line 1, input 'x': inputs have no key 'rnage'. did you mean 'range'?" in refused("[inputs.x]\nrnage = 1\n")
    assert "give tables [inputs.NAME]" in refused("inputs = 3\n")


def test_unknown_key_names_line_and_nearest(refused):
    message = refused('target = "int8"\n\nkeep-flaot = ["a"]\n')
    assert "line 3" in message
    assert "did you mean 'keep-float'?" in message


def test_unknown_preprocess_key(refused):
    message = refused("[preprocess]\nsdt = 1\n")
    assert "line 1" in message
    assert "did you mean 'std'?" in message


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("samples = 0", "a whole number of at least 1"),
        ("samples = true", "a whole number"),
        ('samples = "9"', "a whole number"),
        ("check-passes = 1", "true or false"),
        ('format = "onnx"', "one of qdq, qoperator"),
        ("target = 8", "text in quotes"),
        ("keep-float = [1]", "a list of texts"),
        ("max-size = []", "a number"),
        ('calibration-method = "mes"', "did you mean 'mse'?"),
        ('preprocess = "resize=-3"', "write it like 224"),
        ("seed = 1\nseed = 2", "Cannot overwrite"),
        ('keep-float = "a"\nkeep_float = "b"', "given twice"),
        ("target = ", "no TOML"),
        (b"\xff\xfe", "not UTF-8"),
        ("a = " + "[" * 100_000, "no TOML"),
        (" " * (1 << 20) + "a", "larger than 1 MiB"),
    ],
)
def test_unfit_values(refused, text, hint):
    assert hint in refused(text)


@pytest.mark.parametrize("text", ['pass = "mine:Pass"', 'metric = "mine:score"'])
def test_code_is_never_named_by_a_file(refused, text):
    assert "on the command line" in refused(text)


def test_force_is_never_set_by_a_file(refused):
    assert "there is no option 'force'" in refused("force = true")


def test_missing_file(tmp_path):
    with pytest.raises(OptionError, match="No such file"):
        load_config(tmp_path / "none.toml")


def test_options_of_rounding_are_read_and_checked(tmp_path, refused):
    file = tmp_path / "options.toml"
    file.write_text(
        'rounding = "gptq"\neffort = "best"\nweight_format = "uniform"\nblock-size = 64\npacking = "plain"\n'
    )
    assert load_config(file) == {
        "rounding": "gptq",
        "effort": "best",
        "weight_format": "uniform",
        "block_size": 64,
        "packing": "plain",
    }
    for line in ('rounding = "best"', 'effort = "slow"', 'weight-format = "int4"', "block-size = 0", "packing = true"):
        assert "does not fit the option" in refused(line)


def test_every_choice_of_the_options_is_on_the_command_line_and_in_files(tmp_path):
    """Words stand in three places, as commands must not import what they only name."""
    from typing import get_args, get_type_hints

    import click

    from ptqc.cli.quantize import command
    from ptqc.core.options import QuantizeOptions

    hints = get_type_hints(QuantizeOptions)
    file = tmp_path / "options.toml"
    for name in ("rounding", "effort", "weight_format", "packing"):
        (option,) = [param for param in command.params if param.name == name]
        assert isinstance(option, click.Option)
        assert option.type.words == get_args(hints[name])
        for word in option.type.words:
            file.write_text(f'{name} = "{word}"')
            assert load_config(file) == {name: word}
