"""Finished layers on disk: what comes back is what was kept, or nothing."""

import numpy as np
import pytest

from ptqc.core.types import INT8, QuantParams
from ptqc.rounding.checkpoint import FolderCheckpoint
from ptqc.rounding.layer import RoundedLayer

BOOK = np.array([-90, -20, 7, 60], np.int8)


def layer(bias=True, **params):
    found = QuantParams(INT8, np.array([0.1, 1 / 3, 1e-30, 2e20]), np.zeros(4), 0, True, **params)
    codes = np.resize(BOOK, (4, 5))
    return RoundedLayer(
        found, codes, np.array([np.pi, -0.0, 1e300, 0.0]) if bias else None, 1e-5 / 3, None, 'Übrig: "x"'
    )


def assert_same(first, second):
    assert (first.params, first.error, first.nearest_error, first.note) == (
        second.params,
        second.error,
        second.nearest_error,
        second.note,
    )
    assert first.codes.dtype == second.codes.dtype
    np.testing.assert_array_equal(first.codes, second.codes)
    assert (first.bias is None) == (second.bias is None)
    assert first.bias is None or first.bias.tobytes() == second.bias.tobytes()


@pytest.mark.parametrize("one", [layer(), layer(bias=False), layer(codebook=BOOK)])
def test_layers_come_back_bit_by_bit(one, tmp_path):
    checkpoint = FolderCheckpoint(tmp_path / "not" / "there")
    assert checkpoint.load("node/1") is None
    checkpoint.store("node/1", one)
    assert_same(checkpoint.load("node/1"), one)
    assert checkpoint.load("node/2") is None


def test_whatever_byte_is_damaged_the_layer_is_absent_or_whole(tmp_path):
    checkpoint, one = FolderCheckpoint(tmp_path), layer()
    checkpoint.store("node", one)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        found = checkpoint.load("node")
        if found is not None:
            assert_same(found, one)


def test_an_interrupted_or_impossible_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*arguments, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", interrupt)
        with pytest.raises(KeyboardInterrupt):
            FolderCheckpoint(tmp_path / "folder").store("node", layer())
    assert list((tmp_path / "folder").iterdir()) == []
    (tmp_path / "file").write_text("")
    checkpoint = FolderCheckpoint(tmp_path / "file")
    checkpoint.store("node", layer())
    assert checkpoint.load("node") is None
