"""Two processes in the folder of a training or data set: the second is refused, and a dead one is not in the way."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from paramisp_cli import atomic
from paramisp_cli.directions import Direction
from paramisp_cli.errors import ConfigError, FileAccessError
from paramisp_cli.training import config, folder, loop, protocol
from paramisp_cli.training import dataset as data
from paramisp_cli.training.pairing import pairs
from paramisp_cli.training.simulated import shots

pytest.importorskip("fcntl")


@contextmanager
def another(place: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder; it is killed at the end."""
    script = (
        f"from pathlib import Path; from paramisp_cli.training import folder; f = folder.hold(Path({str(place)!r}), '')"
    )
    command = [sys.executable, "-c", f"{script}; print('held', flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def trainer(place: Path) -> loop.Trainer:
    return protocol.start(config.load("camera-cpu"), Direction.UNPROCESS, torch.device("cpu"), place)


def test_a_second_process_is_refused_and_a_dead_one_is_not_in_the_way(tmp_path):
    run = tmp_path / "run"
    with another(run) as process:
        message = f"{run}: process {process.pid} is working in it; wait for its end, or choose another -o"
        for begin in (
            lambda: trainer(run),
            lambda: next(pairs.make([tmp_path], run)),
            lambda: next(shots.make([Path(__file__)], run, shots.Series(1, 96, 0, shots.pick_cameras([])))),
        ):
            with pytest.raises(ConfigError) as caught:
                begin()
            assert str(caught.value) == message
    assert not (run / loop.CHECKPOINT).exists()
    trainer(run).save_checkpoint()  # the other was killed
    with another(run):  # and this trainer is gone
        pass


def test_a_training_may_be_resumed_in_the_same_process(tmp_path):
    first = trainer(tmp_path)
    first.step = 7
    first.save_checkpoint()
    second = trainer(tmp_path)
    assert second.step == 7
    assert second.lock is first.lock
    del first
    with pytest.raises(AssertionError), another(tmp_path):  # the second still has the lock
        pass


def test_a_data_set_is_free_after_an_error(tmp_path):
    with pytest.raises(Exception, match="no RAW file"):
        next(pairs.make([tmp_path], tmp_path))
    with another(tmp_path):
        pass


def test_what_a_killed_process_left_is_removed_by_the_next_and_by_nobody_else(tmp_path):
    part = tmp_path / f".paramisp-{atomic._machine()}-0123456789ab.part"
    with another(tmp_path):
        part.write_bytes(b"half")
        with pytest.raises(ConfigError):
            folder.hold(tmp_path, "wait")
        assert part.exists()
    folder.hold(tmp_path, "wait").release()
    assert not part.exists()


def test_files_are_whole(tmp_path):
    """A failed write leaves the old file, and no other; two writers have names of their own."""
    path = tmp_path / "a.npz"
    data.write_arrays(tmp_path, "a", np.zeros((2, 2), np.uint16), np.zeros((2, 2, 3), np.uint8))
    before = path.read_bytes()

    def fail(file):
        file.write(b"half")
        names.append(next(tmp_path.glob(".paramisp-*.part")).name)
        raise OSError(28, "No space left on device")

    names: list[str] = []
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            folder.write_whole(path, fail)
    assert len(set(names)) == 2
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileAccessError, match=r"file/run: cannot write to it: Not a directory"):
        folder.hold(tmp_path / "file" / "run", "wait")


class Failing(io.BytesIO):
    """A file whose ``number``-th write fails."""

    def __init__(self, number: int, error: BaseException) -> None:
        super().__init__()
        self.left, self.error = number, error

    def write(self, data) -> int:
        self.left -= 1
        if not self.left:
            raise self.error
        return super().write(data)


@pytest.mark.parametrize("number", range(1, 31, 6))
def test_errors_of_a_write_are_not_those_of_torch(number, tmp_path, monkeypatch):
    """torch makes of most of them a RuntimeError, "unexpected pos"."""
    path, state = tmp_path / loop.CHECKPOINT, {"a": torch.rand(100, 100), "b": torch.rand(30)}
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(folder, "write_whole", lambda path, write: write(Failing(number, full)))
    with pytest.raises(FileAccessError, match=f"{path}: cannot write it: {full.strerror}"):
        folder.write_state(path, state)
    monkeypatch.setattr(folder, "write_whole", lambda path, write: write(Failing(number, KeyboardInterrupt())))
    with pytest.raises(KeyboardInterrupt):
        folder.write_state(path, state)
