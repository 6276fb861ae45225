"""The report: JSON both ways, its renderings, limits and advice."""

import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from rich.console import Console

from ptqc.core.errors import OptionError
from ptqc.report.advice import with_advice
from ptqc.report.estimates import Estimate
from ptqc.report.gates import Gates, gate_failure
from ptqc.report.html import sqnr_plot, to_html
from ptqc.report.markdown import to_markdown
from ptqc.report.report import (
    Confidence,
    Coverage,
    DataInfo,
    Figures,
    FileInfo,
    FusionInfo,
    Island,
    LatencyInfo,
    LayerInfo,
    PassInfo,
    RefusedMatch,
    Report,
    WeightsInfo,
)
from ptqc.report.summary import count_text, prominent_layers, short_name, size_text, summary_rows
from ptqc.report.text import report_renderables

EVIL = "</script><script>alert(1)</script> [bold]x[/] `a` | \x1b[31m$\\frac$"


def full_report() -> Report:
    data = DataInfo("calib.npz (256 samples)", 256, "ab" * 32)
    return Report(
        model=FileInfo("net.onnx", 1000, "0" * 64),
        target="int8",
        output=FileInfo("net.int8.onnx", 280, "1" * 64),
        versions={"ptqc": "0.1.0", "onnxruntime": "1.31.1"},
        data=data,
        options={"samples": 256, "keep-float": ["head*"]},
        figures=Figures(
            data=data,
            held_out=True,
            agreement=Estimate(0.984, 0.96, 0.99),
            sqnr_db=Estimate(28.41, 27.9, 28.8),
            metric="top1",
            accuracy_float=Estimate(0.812, 0.79, 0.83),
            accuracy_quantized=Estimate(0.81, 0.788, 0.83),
            accuracy_difference=Estimate(-0.002, -0.006, 0.002),
        ),
        latency=LatencyInfo(1, 1, 1.5, 0.6, 2.5, "Some CPU"),
        fusion=FusionInfo(39_000_000, 40_000_000, (Island("gelu_1", "Gelu", 4096, "no integer kernel"),)),
        layers=(
            LayerInfo("conv1", "Conv", "w8a8", "integer kernel", 30.0, 0.25, 30_000_000, 432, "QLinearConv"),
            LayerInfo("gelu_1", "Gelu", "float", "no integer kernel", math.inf, 0.0),
            LayerInfo("fc", "Gemm", "w8a8", "", 28.4, 0.75, 10_000_000, 640),
        ),
        passes=(PassInfo("fold-batchnorm", 3, (RefusedMatch("bn4", "its input is a graph output"),)),),
        notes=("the batch is free",),
        seconds={"calibrate": 1.25, "lower": 0.5},
        peak_memory_bytes=345_000_000,
    )


def rendered(report: Report, everything: bool = True) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=160, markup=False, highlight=False, emoji=False)
    for part in report_renderables(report, everything):
        console.print(part)
    return stream.getvalue()


def test_json_round_trip_keeps_everything(tmp_path):
    report = Gates.checked(min_sqnr="20").apply(full_report())
    report.save(tmp_path / "out.json")
    assert Report.load(tmp_path / "out.json") == report
    plain = json.loads(report.text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert plain["version"] == 1
    assert plain["layers"][1]["sqnr_db"] == "inf"


def test_smallest_report_survives_and_renders():
    report = Report(FileInfo("m.onnx", 10, ""), "int8")
    assert Report.from_json(json.loads(report.text())) == report
    assert "m.onnx" in rendered(report)
    assert "m.onnx" in to_html(report)
    assert "m.onnx" in to_markdown(report)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(version=99), "no report of version 1"),
        (lambda d: d.update(extra=1), "unknown or missing keys: extra"),
        (lambda d: d.pop("target"), "unknown or missing keys: target"),
        (lambda d: d["model"].update(bytes="many"), r"model\.bytes must be of type int"),
        (lambda d: d["model"].update(bytes=True), r"model\.bytes must be of type int"),
        (lambda d: d.update(layers={}), "layers must be a list"),
        (lambda d: d.update(seconds=[1]), "seconds must be an object"),
        (lambda d: d["layers"].append(None), r"layers\[3\] must be an object"),
    ],
)
def test_damaged_reports_are_refused(change, message):
    data = json.loads(full_report().text())
    change(data)
    with pytest.raises(OptionError, match=message):
        Report.from_json(data)


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_files_that_are_no_report(tmp_path, content):
    path = tmp_path / "out.json"
    path.write_bytes(content)
    with pytest.raises(OptionError, match="no report"):
        Report.load(path)


