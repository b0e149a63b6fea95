"""Byte-level byte-pair encoding: training, and encoding to check the training.

Guarantees: every byte string is encoded (all 256 bytes are tokens) and decodes to itself; training
is deterministic, ties going to the pair that sorts first.
Does not aim at speed: it is meant for a text of some ten kilobytes and a few hundred merges.

The form is the one GPT-2 made common (R. Sennrich et al., "Neural Machine Translation of Rare
Words with Subword Units", 2016; the byte alphabet as in GPT-2), because every engine reads it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import final

Pair = tuple[str, str]

# Contractions, words, numbers, signs (each with the space before it), blanks. `[^\W\d_]` is \p{L}
# in Python's own words; the underscore counts as a sign.
_PIECE = re.compile(
    r"'(?:s|t|re|ve|m|ll|d)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+",
)


def byte_alphabet() -> tuple[str, ...]:
    """Return one printable character for each byte 0 to 255, in the order of the bytes.

    Printable Latin-1 bytes stand for themselves; the others take code points from 256 upwards, so
    that a token list is text without blanks or control characters.
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)}
    letters: list[str] = []
    spare = 256
    for byte in range(256):
        if byte in printable:
            letters.append(chr(byte))
        else:
            letters.append(chr(spare))
            spare += 1
    return tuple(letters)


_LETTERS = byte_alphabet()
_BYTES: Mapping[str, int] = {letter: byte for byte, letter in enumerate(_LETTERS)}


def _pieces(text: str) -> list[tuple[str, ...]]:
    return [tuple(_LETTERS[b] for b in piece.encode()) for piece in _PIECE.findall(text)]


def _joined(word: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    """Return `word` with each occurrence of `pair`, from the left, made into one symbol."""
    out: list[str] = []
    at = 0
    while at < len(word):
        if word[at : at + 2] == pair:
            out.append(pair[0] + pair[1])
            at += 2
        else:
            out.append(word[at])
            at += 1
    return tuple(out)


@final
@dataclass(frozen=True, slots=True)
class Tokenizer:
    """The trained merges, earliest first; token ids are the 256 bytes and then one per merge."""

    merges: tuple[Pair, ...]

    @property
    def tokens(self) -> tuple[str, ...]:
        """Every token in the byte alphabet, by id."""
        return (*_LETTERS, *(left + right for left, right in self.merges))

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`: merges applied in the order they were learnt."""
        rank = {pair: position for position, pair in enumerate(self.merges)}
        ids = {token: number for number, token in enumerate(self.tokens)}
        out: list[int] = []
        for piece in _pieces(text):
            word = piece
            while len(word) > 1:
                best = min(pairwise(word), key=lambda pair: rank.get(pair, len(rank)))
                if best not in rank:
                    break
                word = _joined(word, best)
            out.extend(ids[symbol] for symbol in word)
        return out

    def decode(self, ids: Sequence[int]) -> bytes:
        """Return the bytes that the token ids stand for."""
        tokens = self.tokens
        return bytes(_BYTES[letter] for number in ids for letter in tokens[number])


def train(
    text: str, merges: int, *, progress: Callable[[int, int], None] | None = None
) -> Tokenizer:
    """Learn up to `merges` merges from `text`, the most frequent neighbours first.

    Args:
        text: what to learn from.
        merges: how many merges to learn; fewer come back if no pair is left that occurs twice.
        progress: called with (merges done, merges wanted) now and then.

    Returns:
        A tokenizer over bytes.
    """
    words = Counter(_pieces(text))
    learnt: list[Pair] = []
    known = set(_LETTERS)
    while len(learnt) < merges:
        counts: Counter[Pair] = Counter()
        for word, times in words.items():
            for pair in pairwise(word):
                counts[pair] += times
        # Two different pairs may spell the same token, and an engine wants each token once.
        fresh = [(-n, pair) for pair, n in counts.items() if n > 1 and "".join(pair) not in known]
        if not fresh:
            break
        pair = min(fresh)[1]
        learnt.append(pair)
        known.add("".join(pair))
        merged: Counter[tuple[str, ...]] = Counter()
        for word, times in words.items():
            merged[_joined(word, pair) if pair[0] in word else word] += times
        words = merged
        if progress is not None and len(learnt) % 50 == 0:
            progress(len(learnt), merges)
    return Tokenizer(tuple(learnt))
