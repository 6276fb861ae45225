import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptqc.calibrate.synthesis.tokens import KNOWN, Lengths, byte_sequence, draw_lengths, tokens, words


def _rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 200),
    st.one_of(st.integers(1, 300000), st.sampled_from([*KNOWN, 256, 257, 260])),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_any_sequence_stays_in_its_vocabulary_and_agrees_with_its_mask(
    size: int, vocabulary: int, padded: bool, pairs: bool, seed: int
) -> None:
    lengths = draw_lengths(_rng(seed), size, padded, pairs)
    ids = tokens(_rng(seed, 1), lengths, vocabulary)
    assert ids.shape == (size,) and ids.min() >= 0 and ids.max() < vocabulary
    assert lengths.mask.sum() == lengths.used <= size
    assert padded or lengths.used == size
    assert not (lengths.segments & ~lengths.mask).any()
    assert pairs or not lengths.segments.any()


@pytest.mark.parametrize("vocabulary", [30522, 28996])
def test_bert_sequences_begin_with_cls_end_sentences_with_sep_and_are_padded_with_zero(vocabulary: int) -> None:
    ids = tokens(_rng(0), Lengths(32, 20, 9), vocabulary)
    assert ids[0] == 101 and ids[8] == 102 and ids[19] == 102
    assert not ids[20:].any()
    inner = np.delete(ids[:20], [0, 8, 19])
    assert not np.isin(inner, [0, 101, 102]).any()


def test_roberta_pads_with_one() -> None:
    ids = tokens(_rng(0), Lengths(16, 10, 10), 50265)
    assert ids[0] == 0 and ids[9] == 2 and (ids[10:] == 1).all()


def test_lengths_reach_from_eight_to_all_places() -> None:
    used = [draw_lengths(_rng(n), 128, True, False).used for n in range(400)]
    assert min(used) < 16 and min(used) >= 8
    assert used.count(128) > 80
    assert len(dict.fromkeys(used)) > 60


def test_words_follow_zipf_and_come_back() -> None:
    ids = words(_rng(0), 100_000, 1996, 30522)
    counts = np.sort(np.bincount(ids))[::-1]
    # Ten times the rank has roughly a tenth of the frequency.
    assert 4 < counts[9] / counts[99] < 16
    assert 5 < counts[99] / counts[999] < 20
    assert ids.min() >= 1996 and ids.max() < 30522
    assert (ids > 20000).any()


def test_text_is_printable_and_has_words_and_lines() -> None:
    text = bytes(byte_sequence(_rng(0), 4000, binary=False).astype(np.uint8))
    assert all(byte == 10 or 32 <= byte < 127 for byte in text)
    assert 0.1 < text.count(b" ") / len(text) < 0.5 and text.count(b"\n") > 20
    letters = np.bincount(np.frombuffer(text, np.uint8), minlength=256)
    assert letters[ord("e")] > letters[ord("q")]


def test_files_have_all_bytes_and_padding_is_none_of_them() -> None:
    ids = np.concatenate([tokens(_rng(n), Lengths(512, 500, 500), 257) for n in range(40)]).reshape(40, 512)
    assert len(np.unique(ids[:, :500])) == 256
    assert (ids[:, 500:] == 256).all()
    assert (ids[:, :500] < 256).all()