def test_missing_report(tmp_path):
    with pytest.raises(OptionError, match="cannot read the report"):
        Report.load(tmp_path / "no.json")


def test_summary_says_what_was_measured():
    rows = dict(summary_rows(full_report()))
    assert rows["size"] == "1.00 kB to 280 bytes, 28.0% of the input"
    assert rows["fidelity"] == "SQNR 28.41 dB (27.90 to 28.80)"
    assert rows["agreement"] == "98.4 % (96.0 to 99.0) with float's first class"
    assert rows["top1"].endswith("difference -0.20 points (-0.60 to +0.20)")
    assert rows["measured on"] == "calib.npz (256 samples), held out from calibration; 95 % intervals"
    assert rows["latency"].startswith("2.50 times float's speed: 0.600 ms against 1.500 ms in float (1 thread, batch 1")
    assert rows["kernels"].startswith("39.0 M of 40.0 M MACs (97.5%) in integer kernels, 1 float node left")
    same = replace(full_report(), figures=replace(full_report().figures, held_out=False))
    assert "the calibration data itself" in dict(summary_rows(same))["measured on"]


def test_nothing_unmeasured_is_printed():
    labels = dict(summary_rows(replace(full_report(), figures=Figures(), latency=None, fusion=None)))
    assert set(labels) == {"model", "output", "size", "calibration", "time"}


def test_text_holds_layers_passes_and_notes():
    text = rendered(full_report())
    assert "QLinearConv" not in text  # kernels stand in the page and the JSON
    for expected in ("conv1", "75.0%", "exact", "bn4: its input is a graph output", "note: the batch is free"):
        assert expected in text


def test_confidence_is_an_estimate_in_every_rendering():
    coverage = (Coverage("conv1_out", 0.0, 2.0, 0.0, 4.0, 0.5), Coverage("fc_out", -1.0, 1.0, -0.5, 0.5, 1.0))
    losses = {"noise": 0.8, "start": 0.1, "end": 0.05}
    report = replace(full_report(), confidence=Confidence("B", 18.0, "32 samples", losses, coverage))
    assert Report.from_json(report.to_json()) == report
    for text in (rendered(report), to_html(report)):
        for expected in ("probably at least 18 dB", "not measured", "1 of 2 tensors", "conv1_out", "0 to 4", "50"):
            assert expected in text
    rows = dict(summary_rows(report))
    assert rows["distillation"] == "loss of the statistics 0.8 for noise, 0.1 at the start, 0.05 at the end"


def test_long_layer_tables_are_cut_to_those_that_matter():
    rows = tuple(LayerInfo(f"n{i}", "Conv", "w8a8", share=i / 100) for i in range(50))
    shown = prominent_layers(rows, 5)
    assert [number for number, _ in shown] == [46, 47, 48, 49, 50]
    assert "the 20 that matter most of 50" in rendered(replace(full_report(), layers=rows), everything=False)


def evil_report() -> Report:
    layer = LayerInfo(EVIL, EVIL, EVIL, EVIL, 3.0, 1.0, kernel=EVIL)
    island = Island(EVIL, EVIL, 1, EVIL)
    return replace(
        full_report(),
        model=FileInfo(EVIL, 1, ""),
        layers=(layer,),
        fusion=FusionInfo(0, 1, (island,)),
        notes=(EVIL,),
        warnings=(EVIL,),
        versions={EVIL: EVIL},
    )


def test_names_from_files_cannot_break_any_rendering():
    report = evil_report()
    page = to_html(report)
    assert page.count("<script") == 1
    assert "alert(1)" in page  # shown, as text
    assert "<script" not in to_markdown(report)
    for text in (rendered(report), page, to_markdown(report)):
        assert "\x1b" not in text


