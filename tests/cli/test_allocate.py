"""``ptqc allocate`` on tables made by hand."""

import json
from pathlib import Path

import pytest

from ptqc.core.allocation import Allocation

TABLE = """\
# float_model: {"bytes": 4000, "latency_us": 100}
node,precision,sensitivity,bytes,weights,macs,bops,latency_us
conv1,w8a8,0.0001,100,100,10,640,4
conv1,w4a8,0.01,50,100,10,320,3
conv2,w8a8,0.0002,1000,1000,20,1280,6
conv2,w4a8,0.002,500,1000,20,640,4
fc,w8a8,0.0001,600,600,30,1920,9
fc,w4a8,0.05,300,600,30,960,5
"""


@pytest.fixture
def table(tmp_path):
    (tmp_path / "table.csv").write_text(TABLE)
    return "table.csv"


def precisions(result):
    assert result.exit_code == 0, result.stderr
    return {node["node"]: node["precision"] for node in json.loads(result.stdout)["nodes"]}


def test_the_best_choices_within_a_limit(ptqc, table, tmp_path):
    result = ptqc("allocate", table, "--max", "size=1300", "-o", "plan.json")
    assert result.exit_code == 0, result.stderr
    lines = {line.split()[1]: line for line in result.stdout.splitlines() if "w4a8" in line or "w8a8" in line}
    assert "w4a8" in lines["conv2"] and "saves 500 bytes" in lines["conv2"]
    assert "w8a8" in lines["conv1"] and "w8a8" in lines["fc"]
    assert "1.20 kB of at most 1.30 kB" in result.stdout
    assert "proven" in result.stdout
    allocation = Allocation.from_text((tmp_path / "plan.json").read_text())
    assert [(node.node, str(node.precision)) for node in allocation.nodes] == [
        ("conv1", "w8a8"),
        ("conv2", "w4a8"),
        ("fc", "w8a8"),
    ]
    assert allocation.loss == pytest.approx(0.0022)
    assert ptqc("allocate", table, "--max", "size=1300", "-o", "plan.json").exit_code == 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ("w8a8", "w8a8", "w8a8")),
        (["--max", "size=30%"], ("w8a8", "w4a8", "w8a8")),
        (["--max", "bits=6"], ("w8a8", "w4a8", "w8a8")),
        (["--max", "bops=60%"], ("w8a8", "w4a8", "w4a8")),
        (["--max", "latency=17us", "--max", "size=2000"], ("w8a8", "w4a8", "w8a8")),
        (["--max", "size=1300", "--same-bits", "conv*"], ("w4a8", "w4a8", "w8a8")),
        (["--max", "size=1300", "--same-bits", "conv2,fc"], ("w8a8", "w4a8", "w4a8")),
        (["--max", "size=1400", "--keep", "conv2=w8a8"], ("w8a8", "w8a8", "w4a8")),
        (["--max", "size=1700", "--share", "fc=0.2"], ("w8a8", "w8a8", "w4a8")),
        (["--max", "size=1300", "--keep", "*=w4a8", "--keep", "conv1=a8w8"], ("w8a8", "w4a8", "w4a8")),
    ],
)
def test_limits_ties_shares_and_fixed_nodes(ptqc, table, options, expected):
    assert tuple(precisions(ptqc("allocate", table, *options, "--json")).values()) == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max", "size=1kB", "--max", "size=2kB"], "the same limit is given twice"),
        (["--max", "size=2Mb"], "did you mean MB?"),
        (["--max", "size=0"], "leaves nothing"),
        (["--max", "sice=2MB"], "did you mean 'size'?"),
        (["--max", "size"], "write it like --max size=2MB"),
        (["--same-bits", "conv1,cnv2"], "did you mean 'conv2'?"),
        (["--same-bits", "fc"], "one node only"),
        (["--share", "att*=0.4", "--max", "size=1300"], "no node matches 'att*'"),
        (["--share", "fc"], "--share 'fc' cannot be read"),
        (["--share", "fc=1.4"], "at most 1"),
        (["--share", "fc=nan"], "cannot be read"),
        (["--keep", "fc"], "--keep 'fc' cannot be read"),
        (["--keep", "fcc=w8a8"], "did you mean 'fc'?"),
        (["--keep", "fc=w6a8"], "'fc' cannot be w6a8. it can be"),
        (["--keep", "fc=8"], "no precision"),
        (["-o", "a.json", "-o", "b.json"], "--output is given more than once"),
        (["-o", "table.csv"], "the output is the input itself"),
        (["-o", "none/plan.json"], "plan.json"),
    ],
)
def test_options_that_cannot_be_used(ptqc, table, options, words):
    result = ptqc("allocate", table, *options)
    assert result.exit_code == 2, result.stdout
    assert words in result.stderr


