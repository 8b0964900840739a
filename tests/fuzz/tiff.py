"""TIFF structures: build one from tags, and mutate the entries of an existing one in place (EXIF, TIFF, DNG, NEF)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from fuzz import plain

LETTERS = {
    1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 6: "b", 7: "B", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d", 13: "I",
}  # fmt: skip
SUB_IFDS, EXIF, GPS, INTEROP, MAKER_NOTE = 330, 34665, 34853, 40965, 37500
POINTERS = (SUB_IFDS, EXIF, GPS, INTEROP)

TAGS = (
    254, 256, 257, 258, 259, 262, 270, 271, 272, 273, 274, 277, 278, 279, 282, 284, 305, 306, 317, 320, 322, 323, 324,
    325, 330, 338, 339, 347, 513, 514, 529, 530, 700, 33421, 33422, 33434, 33437, 34665, 34675, 34853, 34855, 37386,
    37500, 37510, 40961, 40962, 40965, 50706, 50707, 50708, 50710, 50711, 50712, 50713, 50714, 50715, 50716, 50717,
    50718, 50719, 50720, 50721, 50722, 50723, 50727, 50728, 50729, 50730, 50740, 50741, 50778, 50779, 50780, 50827,
    50828, 50829, 50830, 50908, 50936, 50940, 50964, 50966, 51008, 51009, 51022, 51041, 51111, 51112,
)  # fmt: skip
"""Tags that readers act on: geometry, strips, tiles, CFA, levels, matrices, crops, opcodes, digests."""

Value = bytes | str | Sequence[float]


def _packed(order: str, kind: int, value: Value) -> tuple[int, bytes]:
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogatepass") + b"\0"
    if isinstance(value, bytes):
        return len(value), value
    letters = LETTERS[kind]
    count = len(value) // len(letters)
    whole = letters[0] not in "fd"
    return count, struct.pack(order + letters * count, *(int(v) if whole else v for v in value))


def build(
    ifds: Sequence[Mapping[int, tuple[int, Value | Sequence[Mapping[int, tuple[int, Value]]]]]],
    order: str = "<",
    blocks: Sequence[bytes] = (),
) -> bytes:
    """A TIFF of chained IFDs {tag: (type, value)}; type 0: the value is a list of IFDs to point to.

    ``blocks`` stand after the header; ("block", n) as a value of type 4 is not needed: the first begins at byte 8 and
    each begins on an even byte (``block_offsets``).
    """
    out = bytearray({"<": b"II*\0", ">": b"MM\0*"}[order] + bytes(4))
    for block in blocks:
        out += block + bytes(len(block) % 2)
    link = 4
    for ifd in ifds:
        struct.pack_into(order + "I", out, link, len(out))
        link = _append(out, ifd, order)
    return bytes(out)


def block_offsets(blocks: Sequence[bytes]) -> list[int]:
    """Where ``build`` puts the blocks."""
    offsets, at = [], 8
    for block in blocks:
        offsets.append(at)
        at += len(block) + len(block) % 2
    return offsets


def _append(out: bytearray, ifd: Mapping[int, tuple[int, object]], order: str) -> int:
    """Add an IFD with all that it points to → position of its link to the next."""
    start = len(out)
    out += struct.pack(order + "H", len(ifd)) + bytes(12 * len(ifd) + 4)
    for number, (tag, (kind, value)) in enumerate(sorted(ifd.items())):
        if kind == 0:
            offsets = []
            for sub in value:  # type: ignore[attr-defined]
                offsets.append(len(out))
                _append(out, sub, order)
            kind, value = 4, offsets  # noqa: PLW2901
        count, data = _packed(order, kind, value)  # type: ignore[arg-type]
        field = data.ljust(4, b"\0")
        if len(data) > 4:
            field = struct.pack(order + "I", len(out))
            out += data + bytes(len(data) % 2)
        out[start + 2 + 12 * number : start + 14 + 12 * number] = struct.pack(order + "HHI", tag, kind, count) + field
    return start + 2 + 12 * len(ifd)


@dataclass(frozen=True)
class Slot:
    """An entry of an IFD and where things stand: the entry itself, its IFD, its value's bytes."""

    ifd: int
    at: int
    tag: int
    kind: int
    count: int
    value: int
    length: int


