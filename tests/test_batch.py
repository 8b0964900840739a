"""Finding files and naming outputs, before any work; what becomes of each."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paramisp_cli import convert, devices, parameters
from paramisp_cli.batch import find, run
from paramisp_cli.batch.find import Job, OnExists
from paramisp_cli.batch.outcome import Outcome, Tally
from paramisp_cli.directions import Direction
from paramisp_cli.errors import ConfigError, InputMissingError, OutputExistsError
from paramisp_cli.formats import RAW_SUFFIXES, SRGB_SUFFIXES, WriteOptions

UNPROCESS, RENDER = Direction.UNPROCESS, Direction.RENDER


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working folder with in/b.jpg, in/a.JPEG, in/deep/c.png, in/raw.dng, and things to leave alone."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.jpg", "a.JPEG", "deep/c.png", "deep/er/b.jpg", "raw.dng", "x.txt", ".h.jpg", ".git/y.jpg", "no"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def found(*inputs: str, recursive: bool = False, suffixes=SRGB_SUFFIXES) -> list[tuple[str, str]]:
    return [(str(f.source), str(f.name)) for f in find.search(inputs, suffixes, recursive=recursive).inputs]


def targets(*inputs: str, out=None, suffix=None, direction=UNPROCESS, on=OnExists.ERROR, recursive=False) -> list[str]:
    paths = [Path(i) for i in inputs]
    suffixes = SRGB_SUFFIXES if direction == UNPROCESS else RAW_SUFFIXES
    each = find.search(paths, suffixes, recursive=recursive).inputs
    return [str(j.target) for j in find.assign(paths, each, out and Path(out), suffix, direction, on)]


def test_find():
    assert found("in") == [("in/a.JPEG", "a.JPEG"), ("in/b.jpg", "b.jpg")]
    assert found("in", recursive=True)[2:] == [("in/deep/c.png", "deep/c.png"), ("in/deep/er/b.jpg", "deep/er/b.jpg")]
    assert found("in", suffixes=RAW_SUFFIXES) == [("in/raw.dng", "raw.dng")]
    assert found("in/x.txt", "in/.h.jpg") == [("in/x.txt", "x.txt"), ("in/.h.jpg", ".h.jpg")]  # named is named


def test_find_every_file_once(folder):
    assert found("in/b.jpg", "in", "./in/b.jpg", str(folder / "in" / "b.jpg")) == [
        ("in/b.jpg", "b.jpg"),
        ("in/a.JPEG", "a.JPEG"),
    ]


def test_find_errors_come_along():
    Path("empty").mkdir()
    each = find.search(["gone.jpg", "empty", "in/b.jpg"], SRGB_SUFFIXES, recursive=False).inputs
    assert [type(f.error) for f in each] == [InputMissingError, InputMissingError, type(None)]
    jobs = find.assign([Path("gone.jpg"), Path("empty"), Path("in/b.jpg")], each, None, None, UNPROCESS, OnExists.ERROR)
    assert [job.target for job in jobs] == [None, None, Path("in/b.dng")]


def test_find_does_not_follow_loops():
    Path("in/deep/up").symlink_to(Path("in").resolve())
    assert len(found("in", recursive=True)) == 4


def test_targets():
    assert targets("in/b.jpg") == ["in/b.dng"]
    assert targets("in/b.jpg", out="new") == ["new/b.dng"]
    assert targets("in/b.jpg", out="new/x.dng") == ["new/x.dng"]
    assert targets("in/b.jpg", out="new/x.DNG") == ["new/x.DNG"]
    assert targets("in/b.jpg", "in/deep/c.png", out="new") == ["new/b.dng", "new/c.dng"]
    assert targets("in/b.jpg", "in/deep/c.png") == ["in/b.dng", "in/deep/c.dng"]
    assert targets("in", out="new", recursive=True) == ["new/a.dng", "new/b.dng", "new/deep/c.dng", "new/deep/er/b.dng"]
    Path("folder.dng").mkdir()
    assert targets("in/b.jpg", out="folder.dng") == ["folder.dng/b.dng"]


def test_targets_of_render():
    assert targets("in/raw.dng", direction=RENDER) == ["in/raw.jpg"]
    assert targets("in/raw.dng", direction=RENDER, suffix=".tif") == ["in/raw.tif"]
    assert targets("in/raw.dng", direction=RENDER, out="x.png") == ["x.png"]
    assert targets("in/raw.dng", direction=RENDER, out="x.jpg", suffix=".jpeg") == ["x.jpg"]
    with pytest.raises(ConfigError, match="contradicts"):
        targets("in/raw.dng", direction=RENDER, out="x.png", suffix=".tif")


def test_names_with_dots():
    Path("in/2024.05.01 x.jpg").write_bytes(b"")
    assert targets("in/2024.05.01 x.jpg") == ["in/2024.05.01 x.dng"]
    Path("in/noend").write_bytes(b"")
    assert targets("in/noend") == ["in/noend.dng"]


@pytest.mark.parametrize(
    ("inputs", "out", "said"),
    [
        (["in/b.jpg", "in/a.JPEG"], "x.dng", "must be a folder"),
        (["in"], "x.dng", "must be a folder"),
        (["in/b.jpg"], "x.jpg", "unprocess writes .dng"),
        (["in/b.jpg"], "in/x.txt", "is a file"),
        (["in/b.jpg", "in/a.JPEG"], "in/x.txt", "is a file"),
        (["in/b.jpg"], "in/no", "is a file"),
    ],
)
def test_outputs_that_do_not_fit(inputs, out, said):
    with pytest.raises(ConfigError) as raised:
        targets(*inputs, out=out)
    assert said in str(raised.value)


def test_one_output_for_two():
    Path("in/b.png").write_bytes(b"")
    for out in (None, "new"):
        with pytest.raises(OutputExistsError, match=r"b\.dng: both in/b\.(jpg|png) and in/b\.(jpg|png) would"):
            targets("in", out=out)
    with pytest.raises(OutputExistsError, match="would be written to it"):
        targets("in/b.jpg", "in/deep/er/b.jpg", out="new")
    Path("link").symlink_to("in")
    with pytest.raises(OutputExistsError, match="would be written to it"):
        targets("in/b.jpg", "link/b.png")


def test_rename():
    Path("in/b.png").write_bytes(b"")
    assert targets("in", on=OnExists.RENAME) == ["in/a.dng", "in/b.dng", "in/b-1.dng"]
    Path("in/b.dng").write_bytes(b"")
    Path("in/b-1.dng").symlink_to("nowhere")
    assert targets("in", on=OnExists.RENAME) == ["in/a.dng", "in/b-2.dng", "in/b-3.dng"]
    assert targets("in/b.jpg", out="in/b.dng", on=OnExists.RENAME) == ["in/b-2.dng"]


def test_never_over_another_input():
    Path("in/raw.jpg").write_bytes(b"")
    with pytest.raises(OutputExistsError, match=r"in/raw\.dng: is an input itself"):
        targets("in/raw.jpg", "in/raw.dng", on=OnExists.OVERWRITE)
    Path("in/link.jpg").write_bytes(b"")
    Path("in/link.dng").symlink_to("b.jpg")
    with pytest.raises(OutputExistsError, match=r"in/link\.dng: is an input itself"):
        targets("in/a.JPEG", "in/b.jpg", "in/link.jpg", on=OnExists.OVERWRITE)


def test_thousands_are_named_quickly(monkeypatch):
    """A check of growth without a clock: paths looked at grow with the files, not with their square."""
    calls = []
    place = find.real_path
    monkeypatch.setattr(find, "real_path", lambda path: calls.append(path) or place(path))
    for count in (50, 100):
        calls.clear()
        each = [find.Input(Path(f"{n}.jpg"), Path(f"{n}.jpg")) for n in range(count)]
        find.assign([Path()], each, Path("out"), None, UNPROCESS, OnExists.RENAME)
        assert len(calls) <= 6 * count


def test_tally():
    tally = Tally()
    error = InputMissingError("x")
    job = Job(Path("a"), None, error)
    for status in ("done", "planned", "skipped"):
        tally.add(Outcome(job, status))
    assert (tally.done, tally.skipped, tally.count, tally.exit_code(True)) == (2, 1, 3, 0)
    tally.add(Outcome(job, "failed", error=error))
    assert (tally.count, tally.exit_code(True), tally.exit_code(False)) == (4, 5, 1)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_shards_have_no_overlap_and_no_gap(count):
    given = [Path("in")]
    each = find.search(given, SRGB_SUFFIXES, recursive=True).inputs
    jobs = find.assign(given, each, Path("out"), None, UNPROCESS, OnExists.ERROR)
    shards = [find.shard(jobs, each, (number, count)) for number in range(1, count + 1)]
    assert sorted(str(job.source) for shard in shards for job in shard) == sorted(str(job.source) for job in jobs)


def test_a_shard_does_not_depend_on_the_others_nor_on_the_place(tmp_path):
    """New files move nothing, and the same tree elsewhere is cut the same way."""

    def second(folder: Path) -> set[str]:
        each = find.search([folder], SRGB_SUFFIXES, recursive=True).inputs
        jobs = find.assign([folder], each, tmp_path / "out", None, UNPROCESS, OnExists.ERROR)
        return {str(job.source.relative_to(folder)) for job in find.shard(jobs, each, (2, 3))}

    for number in range(40):
        (tmp_path / "in" / f"more{number}.jpg").write_bytes(b"x")
    before = second(tmp_path / "in")
    assert 5 < len(before) < 25
    (tmp_path / "in" / "another.jpg").write_bytes(b"x")
    assert second(tmp_path / "in") - {"another.jpg"} == before
    (tmp_path / "in").rename(tmp_path / "moved")
    assert second(tmp_path / "moved") - {"another.jpg"} == before


def test_several_devices_work_at_once(folder, make_jpeg, monkeypatch):
    """Two of them here, by name only: both must have a file at the same time, or the barrier breaks."""
    sources = [make_jpeg(folder / f"{number}.jpg") for number in range(6)]
    sources[5].write_bytes(b"no picture")
    jobs = [Job(source, source.with_suffix(".dng")) for source in sources]
    real, used, both = convert.run, [], threading.Barrier(2, timeout=60)

    def shared(image, conversion, settings, *_):
        used.append(settings.device)
        if len(used) > 1:  # the first one shows which devices there are
            both.wait()
        return real(image, conversion, replace(settings, device="cpu"))

    monkeypatch.setattr(devices, "several", lambda name: ["first", "second"])
    monkeypatch.setattr(devices, "pick", lambda name: torch.device("cpu"))
    monkeypatch.setattr(convert, "run", shared)
    settings = parameters.Settings(model="parametric", device="cuda")  # by default this model needs no device
    outcomes = list(run.run(jobs, UNPROCESS, settings, WriteOptions()))
    assert [outcome.job.source for outcome in outcomes] == sources
    assert [outcome.status for outcome in outcomes] == ["done"] * 5 + ["failed"]
    assert all(job.target.exists() == (job.source != sources[5]) for job in jobs)
    assert sorted(used[1:])[0] == "first"
    assert sorted(used[1:])[-1] == "second"
    assert len(used) == 5


def test_gpus_are_all_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.several("auto") == devices.several("cuda") == ["cuda:0", "cuda:1", "cuda:2"]
    assert devices.several("cuda:1") == ["cuda:1"]
    assert devices.several("cpu") == ["cpu"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert devices.several("auto") == ["auto"]
