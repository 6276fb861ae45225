"""Packed tensors: exact where they must be, near where they may lose, in memory or in a file."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptqc.core.types import UINT8, QuantParams, QuantType
from ptqc.execute.torch_executor.quantized import Quantizer
from ptqc.execute.torch_executor.storage import Storage


def grid(scale=0.037, zero_point=7, kind=UINT8):
    return Quantizer(QuantParams(kind, np.float32(scale), np.asarray(zero_point)))


@pytest.mark.parametrize("budget", [0, 1 << 20])
@pytest.mark.parametrize("kind", [UINT8, QuantType(8, True), QuantType(4, False)])
def test_values_on_a_grid_come_back_exactly(budget, kind):
    quantizer = grid(kind=kind)
    value = quantizer(torch.randn(5, 7))
    storage = Storage(budget)
    stored = storage.put(value, quantizer)
    assert stored.size == 35
    assert storage.used == (35 if budget else 0)
    assert torch.equal(storage.get(stored), value)


@pytest.mark.parametrize("budget", [0, 1 << 20])
def test_values_off_the_grid_and_other_types_come_back_exactly(budget):
    storage = Storage(budget)
    values = [torch.randn(3, 4), torch.arange(6).reshape(2, 3).T, torch.tensor(True), torch.zeros(0, 3), [1], "text"]
    stored = [storage.put(value, grid()) for value in values]
    for one, value in zip(stored, values, strict=True):
        back = storage.get(one)
        assert torch.equal(back, value) if isinstance(value, torch.Tensor) else back == value


@given(exponent=st.integers(-90, 90))
@settings(max_examples=30, deadline=None)
def test_halves_keep_eleven_bits_of_numbers_of_any_size(exponent):
    value = torch.randn(64) * 2.0**exponent
    storage = Storage(1 << 20)
    stored = storage.put(value, half=True)
    assert stored.size == 128
    assert ((storage.get(stored) - value).abs() <= value.abs() * 2.0**-11 + value.abs().max() * 2.0**-24).all()


@pytest.mark.parametrize("special", [float("inf"), float("nan"), 1e38, 0.0])
def test_what_halves_cannot_hold_stays_whole(special):
    value = torch.full((4,), special)
    storage = Storage(1 << 20)
    assert torch.equal(storage.get(storage.put(value, half=True)), value) or special != special


def test_places_in_the_file_are_used_again():
    storage = Storage(0)
    for _ in range(50):
        kept = [storage.put(torch.randn(100 + index)) for index in range(4)]
        values = [storage.get(one) for one in kept]
        assert [len(value) for value in values] == [100, 101, 102, 103]
        for one in kept:
            storage.drop(one)
    assert storage.bytes_in_file <= 8 * 4 * 103