class Tiff:
    """A TIFF structure inside ``data`` at ``base``, to be changed in place."""

    def __init__(self, data: bytes, base: int = 0) -> None:
        self.data, self.base = bytearray(data), base
        self.order = ">" if data[base : base + 2] == b"MM" else "<"
        self.slots: list[Slot] = []
        self.ifds: list[int] = []
        if len(data) >= base + 8:
            self._walk(base + self.get("I", base + 4), base)

    def get(self, letter: str, at: int) -> int:
        """An integer at a byte; 0 beyond the end."""
        size = struct.calcsize(letter)
        return struct.unpack_from(self.order + letter, self.data, at)[0] if 0 <= at <= len(self.data) - size else 0

    def put(self, letter: str, at: int, value: int) -> None:
        """Write an integer at a byte, if that lies inside."""
        size = struct.calcsize(letter)
        if 0 <= at <= len(self.data) - size:
            struct.pack_into(self.order + letter, self.data, at, value % (1 << 8 * size))

    def _walk(self, ifd: int, base: int) -> None:
        while self.base < ifd < len(self.data) - 2 and ifd not in self.ifds and len(self.ifds) < 64:
            self.ifds.append(ifd)
            count = min(self.get("H", ifd), 512)
            for at in range(ifd + 2, ifd + 2 + 12 * count, 12):
                tag, kind, number = self.get("H", at), self.get("H", at + 2), self.get("I", at + 4)
                length = struct.calcsize("<" + LETTERS.get(kind, "B")) * number
                value = at + 8 if length <= 4 else base + self.get("I", at + 8)
                slot = Slot(ifd, at, tag, kind, number, value, length)
                self.slots.append(slot)
                self._follow(slot, base)
            ifd = base + self.get("I", ifd + 2 + 12 * count)
            if ifd == base:
                return

    def _follow(self, slot: Slot, base: int) -> None:
        if slot.tag in POINTERS:
            for number in range(min(slot.count, 16)):
                self._walk(base + self.get("I", slot.value + 4 * number), base)
        elif slot.tag == MAKER_NOTE and self.data[slot.value : slot.value + 6] == b"Nikon\0":
            self._walk(slot.value + 10 + self.get("I", slot.value + 14), slot.value + 10)
        elif slot.tag == MAKER_NOTE:
            self._walk(slot.value, base)

    def slot(self, rng: Random) -> Slot | None:
        """An entry, preferably one that readers act on."""
        liked = [slot for slot in self.slots if slot.tag in TAGS]
        pool = liked if liked and rng.random() < 0.7 else self.slots
        return rng.choice(pool) if pool else None


def change_type(tiff: Tiff, slot: Slot, rng: Random) -> None:
    """Give the entry another type."""
    tiff.put("H", slot.at + 2, rng.choice((*range(19), 129, 255, 65535)))


def change_count(tiff: Tiff, slot: Slot, rng: Random) -> None:
    """Give the entry another count."""
    few = rng.randrange(0, 16)
    tiff.put("I", slot.at + 4, rng.choice((few, slot.count + 1, max(slot.count - 1, 0), rng.choice(plain.INTEGERS))))


def change_tag(tiff: Tiff, slot: Slot, rng: Random) -> None:
    """Turn the entry into another one."""
    tiff.put("H", slot.at, rng.choice((*TAGS, rng.randrange(65536))))


def change_field(tiff: Tiff, slot: Slot, rng: Random) -> None:
    """Overwrite the value or its offset."""
    new = rng.choice((rng.choice(plain.INTEGERS), slot.ifd - tiff.base, len(tiff.data) - tiff.base - rng.randrange(9)))
    tiff.put("I", slot.at + 8, new)


