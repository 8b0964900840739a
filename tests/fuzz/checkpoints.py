"""Checkpoints: safetensors headers and the zip and pickle of published ones, mutated inside their containers."""

from __future__ import annotations

import io
import json
import pickle
import struct
import warnings
import zipfile
from random import Random
from typing import Any

from fuzz import plain

Members = list[tuple[str, bytes, int]]


def split_safetensors(data: bytes) -> tuple[dict[str, Any], bytes]:
    """(header, bytes of the tensors)."""
    length = struct.unpack_from("<Q", data)[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join_safetensors(header: str | dict[str, Any], rest: bytes, length: int | None = None) -> bytes:
    """The file again; ``length`` None: the header's own."""
    raw = (header if isinstance(header, str) else json.dumps(header)).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(raw) if length is None else length) + raw + rest


def _json_extreme(rng: Random) -> Any:
    """A value that does not belong there."""
    return rng.choice(
        (
            None, True, -1, 0, 1e308, 10**30, "", "x" * 5000, [], {}, [[]], {"a": {}}, float("nan"),
            plain.evil_unicode(rng), rng.choice(plain.INTEGERS),
        )
    )  # fmt: skip


def _change_config(text: str, rng: Random) -> str:
    """A model's configuration: a value replaced, removed or added, or no JSON at all."""
    try:
        config = json.loads(text)
    except ValueError:
        return text
    if not isinstance(config, dict) or not config or rng.random() < 0.2:
        return rng.choice(
            (
                "",
                "[",
                "null",
                "[" * 100000,
                '{"a":' * 3000,
                "1e400",
                "NaN",
                '"x"',
                plain.mutate(text.encode(), rng).decode("latin-1"),
            )
        )
    key = rng.choice(list(config))
    how = rng.randrange(4)
    if how == 0:
        config.pop(key)
    elif how == 1:
        config[plain.evil_unicode(rng)] = _json_extreme(rng)
    else:
        config[key] = rng.choice((_json_extreme(rng), rng.choice(plain.INTEGERS), [rng.choice(plain.INTEGERS)] * 3))
    return json.dumps(config)


