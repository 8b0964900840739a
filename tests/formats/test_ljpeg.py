"""Lossless JPEG tiles, decoded by a slow decoder written from T.81 alone; LibRaw and the Adobe SDK are in test_dng."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from paramisp_cli.formats import ljpeg

RNG = np.random.default_rng(5)


def _decode(stream: bytes) -> np.ndarray:
    """(H, W) samples of a two-component SOF3 stream with predictor 1."""
    assert stream[:2] == b"\xff\xd8"
    assert stream[-2:] == b"\xff\xd9"
    at, codes, frame = 2, {}, None
    while True:
        marker, length = struct.unpack(">HH", stream[at : at + 4])
        segment = stream[at + 4 : at + 2 + length]
        at += 2 + length
        if marker == 0xFFC3:
            frame = struct.unpack(">BHHB", segment[:6])
            assert frame[3] == 2
        elif marker == 0xFFC4:
            assert segment[0] == 0
            code, symbols = 0, iter(segment[17:])
            for bits, count in enumerate(segment[1:17], 1):
                for _ in range(count):
                    codes[bits, code] = next(symbols)
                    code += 1
                assert code < 1 << bits, "a code of all ones"
                code <<= 1
        elif marker == 0xFFDA:
            assert segment[-3:] == bytes((1, 0, 0))
            break
    data = stream[at:-2]
    assert b"\xff" not in data.replace(b"\xff\x00", b"")
    data = data.replace(b"\xff\x00", b"\xff")
    stream_bits = "".join(f"{byte:08b}" for byte in data)
    precision, height, width = frame[:3]
    out, place = np.zeros((height, width * 2), np.int64), 0
    for y in range(height):
        for x in range(width * 2):
            code = bits = 0
            while (bits, code) not in codes:
                code = code << 1 | int(stream_bits[place])
                place, bits = place + 1, bits + 1
                assert bits <= 16
            category = codes[bits, code]
            difference = 32768 if category == 16 else 0
            if 0 < category < 16:
                difference = int(stream_bits[place : place + category], 2)
                place += category
                difference -= (1 << category) - 1 if difference < 1 << (category - 1) else 0
            above = out[y - 1, x] if y else 1 << (precision - 1)
            out[y, x] = ((out[y, x - 2] if x > 1 else above) + difference) & 0xFFFF
    rest = stream_bits[place:]
    assert len(rest) < 8
    assert set(rest) <= {"1"}
    return out.astype(np.uint16)


def _tiles() -> dict[str, np.ndarray]:
    ramp = np.add.outer(np.arange(32) * 13, np.arange(48) * 7)
    return {
        "1x2": np.array([[0, 65535]]),
        "flat": np.full((16, 64), 1234),
        "zero": np.zeros((8, 8)),
        "mid": np.full((8, 8), 32768),  # the prediction itself: not one extra bit
        "noise": RNG.integers(0, 65536, (40, 64)),
        "alternating": np.tile([[0, 0, 65535, 65535]], (16, 8)),
        "category 16": np.tile([[0, 0, 32768, 32768]], (16, 8)),
        "checkers": np.indices((16, 32)).sum(0) % 2 * 65535,
        "photograph": ramp + RNG.normal(0, 20, ramp.shape) + 512,
        "one column pair": RNG.integers(0, 4096, (33, 2)),
        "one row": RNG.integers(0, 4096, (1, 300)),
        "tiny differences": RNG.integers(0, 2, (64, 64)) + 99,
        "one outlier": np.where(np.arange(4096).reshape(64, 64) == 2000, 65535, 7),
    }


@pytest.mark.parametrize("name", _tiles())
def test_decodes_to_the_same_samples(name: str) -> None:
    tile = _tiles()[name].astype(np.uint16)
    np.testing.assert_array_equal(_decode(ljpeg.encode(tile)), tile)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_fewer_bits(bits: int) -> None:
    tile = RNG.integers(0, 1 << bits, (16, 32)).astype(np.uint16)
    stream = ljpeg.encode(tile, bits)
    assert stream[6] == bits
    np.testing.assert_array_equal(_decode(stream), tile)


def test_a_foreign_codebook_serves_any_tile() -> None:
    book = ljpeg.codebook(ljpeg.histogram(np.zeros((16, 16), np.uint16)))
    for name, values in _tiles().items():
        tile = values.astype(np.uint16)
        np.testing.assert_array_equal(_decode(ljpeg.encode(tile, book=book)), tile, err_msg=name)


def test_views_and_read_only_tiles() -> None:
    mosaic = RNG.integers(0, 65536, (40, 60)).astype(np.uint16)
    mosaic.setflags(write=False)
    np.testing.assert_array_equal(_decode(ljpeg.encode(mosaic[3:19, 5:25])), mosaic[3:19, 5:25])
    np.testing.assert_array_equal(_decode(ljpeg.encode(mosaic[::2, ::-1])), mosaic[::2, ::-1])


def test_smaller_tiles_after_larger_ones_reuse_the_buffers() -> None:
    for size in (64, 16, 48, 2):
        tile = RNG.integers(0, 65536, (size, size)).astype(np.uint16)
        np.testing.assert_array_equal(_decode(ljpeg.encode(tile)), tile)


def test_random_shapes() -> None:
    for _ in range(40):
        height, pairs, scale = RNG.integers(1, 12), RNG.integers(1, 12), 2.0 ** RNG.uniform(0, 16)
        tile = RNG.integers(0, max(1, int(scale)), (height, 2 * pairs)).astype(np.uint16)
        np.testing.assert_array_equal(_decode(ljpeg.encode(tile)), tile)


@pytest.mark.parametrize("counts", [[0] * 17, [2**k for k in range(17)], [10**9] + [0] * 16, [1] * 17])
def test_codes_are_prefix_free_short_and_not_all_ones(counts: list[int]) -> None:
    lengths = ljpeg.codebook(np.array(counts)).lengths
    assert lengths.min() >= 1
    assert lengths.max() <= 11
    kraft = sum(2.0 ** -int(length) for length in lengths)
    assert kraft <= 1 - 2.0 ** -int(lengths.max())


def test_the_code_is_as_short_as_entropy_allows() -> None:
    counts = np.array([500, 400, 300, 200, 100, 50, 20, 5, 2, 1, 0, 0, 0, 0, 0, 0, 0])
    share = counts[counts > 0] / counts.sum()
    entropy = -(share * np.log2(share)).sum()
    mean = (ljpeg.codebook(counts).lengths * counts).sum() / counts.sum()
    assert entropy <= mean < entropy + 0.1


@pytest.mark.parametrize(
    "tile",
    [np.zeros((4, 3), np.uint16), np.zeros((0, 2), np.uint16), np.zeros((2, 2), np.int32), np.zeros(4, np.uint16)],
)
def test_what_is_not_a_tile_is_refused(tile: np.ndarray) -> None:
    with pytest.raises(ValueError, match="tile"):
        ljpeg.encode(tile)
