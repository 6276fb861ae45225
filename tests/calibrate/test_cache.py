"""The cache: what it keeps, and that no damage, deletion or folder changes a result."""

import multiprocessing
import os

import numpy as np
import pytest

from ptqc.calibrate.cache import Cache, cache_folder, content_key
from ptqc.core.statistics import Histogram, Statistics

NAMES = ["b", "a"]


def some_statistics():
    values = np.random.default_rng(0).normal(size=1000)
    seen = Statistics(1000, values.min(), values.max(), values.sum(), (values**2).sum(), Histogram.of(values))
    return {"b": seen, "a": Statistics(0, 0.0, 0.0, 0.0, 0.0)}


def as_json(statistics):
    return {name: seen.to_json() for name, seen in statistics.items()}


def test_statistics_come_back_exactly(tmp_path):
    cache, stored = Cache(tmp_path / "new" / "folder"), some_statistics()
    cache.store_statistics("k", stored)
    found = cache.load_statistics("k", NAMES)
    assert list(found) == NAMES
    assert as_json(found) == as_json(stored)
    assert cache.load_statistics("other", NAMES) is None
    assert cache.load_statistics("k", ["a"]) is None


def test_ranges_come_back_exactly(tmp_path):
    cache = Cache(tmp_path)
    cache.store_ranges("k", {"b": (np.float64(-0.1), 1 / 3), "a": (0.0, 6.0)})
    assert cache.load_ranges("k", NAMES) == {"b": (-0.1, 1 / 3), "a": (0.0, 6.0)}
    assert cache.load_statistics("k", NAMES) is None


def test_any_changed_byte_makes_an_entry_absent(tmp_path):
    cache = Cache(tmp_path)
    cache.store_ranges("k", {"a": (-1.0, 1.0)})
    (file,) = tmp_path.iterdir()
    data = file.read_bytes()
    for index in range(len(data)):
        file.write_bytes(data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :])
        assert cache.load_ranges("k", ["a"]) is None
        file.write_bytes(data[:index])
        assert cache.load_ranges("k", ["a"]) is None


def test_an_entry_of_another_key_is_not_taken(tmp_path):
    cache = Cache(tmp_path)
    cache.store_ranges("k", {"a": (-1.0, 1.0)})
    (tmp_path / "ranges-k").rename(tmp_path / "ranges-other")
    assert cache.load_ranges("other", ["a"]) is None


@pytest.mark.parametrize("limits", [(-1.0, float("nan")), (0.5, 1.0), (-float("inf"), 1.0), (1.0, -1.0)])
def test_impossible_ranges_are_not_taken(tmp_path, limits):
    cache = Cache(tmp_path)
    cache.store_ranges("k", {"a": limits})
    assert cache.load_ranges("k", ["a"]) is None


def test_unusable_folders_are_no_cache(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    for cache in (Cache(file), Cache(file / "below"), Cache(None)):
        cache.store_ranges("k", {"a": (-1.0, 1.0)})
        assert cache.load_ranges("k", ["a"]) is None


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    Cache(tmp_path).store_ranges("k", {"a": (-1.0, 1.0)})
    assert list(tmp_path.iterdir()) == []


def test_folder_of_the_user(monkeypatch, tmp_path):
    monkeypatch.delenv("PTQC_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "ptqc"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "ptqc"
    monkeypatch.setenv("PTQC_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.setenv("PTQC_CACHE", "")
    assert cache_folder() is None


def test_key_depends_on_content_not_on_order():
    key = content_key(graph="g", data="d", options={"a": 1, "b": 2})
    assert key == content_key(data="d", options={"b": 2, "a": 1}, graph="g")
    assert key != content_key(graph="g", data="e", options={"a": 1, "b": 2})


def _write_often(folder):
    for _ in range(50):
        Cache(folder).store_ranges("k", {"a": (-1.0, float(os.getpid()))})


def test_two_runs_at_once(tmp_path):
    writers = [multiprocessing.get_context("fork").Process(target=_write_often, args=(tmp_path,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        found = Cache(tmp_path).load_ranges("k", ["a"])
        assert found is None or found["a"][0] == -1.0
    for writer in writers:
        writer.join()
    assert [file.name for file in tmp_path.iterdir()] == ["ranges-k"]
