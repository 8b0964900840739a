"""How much memory there is, and memory that is kept."""

import mmap
from pathlib import Path

import pytest
import torch

from paramisp_cli import memory


def test_free_memory_knows_the_container(monkeypatch, tmp_path):
    real = memory.free()
    assert 0 < real < 1 << 50
    limit, used = tmp_path / "max", tmp_path / "current"
    limit.write_text("3000\n")
    used.write_text("1000\n")
    files = {"/sys/fs/cgroup/memory.max": limit, "/sys/fs/cgroup/memory.current": used}
    files["/sys/fs/cgroup/memory.stat"] = stat = tmp_path / "stat"
    monkeypatch.setattr(memory, "Path", lambda name: files.get(name, Path(name)))
    assert memory.free() == 2000
    stat.write_text("anon 300\ninactive_file 600\nactive_file 50\n")
    assert memory.free() == 2600
    used.write_text("4600\n")
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
