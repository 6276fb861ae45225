"""Figures and table of the additivity benchmark."""

import numpy as np

from benchmarks.allocation_additivity import MODELS, brief, detail, partial_spearman

FOUND = {
    "assignments": 200,
    "spearman": 0.998,
    "pearson": 0.997,
    "ratio": 1.13,
    "spread": 0.07,
    "greatest": 0.21,
    "pairs": 0,
    "least": 0.0005,
    "equal_size": 0.949,
}
RECORD = {
    "additivity": {"all alike": {**FOUND, "spearman": 0.5}, "drawn": FOUND, "with pairs": {**FOUND, "pairs": 13}},
    "kept": 0,
    "seconds_each": 0.25,
}


def test_what_both_owe_to_size_does_not_count():
    rng = np.random.default_rng(0)
    size, own = rng.normal(size=500), rng.normal(size=500)
    noise = [0.1 * rng.normal(size=500) for _ in range(2)]
    alike = [size + 0.3 * own + 0.1 * one for one in noise]
    apart = [size + one for one in noise]
    assert partial_spearman(*alike, size) > 0.9
    assert abs(partial_spearman(*apart, size)) < 0.15
    assert partial_spearman(list(size), list(own), list(size)) == 0.0


def test_one_row_a_kind_and_a_verdict_where_there_is_a_bar():
    worse = {**RECORD, "additivity": {**RECORD["additivity"], "drawn": {**FOUND, "spearman": 0.9}}, "kept": 13}
    text = detail({MODELS[1]: RECORD, MODELS[0]: worse})
    rows = [line.split(" | ") for line in text.splitlines()[2:]]
    assert [(row[0].strip("| "), row[1], row[4], row[5]) for row in rows] == [
        (MODELS[0], "drawn", "0.900", "no"),
        (MODELS[0], "with pairs (13, kept)", "0.998", ""),
        (MODELS[0], "all alike", "0.500", ""),
        (MODELS[1], "drawn", "0.998", "yes"),
        (MODELS[1], "with pairs (13, not kept)", "0.998", ""),
        (MODELS[1], "all alike", "0.500", ""),
    ]
    assert brief(RECORD) == "Spearman: drawn 0.998, with pairs 0.998, all alike 0.500; 0.25 s each"
