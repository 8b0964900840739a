"""Code four planes of indices beside the JPEG that shows them: predictions, contexts, and the entropy coder.

The order is ``lattice``'s, predictions come from ``predict``. A residual is coded in a context, the class of its
expected error. Small residuals have tables for each quarter that the prediction was rounded by; of large ones only the
upper bits have a table, and the lower bits are stored without a code.
"""

from __future__ import annotations

import lzma
import struct
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from paramisp_cli.errors import FormatError
from paramisp_cli.formats.kept import lattice, light, predict, rans
from paramisp_cli.formats.kept.lattice import MARGIN, Pass
from paramisp_cli.formats.kept.predict import Model

_CONTEXTS, _CLASSES = 20, 4
_PER_CONTEXT = 12000
"""Most contexts and classes of a pass, and least residuals of a context."""
_SAMPLED = 40_000
"""Samples of a pass that its model is fitted to."""
_FINE, _PHASES = 4.0, 2
"""Mean residual below which a context has two tables: for predictions near their rounding, and half-way ones."""
_POINT = light.FRACTION + predict.WEIGHT_BITS
_SYMBOLS, _MIDDLE, _ESCAPE = 256, 128, 0
_MOST_SHIFT = 14
_SECTIONS = 5
_MOST_MODEL = 64 << 20
_LZMA = [{"id": lzma.FILTER_LZMA2, "preset": 6}]


@dataclass(frozen=True, slots=True, eq=False)
class _Tables:
    """Contexts of a pass.

    limits      (contexts − 1,) expected error where the next context begins
    shifts      (contexts,) lower bits that are stored without a code
    phases      (contexts,) 1 or 2 tables
    frequencies (tables, 256), each of sum 2^12
    """

    limits: np.ndarray
    shifts: np.ndarray
    phases: np.ndarray
    frequencies: np.ndarray


@dataclass(slots=True)
class _Numbers:
    """A list of integer arrays as bytes, each preceded by its length; reading checks every length."""

    data: bytearray = field(default_factory=bytearray)
    at: int = 0

    def put(self, array: np.ndarray) -> None:
        self.data += struct.pack("<I", array.size) + np.ascontiguousarray(array, "<i4").tobytes()

    def get(self, most: int, least: int = 0) -> np.ndarray:
        if self.at + 4 > len(self.data):
            raise FormatError("its tables are cut short")
        (size,) = struct.unpack_from("<I", self.data, self.at)
        self.at += 4
        if not least <= size <= most or self.at + 4 * size > len(self.data):
            raise FormatError("its tables are damaged")
        found = np.frombuffer(self.data, "<i4", size, self.at).astype(np.int64)
        self.at += 4 * size
        return found


def encode(planes: list[np.ndarray], ycc: np.ndarray, cfa: str, tops: list[int]) -> bytes:
    """Encode planes of indices, uint16, each ≤ its top, beside the JPEG's pixels at all sites of the mosaic."""
    rows, columns = planes[0].shape
    size, numbers = (rows, columns), _Numbers()
    bits = light.chroma_bits(4 * rows * columns)
    tables = []
    for plane, samples in enumerate(planes):
        table = light.fit(samples.ravel(), _at(ycc, plane).reshape(-1, 3), bits, tops[plane])
        tables.append(table)
        numbers.put(np.diff(table, prepend=0))
    lights, known = _begun(tables, ycc, bits, size, tops)
    coded: list[tuple[np.ndarray, np.ndarray]] = []
    lows: list[bytes] = []
    escapes: list[np.ndarray] = []
    for each in lattice.passes(cfa):
        views = [view[: shape[0], : shape[1]] for view, shape in zip(
            each.views(known, (each.plane, 0, 0), rows, columns), each.shapes(rows, columns), strict=True)]  # fmt: skip
        samples = np.concatenate(
            [planes[each.plane][y :: each.period, x :: each.period].ravel() for y, x in each.offsets]
        )
        if not samples.size:
            continue
        symbols, index, tables_of = _encode_pass(
            each, samples, known, lights, size, tops[each.plane], numbers, lows, escapes
        )
        starts = np.cumsum(tables_of, 1) - tables_of
        flat = index * _SYMBOLS + symbols
        coded.append((tables_of.ravel()[flat].astype(np.uint16), starts.ravel()[flat].astype(np.uint16)))
        _store(views, samples)
    states, words = rans.encode(coded, rans.lanes_for(4 * rows * columns))
    model = lzma.compress(bytes(numbers.data), lzma.FORMAT_RAW, filters=_LZMA)
    escape = lzma.compress(b"".join(map(bytes, escapes)), lzma.FORMAT_RAW, filters=_LZMA) if escapes else b""
    sections = (model, states.astype("<u4").tobytes(), words.astype("<u2").tobytes(), b"".join(lows), escape)
    return struct.pack(f"<{_SECTIONS}Q", *map(len, sections)) + b"".join(sections)


