"""Read the files of ``torch.save`` of torch 1.6 and later: a zip of a pickle and of storages. No code in them runs.

Importing this module does not import torch.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from paramisp_cli.errors import WeightsError
from paramisp_cli.torch_pickle import MAX_PICKLE, Container, content, unpickle

MAGIC = b"PK"


class Archive(Container):
    """A zip file from ``torch.save``; raises WeightsError for anything else.

    torch stores the members uncompressed, so their sizes add up to no more than the file's size.
    """

    def __init__(self, path: Path) -> None:
        raw = content(path)
        if not raw.startswith(MAGIC):
            raise WeightsError(f"{path} is not a zip file as torch 1.6 and later write them")
        super().__init__(path, len(raw))
        self.storages: dict[str, np.ndarray] = {}
        with self.wrapped_damage():
            self.zip = zipfile.ZipFile(io.BytesIO(raw))
            members = self.zip.infolist()
            names = [each.filename for each in members]
            pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise WeightsError(f"{path} is a zip file, but torch did not write it: it has {len(pickles)} data.pkl")
            for each in members:
                if each.compress_type != zipfile.ZIP_STORED or each.file_size != each.compress_size:
                    raise WeightsError(f"{path}: its {each.filename} is compressed, so torch did not write it")
            if sum(each.file_size for each in members) > len(raw):
                raise WeightsError(f"{path}: its members claim more bytes than the file has; it is damaged or hostile")
            self.folder = pickles[0].removesuffix("/data.pkl")
            if f"{self.folder}/byteorder" in names and self.zip.read(f"{self.folder}/byteorder").strip() != b"little":
                raise WeightsError(f"{path} was written on a big-endian machine; save it again on another")

    def saved(self) -> Any:
        """Return the saved object, with TensorRef for tensors."""
        with self.wrapped_damage():
            entry = self.zip.getinfo(f"{self.folder}/data.pkl")
            if entry.file_size > MAX_PICKLE:
                raise WeightsError(f"{self.path}: its data.pkl has {entry.file_size} bytes, so torch did not write it")
            return unpickle(self.zip.read(entry), self.folder)

    def storage(self, member: str, where: str) -> np.ndarray:
        """Return the bytes (N,) of a storage; tensors that share it read it once."""
        if member not in self.storages:
            try:
                self.storages[member] = np.frombuffer(self.zip.read(member), np.uint8)
            except (KeyError, ValueError, zipfile.BadZipFile, OSError, EOFError, RuntimeError) as error:
                raise WeightsError(f"{where}: its storage cannot be read ({error}); the file is damaged") from error
        return self.storages[member]