def test_page_is_self_contained_and_well_formed():
    page = to_html(Gates.checked(min_sqnr="20", max_size="10%").apply(full_report()))
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:|//)""", page)
    assert "NOT" not in page
    assert 'class="missed">not met' in page
    opened: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "br", "path", "use", "circle", "rect", "line"):
                opened.append(tag)

        def handle_endtag(self, tag):
            if tag not in ("path", "use", "circle", "rect", "line"):
                assert opened.pop() == tag

    Tags().feed(page)
    assert opened == []


def test_page_and_plot_are_deterministic():
    assert to_html(full_report()) == to_html(full_report())
    assert sqnr_plot(full_report().layers).startswith("<svg")
    assert sqnr_plot(()) == ""


def test_markdown_tables_have_equal_columns():
    text = to_markdown(with_advice(Gates.checked(max_drop="1%").apply(full_report())))
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({re.sub(r"\\\|", "", line).count("|") for line in block.splitlines()}) == 1


@pytest.mark.parametrize(
    ("gates", "passed"),
    [
        ({"max_drop": "0.2%"}, True),
        ({"max_drop": "0.002"}, True),
        ({"max_drop": "0.1%"}, False),
        ({"min_sqnr": "28.4"}, True),
        ({"min_sqnr": "28.5dB"}, False),
        ({"max_size": "28%"}, True),
        ({"max_size": "27.9%"}, False),
        ({"max_size": "280"}, True),
        ({"max_size": "0.27kB"}, False),
        ({"max_size": "1KiB"}, True),
        ({"min_speedup": "2.5"}, True),
        ({"min_speedup": "2.6x"}, False),
    ],
)
def test_limits(gates, passed):
    report = Gates.checked(**gates).apply(full_report())
    assert [gate.passed for gate in report.gates] == [passed]
    failure = gate_failure(report)
    assert (failure is None) == passed
    if failure is not None:
        assert failure.exit_code == 1
        name = next(iter(gates)).replace("_", "-")
        assert f"--{name}" in failure.what
        assert "measured" in failure.why


@pytest.mark.parametrize(
    "gates",
    [
        {"max_drop": "-1%"},
        {"max_drop": "1 percent"},
        {"max_drop": "nan"},
        {"min_sqnr": "high"},
        {"min_sqnr": ""},
        {"max_size": "2mb"},
        {"max_size": "%"},
        {"min_speedup": "1,2"},
    ],
)
def test_limits_that_cannot_be_read(gates):
    with pytest.raises(OptionError, match=r"cannot be read\. .*write it like"):
        Gates.checked(**gates)


def test_limit_on_what_was_not_measured():
    bare = Report(FileInfo("m.onnx", 10, ""), "int8")
    for gates, why in (
        ({"max_drop": "1%"}, "labels, or --metric"),
        ({"min_sqnr": "20"}, "SQNR was not measured"),
        ({"min_speedup": "1"}, "speed was not measured"),
        ({"max_size": "50%"}, "no output"),
    ):
        with pytest.raises(OptionError, match=why):
            Gates.checked(**gates).apply(bare)


def test_drop_of_1_is_taken_for_a_slip():
    with pytest.raises(OptionError, match="write 1% for points"):
        Gates.checked(max_drop="1").apply(full_report())


def test_drop_of_an_own_metric_is_in_its_unit():
    figures = replace(full_report().figures, metric="my:spearman", accuracy_difference=Estimate(-0.25))
    report = replace(full_report(), figures=figures)
    assert Gates.checked(max_drop="0.3").apply(report).gates[0].passed
    assert not Gates.checked(max_drop="0.2").apply(report).gates[0].passed


def test_no_advice_for_a_good_result():
    assert with_advice(replace(full_report())).warnings == ()


