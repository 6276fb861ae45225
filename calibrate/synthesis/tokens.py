"""Sequences of tokens without text: frequencies as in language, special tokens, lengths, masks that agree with them."""

import string
from dataclasses import dataclass

import numpy as np

from ptqc.core.types import Array

LEAST_LENGTH = 8
BYTE_VOCABULARIES = range(256, 261)


@dataclass(frozen=True, slots=True)
class Specials:
    """Tokens of a vocabulary that are no words.

    Attributes:
        first, separator: begin a sequence and end a sentence; None where there are none.
        pad: fills up short sequences.
        words: the first of the words, which stand in the order of their frequency.
    """

    first: int | None = None
    separator: int | None = None
    pad: int = 0
    words: int = 0


# Tokenizers give themselves away by the size of their vocabulary.
KNOWN = {
    30522: Specials(101, 102, 0, 1996),  # BERT, uncased
    28996: Specials(101, 102, 0, 1103),  # BERT, cased
    119547: Specials(101, 102, 0, 10000),  # BERT, multilingual
    21128: Specials(101, 102, 0, 670),  # BERT, Chinese
    50265: Specials(0, 2, 1, 4),  # RoBERTa, BART
    250002: Specials(0, 2, 1, 4),  # XLM-RoBERTa
    30000: Specials(2, 3, 0, 13),  # ALBERT
    30527: Specials(0, 2, 1, 2000),  # MPNet
    32128: Specials(None, 1, 0, 3),  # T5, padded
    32100: Specials(None, 1, 0, 3),  # T5
    32000: Specials(1, None, 0, 259),  # Llama, Mistral
    128256: Specials(128000, None, 0, 0),  # Llama 3
    49408: Specials(49406, 49407, 49407, 256),  # CLIP
}


def special_tokens(vocabulary: int) -> Specials:
    """The special tokens of a vocabulary of that size; none where it is not known."""
    return KNOWN.get(vocabulary, Specials())


@dataclass(frozen=True, slots=True)
class Lengths:
    """How one sample fills a row of tokens.

    Attributes:
        size: places in the row.
        used: tokens; the others are padding.
        split: where a second sentence begins; ``used`` where there is one sentence only.
    """

    size: int
    used: int
    split: int

    @property
    def mask(self) -> Array:
        """1 where there is a token: int64 [size]."""
        return (np.arange(self.size) < self.used).astype(np.int64)

    @property
    def segments(self) -> Array:
        """0 for the first sentence and for padding, 1 for the second: int64 [size]."""
        place = np.arange(self.size)
        return ((place >= self.split) & (place < self.used)).astype(np.int64)


