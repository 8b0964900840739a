"""Range asymmetric numeral systems (Duda, 2009), interleaved: numpy codes one symbol of every lane at once.

A state is an integer in [2^16, 2^32). A symbol of frequency f (of 2^12) makes it about 2^12 / f times larger; its
lower 16 bits leave it as a word before it would exceed 32 bits. Symbols are encoded from the last to the first and
decoded from the first. All arithmetic is on integers, so that every machine decodes alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paramisp_cli.errors import FormatError

BITS = 12
TOTAL = 1 << BITS
_LOW = 1 << 16


def lanes_for(symbols: int) -> int:
    """Return the number of lanes for a number of symbols: each costs 4 bytes."""
    return int(np.clip(symbols // 2048, 1, 4096))


def normalised(counts: np.ndarray) -> np.ndarray:
    """Return frequencies (n,) with the sum 2^12, in proportion to counts, at least 1 for every count above 0."""
    present = counts > 0
    frequencies = np.where(present, np.maximum(counts * TOTAL // max(int(counts.sum()), 1), 1), 0)
    while (excess := int(frequencies.sum()) - TOTAL) != 0:
        largest = int(frequencies.argmax())
        change = max(-excess, 1 - int(frequencies[largest])) if excess > 0 else -excess
        frequencies[largest] += change
        if change == 0:
            raise ValueError("more symbols than frequencies")
    return frequencies


def encode(passes: Sequence[tuple[np.ndarray, np.ndarray]], lanes: int) -> tuple[np.ndarray, np.ndarray]:
    """Encode passes of symbols, each (frequency, start) per symbol → (states (lanes,) uint32, words uint16)."""
    state = np.full(lanes, _LOW, np.uint64)
    words: list[np.ndarray] = []
    for frequencies, starts in reversed(passes):
        for first in range((len(frequencies) - 1) // lanes * lanes if len(frequencies) else -1, -1, -lanes):
            f, c = frequencies[first : first + lanes].astype(np.uint64), starts[first : first + lanes].astype(np.uint64)
            x = state[: len(f)]
            over = x >= f << np.uint64(32 - BITS)
            words.append((x[over] & np.uint64(0xFFFF)).astype(np.uint16))
            x = np.where(over, x >> np.uint64(16), x)
            quotient = x // f
            state[: len(f)] = (quotient << np.uint64(BITS)) + (x - quotient * f) + c
    stream = np.concatenate(words[::-1]) if words else np.zeros(0, np.uint16)
    return state.astype(np.uint32), stream


class Decoder:
    """Decode the passes of ``encode`` one after the other; ``finish`` checks that exactly everything was used."""

    def __init__(self, states: np.ndarray, words: np.ndarray) -> None:
        self.state, self.at, self.count = states.astype(np.uint64), 0, len(words)
        self.words = np.concatenate([words.astype(np.uint64), np.zeros(len(states), np.uint64)])

    def decode(self, tables: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
        """Return the symbols (n,) of a pass: ``tables`` (n,) is each symbol's row in ``frequencies`` (rows, symbols).

        Raises FormatError if the words end.
        """
        starts = np.cumsum(frequencies, 1) - frequencies
        symbol_of = np.repeat(np.tile(np.arange(frequencies.shape[1]), len(frequencies)), frequencies.ravel())
        symbol_of = symbol_of.astype(np.uint16)  # (rows · 2^12,)
        flat_f, flat_c = frequencies.ravel().astype(np.uint64), starts.ravel().astype(np.uint64)
        width, lanes = frequencies.shape[1], len(self.state)
        out = np.empty(len(tables), np.uint16)
        base, bits, mask, sixteen = tables.astype(np.int64), np.uint64(BITS), np.uint64(TOTAL - 1), np.uint64(16)
        for first in range(0, len(tables), lanes):
            row = base[first : first + lanes]
            x = self.state[: len(row)]
            slot = x & mask
            symbol = symbol_of[row * TOTAL + slot.astype(np.int64)]
            index = row * width + symbol
            x = flat_f[index] * (x >> bits) + slot - flat_c[index]
            need = np.flatnonzero(x < _LOW)
            if self.at + len(need) > self.count:
                raise FormatError("its data end too early")
            x[need] = x[need] << sixteen | self.words[self.at : self.at + len(need)]
            self.at += len(need)
            self.state[: len(row)] = x
            out[first : first + lanes] = symbol
        return out

    def finish(self) -> None:
        """Raise FormatError unless all words are used and all states are back at their beginning."""
        if self.at != self.count or (self.state != _LOW).any():
            raise FormatError("its data do not decode")
