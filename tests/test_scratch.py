"""Stores: the file, and host memory beside a GPU, for tensors that memory has no room for."""

import errno
import os

import pytest
import torch

from paramisp_cli import scratch as scratch_file
from paramisp_cli.errors import ConfigError, FileAccessError
from paramisp_cli.scratch import HostMemory, Scratch


@pytest.mark.parametrize("kind", ["file", "file without reservation", "host"])
def test_rows_of_a_store_are_those_of_a_tensor(tmp_path, monkeypatch, kind):
    """Two tensors in one store; windows that overlap, as bands do, pass over each several times."""

    def cannot(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    if kind == "file without reservation":
        monkeypatch.setattr(os, "posix_fallocate", cannot, raising=False)
    like, kept = torch.zeros(1), [torch.arange(90.0).view(30, 3), torch.zeros(30, 2, 2)]
    size = sum(tensor.numel() for tensor in kept) * 4
    with HostMemory(size) if kind == "host" else Scratch(size, tmp_path) as scratch:
        rows = [scratch.rows(tuple(tensor.shape), 13, like) for tensor in kept]
        for tensor, part in zip(kept, rows, strict=True):
            for first in range(0, 30, 5):
                end = min(first + 7, 30)
                part(first, end, fresh=True, change=True)[:] = tensor[first:end]
        for turn in range(3):
            for first in range(0, 30, 5):
                for tensor, part in zip(kept, rows, strict=True):
                    end, low = min(first + 9, 30), max(first - 3, 0)
                    assert part(first, end).equal(tensor[first:end])
                    part(low, first + 5, change=True).add_(turn)
                    tensor[low : first + 5].add_(turn)
                    assert part(low, end).equal(tensor[low:end])
        assert max(part.room.shape[0] for part in rows) == 13
        rows[0](0, 5).zero_()  # without change=True: it does not last
        rows[0](20, 30)
        assert rows[0](0, 30 - 17).equal(kept[0][:13])
    assert os.name == "nt" or not list(tmp_path.iterdir())  # without a name: nothing is left when a process is killed


def test_a_scratch_file_is_not_in_memory(tmp_path, monkeypatch):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
        f"2 1 0:1 / {str(tmp_path).replace('/', chr(92) + '057')} rw - tmpfs tmpfs rw\n"
    )
    monkeypatch.setattr(scratch_file, "_MOUNTS", mounts)
    with pytest.raises(ConfigError, match="is in memory, not on a disk; pass `scratch` with a folder on a disk"):
        Scratch(40, tmp_path)
    mounts.write_text("1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n")
    with Scratch(40, tmp_path):
        pass
    missing = Scratch(40, tmp_path / "not there")
    with pytest.raises(FileAccessError, match=r"no room for a file of 0\.0 GB: No such file or directory"), missing:
        pass


def test_a_scratch_file_that_fails(tmp_path):
    with Scratch(80, tmp_path) as scratch:
        rows = scratch.rows((20, 1), 10, torch.zeros(1))
        rows(0, 10, fresh=True, change=True).zero_()
        scratch.file.truncate(40)
        with pytest.raises(FileAccessError, match="the scratch file: the file ends early"):
            rows(2, 12)


@pytest.mark.parametrize("code", [0, 2])
def test_host_memory_is_pinned_where_cuda_can(monkeypatch, code):
    """It goes on without pinning where CUDA refuses; copies then wait for each other."""
    calls = []

    class Runtime:
        def cudaHostRegister(self, pointer, size, flags):  # noqa: N802 – CUDA's name
            calls.append(("register", pointer, size, flags))
            return code

        def cudaHostUnregister(self, pointer):  # noqa: N802
            calls.append(("unregister", pointer))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "cudart", Runtime)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: calls.append(("wait", device)))
    with HostMemory(80) as store:
        place = store.bytes.data_ptr()
        assert store.pinned == (code == 0)
        store.transfer(torch.ones(5), 20, write=True)
        again = torch.zeros(5)
        store.transfer(again, 20, write=False)
        assert again.tolist() == [1.0] * 5
    freed = [("wait", torch.device("cpu")), ("unregister", place)]
    assert calls == [("register", place, 80, 0), *(freed if code == 0 else [])]