def draw_lengths(rng: np.random.Generator, size: int, padded: bool, pairs: bool) -> Lengths:
    """The lengths of a sample.

    Args:
        size: places in the row.
        padded: the model sees a mask, so that sequences may be shorter than the row.
        pairs: the model distinguishes two sentences.
    """
    used = size
    if padded and size > LEAST_LENGTH and rng.random() < 0.75:
        used = int(rng.integers(LEAST_LENGTH, size + 1))
    split = used
    if pairs and used >= LEAST_LENGTH and rng.random() < 0.5:
        split = int(rng.integers(used // 4, 3 * used // 4 + 1))
    return Lengths(size, used, split)


def tokens(rng: np.random.Generator, lengths: Lengths, vocabulary: int) -> Array:
    """Ids of a sequence: int64 [lengths.size], in [0, vocabulary)."""
    if vocabulary in BYTE_VOCABULARIES:
        ids = byte_sequence(rng, lengths.used, binary=vocabulary > 256)
        pad = 256 if vocabulary > 256 else 0
        return np.concatenate([ids, np.full(lengths.size - lengths.used, pad)])
    specials = special_tokens(vocabulary)
    ids = np.full(lengths.size, specials.pad)
    ids[: lengths.used] = words(rng, lengths.used, specials.words, vocabulary)
    if lengths.used >= 4:
        if specials.first is not None:
            ids[0] = specials.first
        if specials.separator is not None:
            ids[lengths.used - 1] = specials.separator
            if lengths.split < lengths.used:
                ids[lengths.split - 1] = specials.separator
    return ids


def words(rng: np.random.Generator, count: int, first: int, vocabulary: int) -> Array:
    """Ids in [first, vocabulary) with the frequencies of Zipf and Mandelbrot, some of them repeated: int64 [count].

    Tokenizers number words roughly by frequency, so the id takes the place of the rank.
    """
    first = min(first, vocabulary - 1)
    ranks = vocabulary - first
    # The inverse of the cumulated 1 / (rank + 2.7), in closed form: no table of the vocabulary for each sample.
    shift = 2.7
    drawn = shift * ((ranks + shift) / shift) ** rng.random(count) - shift
    ids: Array = first + np.minimum(drawn.astype(np.int64), ranks - 1)
    # Texts come back to their words and phrases.
    for _ in range(count // 24):
        size = int(rng.integers(1, 5))
        source, target = rng.integers(0, count - size + 1, 2)
        ids[target : target + size] = ids[source : source + size].copy()
    return ids


def byte_sequence(rng: np.random.Generator, count: int, binary: bool) -> Array:
    """Bytes: text, and where ``binary`` also tables, compressed data and gaps as files have them: int64 [count]."""
    if not binary or rng.random() < 0.5:
        return _text(rng, count)
    parts: list[Array] = []
    left = count
    while left > 0:
        size = min(left, int(rng.integers(4, 256)))
        parts.append(_binary(rng, size))
        left -= size
    return np.concatenate([np.zeros(0, np.int64), *parts])[:count]


def _binary(rng: np.random.Generator, size: int) -> Array:
    kind = rng.random()
    if kind < 0.35:
        return rng.integers(0, 256, size)  # compressed
    if kind < 0.55:
        return np.full(size, rng.choice([0, 0, 0, 255, 32]))  # gaps
    if kind < 0.8:  # little-endian numbers that grow
        numbers = np.cumsum(rng.integers(0, 50, -(-size // 4))) + rng.integers(0, 1 << 16)
        return np.frombuffer(numbers.astype("<u4").tobytes(), np.uint8)[:size].astype(np.int64)
    return _text(rng, size)


# Relative frequencies of letters in English text.
LETTERS = "etaoinshrdlcumwfgypbvkjxqz"
LETTER_WEIGHTS = np.array(
    [127, 91, 82, 75, 70, 67, 63, 61, 60, 43, 40, 28, 28, 24, 24, 22, 20, 20, 19, 15, 10, 8, 2, 2, 1, 1], np.float64
)
BRACKETS = ("()", "[]", "{}", '""', "''", "<>")


def _text(rng: np.random.Generator, count: int) -> Array:
    """Lines of words, names, numbers and punctuation, indented like prose, mark-up or programs."""
    letters = rng.choice(list(LETTERS), 4096, p=LETTER_WEIGHTS / LETTER_WEIGHTS.sum())
    pool = ["".join(letters[at : at + rng.integers(1, 10)]) for at in rng.integers(0, 4000, 40)]
    formal = rng.random() < 0.6  # a program rather than prose
    lines: list[str] = []
    size, indent = 0, 0
    while size < count:
        parts = [_word(rng, pool, formal) for _ in range(rng.integers(1, 9))]
        indent = max(0, indent + int(rng.integers(-1, 2))) if formal else 0
        line = " " * (4 * min(indent, 5)) + " ".join(parts) + (rng.choice([":", "", ",", ";"]) if formal else ".")
        lines.append(line + "\n" * int(rng.integers(1, 3)))
        size += len(lines[-1])
    # A window of a text hardly ever begins where a line does.
    joined = "".join(lines).encode("ascii")
    return np.frombuffer(joined[size - count :], np.uint8).astype(np.int64)


def _word(rng: np.random.Generator, pool: list[str], formal: bool) -> str:
    word = pool[min(int(rng.exponential(len(pool) / 4)), len(pool) - 1)]
    draw = rng.random()
    if not formal:
        return (
            word.capitalize() if draw < 0.1 else word + "," if draw < 0.2 else str(len(word)) if draw < 0.23 else word
        )
    if draw < 0.1:
        return str(rng.choice(list("=+-*/<>|&"))) + ("=" if draw < 0.03 else "")
    if draw < 0.2:
        return str(int(10 ** rng.uniform(0, 5)))
    if draw < 0.35:
        pair = BRACKETS[int(rng.integers(len(BRACKETS)))]
        return word + pair[0] + pool[int(rng.integers(len(pool)))] + pair[1]
    if draw < 0.45:
        return f"{word}{rng.choice(list('._'))}{pool[int(rng.integers(len(pool)))]}"
    if draw < 0.5:
        return word.upper()
    return word + string.digits[int(rng.integers(10))] if draw < 0.53 else word