@pytest.mark.parametrize(
    ("text", "limit", "words"),
    [
        ("node,precision,sensitivity\na,w8a8,1\n", "size=2MB", "no size of 'a' at w8a8"),
        ("node,precision,sensitivity,bytes\na,w8a8,1,2\n", "size=50%", "does not know float_model.bytes"),
        ("node,precision,bytes\na,w8a8,1\n", "size=2MB", "no sensitivity of 'a' at w8a8"),
        ("node,precision,sensitivity\na,w16a8,1\n", "size=2MB", "no admissible choice for 'a'"),
        ("node,precision\na,w4\n", "size=2MB", "'table.csv', line 2"),
        ("# version: 1\nnode,precision\na,w4a8\n", "size=2MB", "version '1'"),
    ],
)
def test_tables_that_cannot_be_used(ptqc, table, tmp_path, text, limit, words):
    (tmp_path / table).write_text(text)
    result = ptqc("allocate", table, "--max", limit)
    assert result.exit_code == 2, result.stdout
    assert words in result.stderr


def test_a_table_that_is_missing(ptqc):
    result = ptqc("allocate", "none.json", "--max", "size=2MB")
    assert result.exit_code == 2
    assert "cannot read the cost table" in result.stderr


def test_a_limit_that_no_choice_meets(ptqc, table, tmp_path):
    result = ptqc("allocate", table, "--max", "size=900", "--keep", "conv2=w8a8", "-o", "plan.json")
    assert result.exit_code == 1
    assert "size=900" in result.stderr and "conv2" in result.stderr
    assert not (tmp_path / "plan.json").exists()
    as_json = ptqc("allocate", table, "--max", "size=900", "--keep", "conv2=w8a8", "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout)["error"] == "GateFailed"


def test_other_files_are_not_replaced(ptqc, table, tmp_path):
    (tmp_path / "plan.json").write_text('{"mine": 1}')
    refused = ptqc("allocate", table, "-o", "plan.json")
    assert refused.exit_code == 2
    assert "not written by ptqc allocate" in refused.stderr
    assert ptqc("allocate", table, "-o", "plan.json", "--force").exit_code == 0


def test_documented_examples(ptqc, tmp_path):
    document = (Path(__file__).parents[2] / "docs" / "cost-table.md").read_text("utf-8")
    csv, as_json = document.split("```csv\n")[1].split("```")[0], document.split("```json\n")[1].split("```")[0]
    (tmp_path / "table.csv").write_text(csv)
    (tmp_path / "table.json").write_text(as_json)
    found = [precisions(ptqc("allocate", f"table.{kind}", "--max", "size=70kB", "--json")) for kind in ("csv", "json")]
    assert found[0] == found[1] == {"conv1": "w8a8", "fc": "w4a8"}
    heads = document.split("```csv\n")[2].split("```")[0]
    (tmp_path / "table.csv").write_text(heads + csv.partition("\n")[2])
    assert ptqc("allocate", "table.csv", "--max", "size=25%").exit_code == 0
    least = document.split("```json\n")[2].split("```")[0]
    assert len(Allocation.from_text(least).nodes) == 2
