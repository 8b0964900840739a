"""Build ONNX graphs and write them as bytes: the few protobuf messages of the format, without the ``onnx`` package.

Field numbers are those of the format's published schema (onnx.proto, IR version 8). Operators are those of opset 17.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np

IR_VERSION, OPSET = 8, 17
_TYPES = {np.dtype(np.float32): 1, np.dtype(np.int32): 6, np.dtype(np.int64): 7}

Attribute = int | float | str | Sequence[int]
Shape = Sequence[int | str]
"""Sides of a tensor; a name stands for a side of any length."""


class Graph:
    """A graph under construction. Values are named by strings; every method that makes one returns its name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._nodes: list[bytes] = []
        self._constants: list[bytes] = []
        self._inputs: list[bytes] = []
        self._outputs: list[bytes] = []
        self._count = 0

    def input(self, name: str, shape: Shape) -> str:
        """Declare a float32 input."""
        self._inputs.append(_value(name, shape))
        return name

    def output(self, name: str, value: str, shape: Shape) -> None:
        """Declare a value as a float32 output."""
        self.op("Identity", value, called=name)
        self._outputs.append(_value(name, shape))

    def constant(self, values: np.ndarray | Sequence[float] | float) -> str:
        """Add a constant; numbers that are no integers become float32."""
        array = np.asarray(values)
        if array.dtype not in (np.int32, np.int64):
            array = array.astype(np.float32)
        name = self._fresh("c")
        dims = b"".join(_integer(1, side) for side in array.shape)
        raw = _bytes(9, array.astype(array.dtype.newbyteorder("<")).tobytes())
        self._constants.append(dims + _integer(2, _TYPES[array.dtype]) + _bytes(8, name.encode()) + raw)
        return name

    def op(self, kind: str, *inputs: str | float, called: str = "", **attributes: Attribute) -> str:
        """Add an operator; a number among its inputs becomes a constant."""
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        return self._node(kind, names, [called or self._fresh("v")], attributes)[0]

    def split(self, value: str, axis: int, parts: int) -> list[str]:
        """Cut a value into single slices along an axis of ``parts`` slices."""
        names = [self._fresh("v") for _ in range(parts)]
        return self._node("Split", [value, self.constant(np.ones(parts, np.int64))], names, {"axis": axis})

    def _node(
        self, kind: str, inputs: Sequence[str], outputs: list[str], attributes: Mapping[str, Attribute]
    ) -> list[str]:
        fields = [_bytes(1, name.encode()) for name in inputs]
        fields += [_bytes(2, name.encode()) for name in outputs]
        fields += [_bytes(3, outputs[0].encode()), _bytes(4, kind.encode())]
        fields += [_bytes(5, _attribute(name, value)) for name, value in attributes.items()]
        self._nodes.append(b"".join(fields))
        return outputs

    def _fresh(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def model(self, metadata: Mapping[str, str], producer: str = "", note: str = "") -> bytes:
        """Return the file's bytes, with strings that describe the model (``metadata_props``)."""
        graph = [_bytes(1, node) for node in self._nodes]
        graph += [_bytes(2, self.name.encode())]
        graph += [_bytes(5, constant) for constant in self._constants]
        graph += [_bytes(11, value) for value in self._inputs]
        graph += [_bytes(12, value) for value in self._outputs]
        opset = _bytes(1, b"") + _integer(2, OPSET)
        about = [_bytes(14, _bytes(1, key.encode()) + _bytes(2, value.encode())) for key, value in metadata.items()]
        head = _integer(1, IR_VERSION) + _bytes(2, producer.encode()) + _bytes(6, note.encode())
        return head + _bytes(7, b"".join(graph)) + _bytes(8, opset) + b"".join(about)


# --- protobuf: a field is a key (number · 8 + wire type), then its content ------------------------------------------


def _varint(number: int) -> bytes:
    """Encode an integer in groups of seven bits, lowest first; negative ones as 64-bit two's complement."""
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _attribute(name: str, value: Attribute) -> bytes:
    """Encode an AttributeProto; field 20 states the kind."""
    head = _bytes(1, name.encode())
    if isinstance(value, str):
        return head + _bytes(4, value.encode()) + _integer(20, 3)
    if isinstance(value, float):
        return head + _varint(2 << 3 | 5) + struct.pack("<f", value) + _integer(20, 1)
    if isinstance(value, int):
        return head + _integer(3, value) + _integer(20, 2)
    return head + b"".join(_integer(8, number) for number in value) + _integer(20, 7)


def _value(name: str, shape: Shape) -> bytes:
    """Encode a ValueInfoProto of float32."""
    sides = [_bytes(2, side.encode()) if isinstance(side, str) else _integer(1, side) for side in shape]
    tensor = _integer(1, 1) + _bytes(2, b"".join(_bytes(1, side) for side in sides))
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, tensor))