def decode(data: bytes, ycc: np.ndarray, cfa: str, tops: list[int]) -> list[np.ndarray]:
    """Decode the bytes of ``encode``; FormatError if the data are damaged."""
    model, states, words, low, escape = _split(data)
    rows, columns = ycc.shape[0] // 2, ycc.shape[1] // 2
    size, bits = (rows, columns), light.chroma_bits(4 * rows * columns)
    numbers = _Numbers(bytearray(_unpacked(model, _MOST_MODEL)))
    nodes = int(np.prod(light.shape(bits)))
    tables = [np.cumsum(numbers.get(nodes, nodes)) for _ in tops]
    if any((np.abs(table) > 1 << 20).any() for table in tables):
        raise FormatError("its tables are damaged")
    lights, known = _begun(tables, ycc, bits, size, tops)
    lanes = rans.lanes_for(4 * rows * columns)
    if len(states) != 4 * lanes or len(words) % 2:
        raise FormatError("its data are cut short")
    decoder = rans.Decoder(np.frombuffer(states, "<u4"), np.frombuffer(words, "<u2"))
    rest = _Rest(
        low, np.frombuffer(_unpacked(escape, 16 * rows * columns + 64), "<i4") if escape else np.zeros(0, "<i4")
    )
    for each in lattice.passes(cfa):
        views = [view[: shape[0], : shape[1]] for view, shape in zip(
            each.views(known, (each.plane, 0, 0), rows, columns), each.shapes(rows, columns), strict=True)]  # fmt: skip
        if not any(view.size for view in views):
            continue
        _store(views, _decode_pass(each, known, lights, size, tops[each.plane], numbers, decoder, rest))
    decoder.finish()
    return [plane[MARGIN : MARGIN + rows, MARGIN : MARGIN + columns] for plane in known]


def model_bytes(data: bytes) -> int:
    """Return the bytes of encoded data that do not grow with the picture: tables, weights, states."""
    model, states, *_ = _split(data)
    return len(model) + len(states)


