"""Three hundred mutated files through the command line, and proof that the harness sees what it looks for."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from fuzz import cases, pictures, plain, run, seeds, tiff, worker

SEED, COUNT = 7, 300

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="pipes to workers, signals and limits are POSIX's"),
]


@pytest.fixture(autouse=True)
def own_temporary_folder() -> Iterator[None]:
    """Give the process its temporary folder back: a worker sets it for the whole process."""
    before, folder = os.environ.get("TMPDIR"), tempfile.tempdir
    yield
    tempfile.tempdir = folder
    os.environ.pop("TMPDIR", None)
    if before is not None:
        os.environ["TMPDIR"] = before


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> seeds.Pool:
    return seeds.make(tmp_path_factory.mktemp("seeds"))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[run.Found]:
    """The findings of all cases of CI."""
    workers = min(os.cpu_count() or 1, 2)
    return list(run.campaign(range(COUNT), SEED, tmp_path_factory.mktemp("fuzz"), workers=workers, slow=60))


@pytest.mark.parametrize("kind", seeds.KINDS)
def test_mutated_files_break_no_rule(found: list[run.Found], kind: str) -> None:
    """Exit codes, one line, nothing left, inputs unchanged, outputs sound, memory and time within bounds."""
    groups: dict[tuple[str, str], list[run.Found]] = {}
    for each in found:
        if each.kind == kind:
            groups.setdefault((each.finding.rule, each.finding.where), []).append(each)
    replay = f"replay with: python tests/fuzz/run.py --seed {SEED} --replay CASE --keep DIR"
    assert not groups, f"{replay}\n{run.report(groups)}"


def test_a_case_is_a_function_of_seed_and_number(pool: seeds.Pool, tmp_path: Path) -> None:
    other = seeds.make(tmp_path)
    for kind, paths in pool.seeds.items():
        for ours, theirs in zip(paths, other.seeds[kind], strict=True):
            assert ours.read_bytes() == theirs.read_bytes(), ours
    for number in range(70):
        assert cases.make(3, number, pool) == cases.make(3, number, other)
    assert cases.make(3, 0, pool) != cases.make(4, 0, pool)
    assert len({cases.make(3, number, pool).data for number in range(140)}) > 130


REFUSED = {"float.tif", "big.tif", "cmyk.jpg", "small.ckpt"}
"""Seeds that are refused as they are: pixels of float32, BigTIFF, CMYK, a checkpoint that lacks most tensors."""


def test_seeds_are_sound(pool: seeds.Pool, tmp_path: Path) -> None:
    """Mutations of files that are refused as they are would reach nothing."""
    place = worker.Worker(pool, tmp_path / "case", slow=1e9)
    use = {
        "dng": ("render", "{in}", "-o", "{out}/o.jpg", "--model", "parametric"),
        "safetensors": ("weights", "verify", "{in}"),
        "ckpt": ("weights", "import", "{in}", "--camera", "Nikon D90", "-o", "{out}"),
    }
    picture = ("unprocess", "{in}", "-o", "{out}/o.dng", "--model", "parametric")
    for kind, paths in pool.seeds.items():
        for path in paths:
            case = cases.Case(kind, path.name, path.name, path.read_bytes(), (use.get(kind, picture),))
            assert place.case(case) == [], path
            assert (place.last.code != 0) == (path.name in REFUSED), (path, place.last)


def test_structures_come_back_as_they_were(pool: seeds.Pool) -> None:
    """Taking a file apart and putting it together changes nothing, so a mutation changes what it means to."""
    for path in pool.seeds["png"]:
        assert pictures.join_png(pictures.split_png(path.read_bytes())) == path.read_bytes()
    for path in pool.seeds["jpeg"]:
        assert pictures.join_jpeg(*pictures.split_jpeg(path.read_bytes())) == path.read_bytes()
    names = {
        slot.tag for slot in tiff.Tiff(seeds.exif("NIKON CORPORATION", "NIKON D90", ">", seeds.nikon_note())).slots
    }
    assert {271, 33434, 1, 29, 37} <= names  # IFD0, Exif, interoperability, GPS, MakerNote


def test_every_mutation_works(pool: seeds.Pool) -> None:
    """A mutator that fails on what another one has made would hide the case."""
    for number in range(700):
        if cases.kind_of(number) not in ("safetensors", "ckpt") or number < 140:  # large, and slow to take apart
            cases.make(5, number, pool)


@pytest.mark.parametrize("mutator", plain.MUTATORS, ids=lambda each: each.__name__)
def test_plain_mutators_take_anything(mutator) -> None:  # type: ignore[no-untyped-def]
    changed = 0
    for number in range(200):
        rng = Random(number)
        data = rng.randbytes(rng.choice((0, 1, 2, 7, 100, 3000)))
        changed += mutator(data, rng) != data
    assert changed > 60  # of short data, some can only stay


# --- the rules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ran", "rule"),
    [
        (worker.Ran(3, "", "paramisp: internal error: ValueError: x\n"), "internal error"),
        (worker.Ran(-11, "", "x\n"), "exit code"),
        (worker.Ran(130, "", "x\n"), "exit code"),
        (worker.Ran(7, "", "paramisp: a\nb\n"), "one line"),
        (worker.Ran(7, "", "TIFFRead: a\nparamisp: /f\n"), "one line"),
        (worker.Ran(7, "", ""), "one line"),
        (worker.Ran(7, "", "paramisp: File name too long\n"), "file not named"),
        (worker.Ran(7, "/o.dng\n", "paramisp: /f\n"), "stdout on failure"),
        (worker.Ran(0, "a\x1b[2J\n", ""), "control character"),
        (worker.Ran(0, "", "a\x9b\n"), "control character"),
        (worker.Ran(0, "", "a\u202e\n"), "control character"),
        (worker.Ran(0, "a\tb\n", ""), "control character"),
        (worker.Ran(None, "", "", "Traceback\nValueError: x\n"), "exception"),
    ],
)
def test_a_broken_rule_is_found(ran: worker.Ran, rule: str) -> None:
    assert [finding.rule for finding in worker.judge(ran, "inspect", "/f")] == [rule]


def test_sound_results_are_no_findings() -> None:
    record = '{"status": "failed"}\n'
    for ran in (
        worker.Ran(0, "/o\n", "/f: a\n/f: b\n"),
        worker.Ran(7, "", "paramisp: /f: a\n"),
        worker.Ran(7, record, "/f\n"),
    ):
        assert list(worker.judge(ran, "inspect", "/f")) == []


def test_left_files_and_changed_inputs_are_found(
    pool: seeds.Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that fails and leaves a partial output and a temporary file, and writes to its input."""

    def careless(words: list[str], folder: Path) -> worker.Ran:
        source = folder / "in" / "case.jpg"
        source.write_bytes(b"other")
        for name in ("out/o.dng", "in/.x.part", "tmp/y"):
            (folder / name).write_bytes(b"")
        return worker.Ran(0 if words[-1] == "done" else 7, "", f"paramisp: {source}\n")

    monkeypatch.setattr(worker, "run", careless)
    place = worker.Worker(pool, tmp_path / "case", slow=1e9)

    def rules(*command: str) -> set[str]:
        case = cases.Case("jpeg", "a.jpg", "case.jpg", b"data", (command,))
        return {finding.rule for finding in place.case(case)}

    assert rules("unprocess", "{in}", "-o", "{out}/o.dng") == {"partial output", "input changed", "left over"}
    assert rules("unprocess", "{in}", "-o", "{out}/o.dng", "done") == {
        "unreadable output",
        "input changed",
        "left over",
    }
    assert "output" in rules("unprocess", "{in}", "-o", "{out}/p.dng", "done")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[run.Watched]:
    each = run.Watched(tmp_path_factory.mktemp("watched"), None, 60, 20)
    yield each
    each.close()


def test_the_run_goes_on_after_a_worker_that_dies(watched: run.Watched) -> None:
    job = {"seed": SEED, "number": 0}
    assert watched.ask(job) == []
    assert watched.ask({"trouble": "crash"}) == [worker.Finding("crash", "SIGSEGV")]
    assert watched.ask(job) == []


def test_a_hang_is_a_finding(watched: run.Watched) -> None:
    assert watched.ask({"seed": SEED, "number": 0}) == []
    watched.watchdog = 1
    assert watched.ask({"trouble": "hang"}) == [worker.Finding("hang", "no answer", "within 1 s")]
    assert watched.process is None


def test_memory_is_watched(watched: run.Watched) -> None:
    watched.watchdog = 60
    (finding,) = watched.ask({"trouble": "memory"})
    assert finding.rule == "memory"
    assert watched.process is None  # a peak does not come down: the next case gets another worker
