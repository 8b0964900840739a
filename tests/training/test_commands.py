"""The training commands as a user runs them, on small pairs made here."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from testcamera import shoot, unsign

from paramisp_cli import weights

pytestmark = pytest.mark.slow

TINY = """
lr = 1e-3
warmup = 2
dtype = "fp32"
evaluate_every = 6
checkpoint_every = 2
[[phases]]
steps = 6
crop = 96
batch = 1
"""


def run(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "paramisp_cli", *(str(word) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def here(completed) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return ``run`` in this process."""

    def run(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        done: subprocess.CompletedProcess[str] = completed(*words)
        assert done.returncode == code, done
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture(scope="module")
def shots(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shots")
    for seed, name in enumerate(("one", "two"), 11):
        unsign(shoot(folder, name, seed=seed, size=(520, 640)))
    return folder


@pytest.fixture(scope="module")
def dataset(shots: Path, tmp_path_factory) -> Path:
    where = tmp_path_factory.mktemp("data") / "pairs"
    done = run("pairs", shots, "-o", where)
    assert done.stdout.count("pair ") == 2
    assert "2 pairs, 0 refused" in done.stderr
    return where


def test_pairs_as_json(shots: Path, dataset: Path, here) -> None:
    lines = [json.loads(line) for line in here("pairs", shots, "-o", dataset, "--json").stdout.splitlines()]
    assert [line["status"] for line in lines] == ["pair", "pair"]


def test_train_evaluate_and_use(shots: Path, dataset: Path, tmp_path: Path, here) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(TINY)
    out = tmp_path / "run"
    words = ("--direction", "unprocess", "--recipe", recipe, "--leave-out", "two", "--hold-out", "0.3", "-o", out)
    path = Path(here("train", dataset, *words).stdout.strip())
    assert path == out / "test-cam.unprocess.safetensors"
    header = weights.info(path)
    assert header["camera"] == "Test Cam"
    (seen,) = json.loads(header["training"])["photographs"]
    assert re.fullmatch(r"one-\w+ \(left 70 %\)", seen)
    metrics = json.loads(header["metrics"])
    assert [score["photo"][:4] for score in metrics["photographs never seen"]] == ["two-"]
    assert [score["part"] for score in metrics["regions never seen"]] == ["right 30 %"]
    card = path.with_suffix(".md").read_text()
    assert "never saw" in card
    assert card.count("| Test Cam | unprocess |") == 2
    assert "(right 30 %). An area is weaker evidence" in card
    assert list(out.glob("step*.png"))

    maps, markdown = tmp_path / "maps", tmp_path / "table.md"
    options = ("--test", "two", "--weights", path, "--weights", "auto", "--pictures", maps, "--markdown", markdown)
    done = here("evaluate", dataset, *options)
    assert done.stdout.strip() == markdown.read_text().strip()
    tables = done.stdout.split("### ")
    assert [table.splitlines()[0] for table in tables[1:]] == ["Test Cam, unprocess", "Test Cam, render"]
    rows = [[line.split(" | ")[0][2:] for line in table.splitlines() if re.match(r"\| [^m]", line)] for table in tables]
    ours = ["parametric", "parametric, gain fitted", "regression"]
    libraw = ["LibRaw", "LibRaw, gain fitted"]
    assert rows[1:] == [
        [*ours, path.stem, "generic.unprocess"] * 2,  # the metrics, and the errors after edits
        [*ours, *libraw, "generic.render"],
    ]  # no weights of its own
    assert len(list(maps.glob("*.png"))) == 11

    made = tmp_path / "made.dng"
    here("unprocess", shots / "one.jpg", "-o", made, "--weights", path)
    assert made.exists()


def test_both_directions_together_from_earlier_weights(dataset: Path, tmp_path: Path, here) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(TINY.replace("steps = 6", "steps = 2"))
    for words in (("--init", "none"), ("--init", tmp_path / "first", "--leave-out", "two")):
        out = tmp_path / ("second" if "--leave-out" in words else "first")
        done = here("train", dataset, "--direction", "joint", "--recipe", recipe, "-o", out, *words)
        paths = [Path(line) for line in done.stdout.splitlines()]
        assert [path.name for path in paths] == ["test-cam.unprocess.safetensors", "test-cam.render.safetensors"]
    assert "two" in done.stderr
    assert "there and back: PSNR" in done.stderr
    for path in paths:
        scores = json.loads(weights.info(path)["metrics"])["photographs never seen"]
        assert [score["direction"] for score in scores] == [path.name.split(".")[1], "there and back"]
        assert "| there and back |" in path.with_suffix(".md").read_text()
    mixed = here("train", dataset, "--direction", "render", "--init", tmp_path, "-o", tmp_path / "third", code=2)
    assert "holds 0 checkpoints for render" in mixed.stderr


def test_evaluate_parts_with_wrong_optics(dataset: Path, tmp_path: Path, here) -> None:
    done = here("evaluate", dataset, "--hold-out", "0.25", "--shuffle-optics", "--direction", "render", "--json")
    scores = [json.loads(line) for line in done.stdout.splitlines()]
    assert {score["part"] for score in scores} == {"right 25 %"}
    assert len(scores) == 2 * 5
    assert not done.stderr


def test_interrupted_and_resumed(dataset: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "long.toml"
    recipe.write_text(TINY.replace("steps = 6", "steps = 4000"))
    words = ["train", dataset, "--direction", "render", "--recipe", recipe, "-o", tmp_path / "run"]
    command = [sys.executable, "-m", "paramisp_cli", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        checkpoint = tmp_path / "run" / "checkpoint.pt"
        for _ in range(600):
            if checkpoint.exists():
                break
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "continues from there" in said
    assert "Traceback" not in said
    before = checkpoint.stat().st_mtime_ns
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(600):
            if checkpoint.stat().st_mtime_ns != before:
                break
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    assert process.returncode == 130
    assert checkpoint.stat().st_mtime_ns != before


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("pairs", "missing", "-o", "out"), 5, "no such file or folder"),
        (("train", "missing", "--direction", "unprocess", "-o", "out"), 5, "no data set"),
        (
            ("train", "missing", "--direction", "sideways", "-o", "out"),
            2,
            "'sideways' is not one of 'unprocess', 'render', 'joint'",
        ),
        (("train", "missing", "--direction", "render", "--recipe", "magic", "-o", "out"), 2, "there is no recipe"),
        (("evaluate", "missing"), 5, "no data set"),
        (("evaluate", "DATASET", "--test", "three"), 2, "no pair's name contains it"),
        (("evaluate", "DATASET", "--hold-out", "1.5"), 2, "cannot hold out 1.5"),
        (("evaluate", "DATASET", "--test", "two", "--weights", "none.safetensors"), 8, "no such file or checkpoint"),
        (("evaluate", "DATASET", "--markdown", "no/such/file.md"), 4, "cannot write it"),
        (("train", "DATASET", "--direction", "render", "-o", "out", "--hold-out", "0"), 2, "cannot hold out 0"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_mistakes_are_one_line(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    here,
    words: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = here(*(dataset if word == "DATASET" else word for word in words), code=code)
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