def _at(ycc: np.ndarray, plane: int) -> np.ndarray:
    return ycc[plane // 2 :: 2, plane % 2 :: 2]


def _begun(
    tables: list[np.ndarray], ycc: np.ndarray, bits: int, size: tuple[int, int], tops: list[int]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the JPEG's prediction of each plane, and the planes known so far: its rounding."""
    lights = [light.plane(table, _at(ycc, plane), bits, *size) for plane, table in enumerate(tables)]
    half = 1 << (light.FRACTION - 1)
    known = [((a + half) >> light.FRACTION).clip(0, top).astype(np.uint16) for a, top in zip(lights, tops, strict=True)]
    return lights, known


def _store(views: list[np.ndarray], samples: np.ndarray) -> None:
    """Write the samples of a pass into the known planes."""
    at = 0
    for view in views:
        view[...] = samples[at : at + view.size].reshape(view.shape)
        at += view.size


def _rounded(prediction: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (nearest index, quarter of the rounding: 0 and 1 below the index, 2 and 3 above it)."""
    quarters = (prediction + (1 << (_POINT - 1))) >> (_POINT - 2)
    return (quarters >> 2).clip(0, top), quarters & 3


def _table_index(context: np.ndarray, quarter: np.ndarray, phases: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (row of ``frequencies`` of each residual, its sign in this row).

    Residuals of predictions above their rounding are negated: then they are distributed as the others are.
    """
    fine = phases[context] > 1
    row = (np.cumsum(phases) - phases)[context] + (fine & ((quarter == 0) | (quarter == 3)))
    return row, np.where(fine & (quarter > 1), -1, 1)


def _encode_pass(
    each: Pass, samples: np.ndarray, known: list[np.ndarray], lights: list[np.ndarray], size: tuple[int, int], top: int,
    numbers: _Numbers, lows: list[bytes], escapes: list[np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Fit the model of a pass, store it, and return (symbols, table of each, frequencies)."""
    every = max(1, len(samples) // _SAMPLED)
    sampled = [(samples[part], features) for part, features in predict.bands(each, known, lights, size, top, every)]
    model = predict.fit(each, sampled, _CLASSES)
    nearest, quarter, error = _predicted(model, each, known, lights, size, top, len(samples))
    residual = samples.astype(np.int64) - nearest
    contexts = int(np.clip(len(samples) // _PER_CONTEXT, 1, _CONTEXTS))
    limits = np.unique(
        np.quantile(error[:: max(1, len(error) // 250_000)], np.arange(1, contexts) / contexts).astype(np.int64)
    )
    context = np.searchsorted(limits, error, side="right")
    contexts = len(limits) + 1
    mean = np.bincount(context, np.abs(residual), contexts) / np.maximum(np.bincount(context, minlength=contexts), 1)
    shifts = np.floor(np.log2(np.maximum(mean, 1) / _FINE)).clip(0, _MOST_SHIFT).astype(np.int64)
    phases = np.where((mean < _FINE) & (np.bincount(context, minlength=contexts) > _PER_CONTEXT), _PHASES, 1)
    index, sign = _table_index(context, quarter, phases)
    residual *= sign
    upper = residual >> shifts[context]
    symbols = upper + _MIDDLE
    out = (symbols <= _ESCAPE) | (symbols >= _SYMBOLS)
    symbols[out] = _ESCAPE
    if out.any():
        escapes.append(upper[out].astype("<i4"))
    for shift in np.unique(shifts[shifts > 0]):
        lower = residual[shifts[context] == shift] & ((1 << int(shift)) - 1)
        lows.append(np.packbits((lower[:, None] >> np.arange(shift)).astype(np.uint8) & 1).tobytes())
    counts = np.bincount(index * _SYMBOLS + symbols, minlength=int(phases.sum()) * _SYMBOLS).reshape(-1, _SYMBOLS)
    frequencies = np.stack(
        [rans.normalised(row if row.any() else np.eye(1, _SYMBOLS, _MIDDLE)[0].astype(int)) for row in counts]
    )
    _put_model(numbers, model)
    _put_tables(numbers, _Tables(limits, shifts, phases, frequencies))
    return symbols, index, frequencies


@dataclass(slots=True)
class _Rest:
    """Lower bits and escaped values, read from their beginnings."""

    low: bytes
    escapes: np.ndarray
    low_at: int = 0
    escapes_at: int = 0

    def bits(self, number: int, shift: int) -> np.ndarray:
        """Return ``number`` values of ``shift`` bits."""
        length = (number * shift + 7) // 8
        if self.low_at + length > len(self.low):
            raise FormatError("its data end too early")
        packed = np.frombuffer(self.low, np.uint8, length, self.low_at)
        self.low_at += length
        return np.unpackbits(packed, count=number * shift).reshape(number, shift).astype(np.int64) @ (
            1 << np.arange(shift)
        )

    def escaped(self, number: int) -> np.ndarray:
        """Return the next escaped values."""
        if self.escapes_at + number > len(self.escapes):
            raise FormatError("its data end too early")
        self.escapes_at += number
        return self.escapes[self.escapes_at - number : self.escapes_at].astype(np.int64)


def _decode_pass(
    each: Pass, known: list[np.ndarray], lights: list[np.ndarray], size: tuple[int, int], top: int,
    numbers: _Numbers, decoder: rans.Decoder, rest: _Rest,
) -> np.ndarray:  # fmt: skip
    """Return the samples of a pass."""
    model = _get_model(numbers, predict.count(each))
    tables = _get_tables(numbers)
    number = sum(a * b for a, b in each.shapes(*size))
    nearest, quarter, error = _predicted(model, each, known, lights, size, top, number)
    context = np.searchsorted(tables.limits, error, side="right")
    index, sign = _table_index(context, quarter, tables.phases)
    symbols = decoder.decode(index, tables.frequencies)
    upper = symbols.astype(np.int64) - _MIDDLE
    out = symbols == _ESCAPE
    if out.any():
        upper[out] = rest.escaped(int(out.sum()))
    shifts = tables.shifts[context]
    residual = upper << shifts
    for shift in np.unique(tables.shifts[tables.shifts > 0]):
        chosen = shifts == shift
        residual[chosen] |= rest.bits(int(chosen.sum()), int(shift))
    samples: np.ndarray = nearest + sign * residual
    if samples.min() < 0 or samples.max() > top:
        raise FormatError("its data do not decode")
    return samples


def _predicted(
    model: Model,
    each: Pass,
    known: list[np.ndarray],
    lights: list[np.ndarray],
    size: tuple[int, int],
    top: int,
    number: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (nearest index, quarter, expected error) of all samples of a pass."""
    nearest, quarter, error = np.empty(number, np.int64), np.empty(number, np.uint8), np.empty(number, np.int64)
    for part, features in predict.bands(each, known, lights, size, top):
        prediction, error[part] = predict.predict(model, features)
        nearest[part], quarter[part] = _rounded(prediction, top)
    return nearest, quarter, error


# --- models as bytes --------------------------------------------------------------------------------------------------


def _put_model(numbers: _Numbers, model: Model) -> None:
    for array in (model.limits, model.weights, model.level_error, model.doubt_share):
        numbers.put(array)


def _get_model(numbers: _Numbers, features: int) -> Model:
    limits = numbers.get(_CLASSES)
    weights = numbers.get((len(limits) + 1) * features, (len(limits) + 1) * features).reshape(-1, features)
    level_error = numbers.get(predict.LEVELS, predict.LEVELS)
    share = numbers.get(3, 3)
    if (np.diff(limits) <= 0).any() or np.abs(weights).max() > 1 << 20:
        raise FormatError("its tables are damaged")
    return Model(limits, weights, level_error, share)


def _put_tables(numbers: _Numbers, tables: _Tables) -> None:
    for array in (tables.limits, tables.shifts, tables.phases):
        numbers.put(array)
    for row in tables.frequencies:
        used = np.flatnonzero(row)
        numbers.put(np.array([used[0]]))
        numbers.put(row[used[0] : used[-1] + 1])


def _get_tables(numbers: _Numbers) -> _Tables:
    limits = numbers.get(_CONTEXTS)
    contexts = len(limits) + 1
    shifts, phases = numbers.get(contexts, contexts), numbers.get(contexts, contexts)
    sound = (np.diff(limits) > 0).all() and ((shifts >= 0) & (shifts <= _MOST_SHIFT)).all()
    if not sound or not np.isin(phases, (1, _PHASES)).all():
        raise FormatError("its tables are damaged")
    frequencies = np.zeros((int(phases.sum()), _SYMBOLS), np.int64)
    for row in frequencies:
        (first,) = numbers.get(1, 1)
        some = numbers.get(_SYMBOLS, 1)
        if not 0 <= first <= _SYMBOLS - len(some) or (some < 0).any() or some.sum() != rans.TOTAL:
            raise FormatError("its tables are damaged")
        row[first : first + len(some)] = some
    return _Tables(limits, shifts, phases, frequencies)


def _split(data: bytes) -> list[bytes]:
    """Return the sections of encoded data."""
    head = struct.calcsize(f"<{_SECTIONS}Q")
    lengths = struct.unpack_from(f"<{_SECTIONS}Q", data) if len(data) >= head else (len(data) + 1,)
    if head + sum(lengths) != len(data):
        raise FormatError("its data are cut short")
    ends = np.cumsum([head, *lengths]).tolist()
    return [data[a:b] for a, b in pairwise(ends)]


def _unpacked(data: bytes, most: int) -> bytes:
    """Decompress at most ``most`` bytes."""
    try:
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_LZMA)
        found = decompressor.decompress(data, most + 1)
    except lzma.LZMAError as error:
        raise FormatError("its tables are damaged") from error
    if len(found) > most:
        raise FormatError("its tables are larger than allowed")
    return found