def change_elements(tiff: Tiff, slot: Slot, rng: Random) -> None:
    """Overwrite one or all elements of the value with extremes of its type."""
    letters = LETTERS.get(slot.kind, "B").replace("s", "B")
    size = struct.calcsize("<" + letters)
    which = range(min(slot.count, 64)) if rng.random() < 0.3 else [rng.randrange(max(min(slot.count, 4096), 1))]
    special = rng.choice((0.0, -0.0, 1e-30, -1.0, 1e30, float("nan"), float("inf"), float("-inf")))
    numbers = [rng.choice((rng.choice(plain.INTEGERS), rng.randrange(32))) for _ in letters]
    for number in which:
        at = slot.value + size * number
        if not 0 <= at <= len(tiff.data) - size:
            continue
        if letters in "fd":
            struct.pack_into(tiff.order + letters, tiff.data, at, special)
        else:
            for part, letter in enumerate(letters):
                tiff.put(letter.upper(), at + size // len(letters) * part, numbers[part])


def change_bytes(tiff: Tiff, slot: Slot, rng: Random) -> None:
    """Mutate the value's bytes, length unchanged."""
    end = min(slot.value + slot.length, len(tiff.data))
    if 0 <= slot.value < end:
        old = bytes(tiff.data[slot.value : end])
        tiff.data[slot.value : end] = plain.mutate(old, rng)[: len(old)].ljust(len(old), b"\0")


def change_text(tiff: Tiff, slot: Slot, rng: Random) -> None:
    """Make the entry an evil text, which goes to the end of the data."""
    text = plain.evil_bytes(rng) + rng.choice((b"\0", b"", b"\0\0\0"))
    tiff.put("H", slot.at + 2, rng.choice((2, 2, 7, 129)))
    tiff.put("I", slot.at + 4, len(text))
    if len(text) <= 4:
        tiff.data[slot.at + 8 : slot.at + 12] = text.ljust(4, b"\0")
    else:
        tiff.put("I", slot.at + 8, len(tiff.data) - tiff.base)
        tiff.data += text


def loop(tiff: Tiff, slot: Slot, rng: Random) -> None:
    """Make the entry point to an IFD: its own, another, or one inside itself; or many times to them."""
    tiff.put("H", slot.at, rng.choice(POINTERS))
    tiff.put("H", slot.at + 2, rng.choice((4, 13)))
    count = rng.choice((1, 1, 2, 16, 1000))
    tiff.put("I", slot.at + 4, count)
    if count == 1:
        tiff.put("I", slot.at + 8, rng.choice((*tiff.ifds, slot.at)) - tiff.base)
        return
    tiff.put("I", slot.at + 8, len(tiff.data) - tiff.base)
    targets = [rng.choice((*tiff.ifds, slot.at)) - tiff.base for _ in range(count)]
    tiff.data += struct.pack(f"{tiff.order}{count}I", *targets)


def chain(tiff: Tiff, slot: Slot, rng: Random) -> None:
    """Link the IFD to another IFD, or give it another number of entries."""
    count = tiff.get("H", slot.ifd)
    if rng.random() < 0.5:
        tiff.put("I", slot.ifd + 2 + 12 * count, rng.choice((*tiff.ifds, len(tiff.data) - 2)) - tiff.base)
    else:
        tiff.put("H", slot.ifd, rng.choice((0, count - 1, count + 1, 512, 4096, 65535)))


def move_ifd(tiff: Tiff, slot: Slot, rng: Random) -> None:
    """Copy the IFD to the end with an entry more or less, or in another order, and let its pointer follow."""
    count = tiff.get("H", slot.ifd)
    entries = [
        bytes(tiff.data[at : at + 12]).ljust(12, b"\0")
        for at in range(slot.ifd + 2, slot.ifd + 2 + 12 * min(count, 512), 12)
    ]
    after = bytes(tiff.data[slot.ifd + 2 + 12 * count : slot.ifd + 6 + 12 * count]).ljust(4, b"\0")
    how = rng.randrange(5)
    if how == 0 and entries:
        entries.pop(rng.randrange(len(entries)))
    elif how == 1:
        rng.shuffle(entries)
    elif how == 2 and entries:
        entries += [rng.choice(entries)] * rng.choice((1, 2, 300))
    else:
        tag, kind = rng.choice((*TAGS, *TAGS, rng.randrange(65536))), rng.choice((1, 2, 3, 4, 4, 5, 7, 10, 11, 12))
        few = rng.choice((0, 1, 2, 3, 4, 9, 12, rng.choice(plain.INTEGERS)))
        value = rng.choice((rng.choice(plain.INTEGERS), rng.randrange(len(tiff.data))))
        entries.append(struct.pack(tiff.order + "HHII", tag, kind, few, value))
        if how == 3:
            entries.sort(key=lambda raw: struct.unpack_from(tiff.order + "H", raw)[0])
    old, new = slot.ifd - tiff.base, len(tiff.data) - tiff.base
    tiff.data += struct.pack(tiff.order + "H", len(entries)) + b"".join(entries) + after
    pointers = [tiff.base + 4, *(each.value for each in tiff.slots if each.tag in POINTERS)]
    for at in pointers:
        if tiff.get("I", at) == old:
            tiff.put("I", at, new)


CHANGES: tuple[Callable[[Tiff, Slot, Random], None], ...] = (
    change_type, change_count, change_tag, change_field, change_elements, change_elements, change_elements,
    change_bytes, change_text, loop, chain, move_ifd,
)  # fmt: skip


def mutate(data: bytes, rng: Random, base: int = 0) -> bytes:
    """Change one to six entries of the TIFF structure at ``base``; bytes without one are mutated plainly."""
    tiff = Tiff(data, base)
    if not tiff.slots:
        return plain.mutate(data, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        slot = tiff.slot(rng)
        assert slot is not None
        rng.choice(CHANGES)(tiff, slot, rng)
    return bytes(tiff.data)


def mutate_text(data: bytes, rng: Random, base: int = 0) -> bytes:
    """Give entries that hold text (make, model, software, lens, comments) evil texts."""
    tiff = Tiff(data, base)
    texts = [slot for slot in tiff.slots if slot.kind == 2 or slot.tag in (37510, 700)]
    for slot in rng.sample(texts, min(len(texts), rng.choice((1, 1, 2, 9)))):
        change_text(tiff, slot, rng)
    return bytes(tiff.data)
