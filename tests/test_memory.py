"""How much memory there is, and memory that is kept."""

import mmap
import os
from pathlib import Path

import pytest
import torch

from paramisp_cli import memory
from paramisp_cli.errors import ConfigError, FileAccessError


def test_free_memory_knows_the_container(monkeypatch, tmp_path):
    real = memory.free()
    assert 0 < real < 1 << 50
    limit, used = tmp_path / "max", tmp_path / "current"
    limit.write_text("3000\n")
    used.write_text("1000\n")
    files = {"/sys/fs/cgroup/memory.max": limit, "/sys/fs/cgroup/memory.current": used}
    monkeypatch.setattr(memory, "Path", lambda name: files.get(name, Path(name)))
    assert memory.free() == 2000
    used.write_text("4000\n")
    assert memory.free() == 0
    limit.write_text("max\n")
    assert memory.free() > 4000


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="large pages are asked for on Linux only")
def test_kept_memory_is_used_again_and_given_back():
    like, count = torch.zeros(1), 4 << 20
    with memory.kept():
        first = memory.pool(count, like)
        place = first.data_ptr()
        view = first.view(4, -1)
        del first
        assert not memory._spare  # the view still uses it
        before = memory.free()
        del view
        assert sum(map(len, memory._spare)) == 4 * count
        assert memory.free() > before  # it counts as free
        second = memory.pool(count * 19 // 20, like)
        assert (second.data_ptr(), second.shape) == (place, (count * 19 // 20,))
        del second
        other = memory.pool(2 * count, like)
        assert not memory._spare  # too small for it, so given back first
        del other
        memory.pool(count, like)  # much smaller than what is there: that would be more than was asked for
        assert sum(map(len, memory._spare)) == 4 * count
    assert not memory._spare
    memory.pool(count, like)
    assert not memory._spare


def test_a_scratch_file_keeps_what_is_forgotten(tmp_path):
    scratch = memory.Scratch(tmp_path, 300_000, torch.zeros(1))
    first, second = scratch.numbers(100_000), scratch.numbers(200_000)
    first[:], second[:] = 1, torch.arange(200_000)
    scratch.forget()
    scratch.expect(second[50_000:])
    assert first.eq(1).all()
    assert second.equal(torch.arange(200_000).float())
    del scratch, first
    assert second[-1] == 199_999  # the file lives as long as what is in it
    assert os.name == "nt" or not list(tmp_path.iterdir())  # without a name: nothing is left when a process is killed


def test_a_scratch_file_is_not_in_memory(tmp_path, monkeypatch):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
        f"2 1 0:1 / {str(tmp_path).replace('/', chr(92) + '057')} rw - tmpfs tmpfs rw\n"
    )
    monkeypatch.setattr(memory, "_MOUNTS", mounts)
    with pytest.raises(ConfigError, match="lies in memory itself; pass --scratch with a folder on a disk"):
        memory.Scratch(tmp_path, 10, torch.zeros(1))
    mounts.write_text("1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n")
    memory.Scratch(tmp_path, 10, torch.zeros(1))
    with pytest.raises(FileAccessError, match=r"no room for a file of 0\.0 GB: No such file or directory"):
        memory.Scratch(tmp_path / "not there", 10, torch.zeros(1))
