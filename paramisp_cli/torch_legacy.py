"""Read the files of ``torch.save`` before torch 1.6: five pickles, then the numbers. No code in them runs.

The pickles are a magic number, the protocol, facts of the machine, the saved object and the list of the storages' keys.
The storages follow in this order, each as its count of elements (8 bytes, little-endian) and its numbers. Importing
this module does not import torch.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from paramisp_cli.errors import WeightsError
from paramisp_cli.torch_pickle import STORAGES, Container, Storage, content, unpickle_next

_MAGIC_NUMBER, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
MAGIC = b"\x80\x02\x8a\x0a" + _MAGIC_NUMBER.to_bytes(10, "little") + b"."
"""First bytes of a file."""


class Archive(Container):
    """A file in the old container; raises WeightsError for anything else."""

    def __init__(self, path: Path) -> None:
        raw = content(path)
        if not raw.startswith(MAGIC):
            raise WeightsError(f"{path} is not a file as torch before 1.6 wrote them")
        super().__init__(path, len(raw))
        self.storages: dict[str, np.ndarray] = {}
        with self.wrapped_damage():
            stream = io.BytesIO(raw)
            unpickle_next(stream)
            protocol, machine = (unpickle_next(stream)[0] for _ in range(2))
            if protocol != _PROTOCOL:
                raise WeightsError(f"{path} has torch's protocol {str(protocol)[:20]}, not {_PROTOCOL}")
            if not (isinstance(machine, dict) and machine.get("little_endian") is True):
                raise WeightsError(f"{path} was written on a big-endian machine; save it again on another")
            self.object, claimed = unpickle_next(stream)
            keys = unpickle_next(stream)[0]
            self._find_storages(raw, stream.tell(), keys, claimed)

    def _find_storages(self, raw: bytes, place: int, keys: object, claimed: list[Storage]) -> None:
        """Find the bytes of each storage; every length is checked against the file and the pickle."""
        types: dict[object, str] = {}
        for each in claimed:
            if not (isinstance(each.member, str) and isinstance(each.dtype, str) and each.dtype in STORAGES.values()):
                continue
            if types.setdefault(each.member, each.dtype) != each.dtype:
                raise WeightsError(f"{self.path}: its storage {each.member[:40]} has two types; it is damaged")
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len({*keys}) != len(keys):
            raise WeightsError(f"{self.path} has no list of its storages; it is damaged")
        for key in keys:
            if key not in types:
                raise WeightsError(f"{self.path}: its storage {key[:40]} has no type that checkpoints have")
            size, count = np.dtype(types[key]).itemsize, int.from_bytes(raw[place : place + 8], "little")
            place += 8
            if place + count * size > len(raw):
                raise WeightsError(
                    f"{self.path} is damaged: its storage {key[:40]} claims {count} numbers, beyond the file's end"
                )
            self.storages[key] = np.frombuffer(raw, np.uint8, count * size, place)
            place += count * size
        if place != len(raw):
            raise WeightsError(f"{self.path} is damaged: {len(raw) - place} bytes follow its last tensor")

    def saved(self) -> Any:
        """Return the saved object, with TensorRef for tensors."""
        return self.object

    def storage(self, member: str, where: str) -> np.ndarray:
        """Return the bytes (N,) of a storage."""
        if member not in self.storages:
            raise WeightsError(f"{where}: the file has no storage for it; it is damaged")
        return self.storages[member]