def _change_entry(entry: dict[str, Any], size: int, rng: Random) -> None:
    """A tensor's line in the header."""
    how = rng.randrange(4)
    if how == 0:
        entry["dtype"] = rng.choice(("F16", "BF16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "F4", "", 7, None))
    elif how == 1:
        shape = list(entry.get("shape", []))
        changed = [rng.choice((0, -1, 1, 1 << 31, 1 << 62, 10**30, "3", None)), *shape[1:]]
        entry["shape"] = rng.choice((changed, [*shape, 1], shape[1:], [1] * 5000, None, shape[::-1]))
    elif how == 2:
        ends = [rng.choice((0, -1, size, size + 1, 1 << 62, 10**30)) for _ in range(rng.choice((1, 2, 2, 2, 3)))]
        entry["data_offsets"] = ends
    else:
        entry[rng.choice(("dtype", "shape", "data_offsets", "more"))] = _json_extreme(rng)


def mutate_safetensors(data: bytes, rng: Random) -> bytes:
    """Change the header, its length, or the numbers."""
    try:
        header, rest = split_safetensors(data)
    except (ValueError, struct.error):
        return plain.mutate(data, rng)
    how = rng.randrange(10)
    meta = header.get("__metadata__", {})
    names = [name for name in header if name != "__metadata__"]
    if how <= 2 and meta:
        key = rng.choice(list(meta))
        text = plain.evil_unicode(rng)
        meta[key] = rng.choice(
            (_change_config(meta[key], rng), text, str(rng.choice(plain.INTEGERS)), _json_extreme(rng))
        )
    elif how == 3 and "config" in meta:
        meta["config"] = _change_config(meta["config"], rng)
    elif how <= 5 and names:
        _change_entry(header[rng.choice(names)], len(rest), rng)
    elif how == 6 and names:
        name = rng.choice(names)
        entry = header.pop(name)
        if rng.random() < 0.7:
            header[rng.choice((plain.evil_unicode(rng), name.upper(), name + ".x"))] = entry
    elif how == 7:
        return join_safetensors(header, rest, rng.choice((*plain.INTEGERS, 1 << 62, (1 << 64) - 1, len(rest))))
    elif how == 8:
        at = rng.randrange(max(len(rest) // 4 - 8, 1)) * 4
        special = struct.pack("<f", rng.choice((float("nan"), float("inf"), 1e38, -1e38)))
        rest = rest[:at] + special * rng.choice((1, 8)) + rest[at + len(special) * 8 :]
    else:
        text = json.dumps(header)
        raw = rng.choice(("[" * 200000, text[:-1] + ',"a":{}}', text * 2, "{}", "[]", "null", '{"a":' * 50000))
        return join_safetensors(raw, rest)
    return join_safetensors(header, rest)


def split_zip(data: bytes) -> Members:
    """(name, content, compression) of each member."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(entry.filename, archive.read(entry), entry.compress_type) for entry in archive.infolist()]


def join_zip(members: Members) -> bytes:
    """The file again, with right CRCs."""
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w") as archive:
        warnings.simplefilter("ignore")  # of names that stand in it twice
        for name, content, how in members:
            archive.writestr(zipfile.ZipInfo(name or "x"), content, how)
    return out.getvalue()


# Pickles written by hand: all that they do has to be refused, in little time and memory.
_GLOBAL_SYSTEM = b"cos\nsystem\n"
PICKLES: dict[str, bytes] = {
    "run a command": b"\x80\x02" + _GLOBAL_SYSTEM + b"X\x04\0\0\0true\x85R.",
    "lists in lists": b"\x80\x02" + b"]" * 200_000 + b".",
    "tuples in tuples": b"\x80\x02)" + b"\x85" * 200_000 + b".",
    "marks": b"\x80\x02" + b"(" * 500_000 + b"t.",
    "memo index": b"\x80\x02]r\xff\xff\xff\x7f.",
    "memo index as text": b"\x80\x02]p4000000000\n.",
    "long of 2 GB": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "text of 4 GB": b"\x80\x02X\xff\xff\xff\xff.",
    "text of 2^63": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "frame of 2^63": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f].",
    "bytearray of 2^40": b"\x80\x05\x96\0\0\0\0\0\x01\0\0.",
    "power by reduce": b"\x80\x02cbuiltins\npow\nI10\nI1000000\n\x86R.",
    "digits": b"\x80\x02I" + b"9" * 300_000 + b"\n.",
    "empty": b"",
    "no stop": b"\x80\x02]",
    "stop at once": b".",
    "stack underflow": b"\x80\x02R.",
    "protocol 99": b"\x80\x63].",
    "doubling": b"\x80\x02]q\0" + b"(h\0h\0t]q\0a" * 2000 + b".",
    "dictionary of itself": b"\x80\x02}q\0X\x0a\0\0\0state_dicth\0s.",
    "set in state": b"\x80\x04}X\x0a\0\0\0state_dict\x8fs.",
    "extension registry": b"\x80\x02\x82\x01.",
    "persistent text": b"\x80\x02Phello\n.",
}


def hand_written(inverse: bool = True) -> bytes:
    """A pickle of {"state_dict": OrderedDict(one tensor), "hyper_parameters": {"inverse": …}}, opcode by opcode."""

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x04tQ"
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + b"K\0K\x02K\x02\x86K\x02K\x01\x86\x89ccollections\nOrderedDict\n)RtR"
    )
    state = b"ccollections\nOrderedDict\n)R" + text("embed_color.weight") + tensor + b"s"
    flag = b"}" + text("inverse") + (b"\x88" if inverse else b"\x89") + b"s"
    return b"\x80\x02}" + text("state_dict") + state + b"s" + text("hyper_parameters") + flag + b"s."


def small_ckpt() -> bytes:
    """A zip as torch writes it, of the hand-written pickle: a checkpoint that lacks most of its tensors."""
    stored = zipfile.ZIP_STORED
    members = [("a/data.pkl", hand_written(), stored), ("a/data/0", bytes(16), stored), ("a/version", b"3\n", stored)]
    return join_zip(members)


def _mutate_pickle(data: bytes, rng: Random) -> bytes:
    how = rng.randrange(5)
    if how == 0:
        return PICKLES[rng.choice(list(PICKLES))]
    if how == 1:  # an object more, somewhere between two opcodes that push
        extra = rng.choice(
            (b"]", b"}", b"(", b")", b"N", b"\x88", b"0", b"R", b"b", b"Q", b"h\0", _GLOBAL_SYSTEM, b".")
        )
        at = rng.randrange(len(data) + 1)
        return data[:at] + extra * rng.choice((1, 1, 2, 1000)) + data[at:]
    if how == 2:
        old, new = rng.choice(((b"K", b"M"), (b"FloatStorage", b"HalfStorage"), (b"torch._utils", b"os"), (b"X", b"U")))
        return data.replace(old, new, rng.choice((1, -1)))
    if how == 3:  # extreme integers where sizes stand
        at = max(data.find(b"K", rng.randrange(len(data) + 1)), 0)
        return data[:at] + pickle.dumps(rng.choice((-1, 1 << 31, 1 << 62, 10**30)), 2)[2:-1] + data[at + 2 :]
    return plain.mutate(data, rng)


def mutate_ckpt(data: bytes, rng: Random) -> bytes:
    """Change members of the zip, the pickle in it, or the zip's own structure."""
    try:
        members = split_zip(data)
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError):
        return plain.mutate(data, rng)
    pickles = [at for at, (name, _, _) in enumerate(members) if name.endswith("data.pkl")]
    at = rng.randrange(len(members))
    name, content, how = members[at]
    what = rng.randrange(10)
    if what <= 3 and pickles:
        name, content, how = members[pickles[0]]
        members[pickles[0]] = (name, _mutate_pickle(content, rng), how)
    elif what == 4:
        members[at] = (name, plain.mutate(content, rng), how)
    elif what == 5:  # a bomb
        at = rng.choice((at, *pickles))
        members[at] = (members[at][0], bytes(rng.choice((1, 30, 150)) << 20), zipfile.ZIP_DEFLATED)
    elif what == 6:
        new = rng.choice(
            ("../../x", "/etc/passwd", "a\x1b[2J/data.pkl", "b/data.pkl", "a/byteorder", "a/data/9" * 99, name)
        )
        members.append(
            (new, rng.choice((b"big", content, b"")), rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
        )
    elif what == 7:
        members.pop(at)
    else:
        return plain.mutate(data, rng) if rng.random() < 0.5 else _attack_directory(data, rng)
    return join_zip(members)


def _attack_directory(data: bytes, rng: Random) -> bytes:
    """Extremes in the central directory: sizes, offsets, flags, methods."""
    at = data.rfind(b"PK\x01\x02") if rng.random() < 0.5 else data.find(b"PK\x01\x02")
    if at < 0:
        return plain.mutate(data, rng)
    field, letter = rng.choice(((8, "H"), (10, "H"), (16, "I"), (20, "I"), (24, "I"), (28, "H"), (30, "H"), (42, "I")))
    out = bytearray(data)
    size = struct.calcsize("<" + letter)
    struct.pack_into("<" + letter, out, at + field, rng.choice(plain.INTEGERS) % (1 << 8 * size))
    return bytes(out)
