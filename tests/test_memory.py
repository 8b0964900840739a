"""How much memory there is, and memory that is kept."""

from pathlib import Path

from paramisp_cli import memory


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