def test_slow_result_is_said_with_what_would_help():
    slow = replace(full_report(), latency=LatencyInfo(1, 1, 1.0, 1.25, 0.8, "Some CPU"))
    (warning,) = with_advice(slow).warnings
    assert warning.startswith("not faster than float on this machine: 0.80 times")
    assert "Gelu gelu_1: no integer kernel" in warning
    assert "--prefer latency" in warning
    assert with_advice(with_advice(slow)).warnings == (warning,)
    (warning,) = with_advice(replace(slow, options={"prefer": "latency"})).warnings
    assert "--prefer" not in warning and warning.endswith("the float model is the fastest here.")
    assert "No layer" in warning
    kept = replace(slow.layers[0], reason="faster in float: the model measured 1.20 times as fast with it in float")
    (warning,) = with_advice(replace(slow, options={"prefer": "latency"}, layers=(kept,))).warnings
    assert "No layer" not in warning and warning.endswith("the float model is the fastest here.")


def test_a_float_model_that_is_poor_itself_is_pointed_out():
    figures = replace(full_report().figures, accuracy_float=Estimate(0.05, 0.02, 0.13))
    (warning,) = with_advice(replace(full_report(), figures=figures)).warnings
    assert warning.startswith("float itself has only 5.0% top1: the preprocessing or the labels")


def test_unfaithful_result_names_the_layers():
    poor = replace(full_report(), figures=Figures(sqnr_db=Estimate(9.0)))
    (warning,) = with_advice(poor).warnings
    assert "SQNR is 9.0 dB" in warning
    assert warning.index("fc (75%)") < warning.index("conv1 (25%)")


def test_texts_for_people():
    assert [size_text(n) for n in (999, 1000, 2_340_000)] == ["999 bytes", "1.00 kB", "2.34 MB"]
    assert [count_text(n) for n in (7, 40_500_000)] == ["7", "40.5 M"]
    assert short_name("/very/long/name/of/a/layer/Conv", 12) == "...ayer/Conv"


# Weights below 8 bits


def narrow_report() -> Report:
    note = "40 positions of calibration data for 64 inputs; rounded to nearest, which does better on held-back samples"
    layers = (
        LayerInfo("a", "Conv", "w4a8", stored_as="codebook4/channel", rounding_error=0.004, nearest_error=0.02),
        LayerInfo("b", "Conv", "w4a8", stored_as="int4", rounding_error=0.02, nearest_error=0.02, note=note),
        LayerInfo("c", "Conv", "w4a8", stored_as="int4", note=note),
        LayerInfo("d", "Gemm", "w8a8", stored_as="int8", note=note),
        LayerInfo("e", "Conv", "w4a8", stored_as="int4", note="an earlier node has rounded its weights"),
    )
    return replace(full_report(), layers=layers, weights=WeightsInfo({"int4": 2, "codebook4/channel": 1}, 520, 1000))


def test_formats_and_errors_of_rounding_are_shown():
    report = narrow_report()
    assert Report.from_json(json.loads(report.text())) == report
    assert ("weights", "int4 (1 tensor codebook4/channel), 520 bytes, 52% of what they take at 8 bits") in summary_rows(
        report
    )
    text = rendered(report)
    assert re.search(r"codebook4/channel +24\.0 \(\+7\.0\)", text)
    assert re.search(r"int4 +17\.0 \(\+0\.0\)", text)
    assert "w4a8 codebook4/channel" in to_markdown(report)
    assert "24.0 (+7.0)" in to_html(report) and "on samples held back" in to_html(report)


def test_nothing_is_said_of_formats_where_all_are_int8():
    report = replace(full_report(), weights=WeightsInfo({"int8": 3}, 1000, 1000))
    assert ("weights", "int8, 1.00 kB") in summary_rows(report)
    for text in (rendered(report), to_html(report), to_markdown(report)):
        assert "stored as" not in text and "held back" not in text


def test_layers_that_fell_back_are_a_warning():
    report = with_advice(narrow_report())
    assert "weights rounded to nearest, as the layers say why: b, c." in report.warnings
    assert any(sentence.startswith("few calibration samples for the width of some") for sentence in report.warnings)
    assert not any("earlier node" in sentence for sentence in report.warnings)
    for text in (rendered(report), to_html(report)):
        assert "an earlier node" in text
