"""What the README says is so: its examples run, its options exist, and none is missing from it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import paramisp_cli as paramisp

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RUNS = "<!-- runs -->\n"
COMMANDS = (
    "unprocess", "render", "inspect", "cameras", "weights list", "weights info", "weights verify", "weights import",
    "doctor", "pairs", "simulate", "train", "evaluate",
)  # fmt: skip


def blocks(language: str) -> list[str]:
    """The code blocks of a language that are marked as to be run."""
    return re.findall(rf"{re.escape(RUNS)}```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """photo.jpg, shot.dng and a tree of photos, as the examples want them; and a `paramisp` command."""
    rng = np.random.default_rng(0)
    pixels = np.clip(rng.normal(110, 25, (64, 96, 3)), 0, 255).astype(np.uint8)
    (tmp_path / "photos" / "trip").mkdir(parents=True)
    for name in ("photo.jpg", "photos/one.jpg", "photos/trip/two.jpg"):
        Image.fromarray(pixels).save(tmp_path / name)
    paramisp.write(paramisp.unprocess(tmp_path / "photo.jpg"), tmp_path / "shot.dng")
    command = tmp_path / "bin" / "paramisp"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m paramisp_cli "$@"\n')
    command.chmod(0o755)
    return tmp_path


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    python = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": python, "PARAMISP_WEIGHTS": "", "COLUMNS": "200"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_shell_examples(folder: Path) -> None:
    """In the README's order, in one folder, each block as a script that stops at the first failure."""
    assert len(blocks("sh")) == 3
    for block in blocks("sh"):
        done = run(folder, "sh", "-e", "-x", "-c", block)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
    made = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"photo.dng", "shot.jpg", "raws/one.dng", "raws/trip/two.dng", "pictures/trip/two.png", "log.jsonl"} <= made
    assert {"found/one.dng", "found/two.dng"} <= made
    assert "other.dng" not in made  # --dry-run
    with Image.open(folder / "shot.jpg") as picture:
        assert picture.size == (96, 64)


def test_ray_recipe(folder: Path) -> None:
    """On one machine that says it has two GPUs, so there are two actors; twice, the second time with nothing to do."""
    pytest.importorskip("ray", reason="needs Ray")
    (recipe,) = re.findall(r"<!-- ray -->\n```python\n(.*?)```", README, re.DOTALL)
    (folder / "photos" / "bad.jpg").write_bytes(b"not a picture")
    (folder / "recipe.py").write_text(
        f"import ray\nray.init(num_cpus=2, num_gpus=2, include_dashboard=False)\n{recipe}", encoding="utf-8"
    )
    for _ in range(2):
        done = run(folder, sys.executable, "recipe.py")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("3 photos;"), done.stdout
        assert "bad.jpg: not a JPEG" in done.stdout
        made = {str(path.relative_to(folder)) for path in (folder / "raws-by-ray").rglob("*") if path.is_file()}
        assert made == {"raws-by-ray/one.dng", "raws-by-ray/trip/two.dng"}


def test_python_examples(folder: Path) -> None:
    assert len(blocks("python")) == 2
    for block in blocks("python"):
        done = run(folder, sys.executable, "-W", "error", "-c", block)
        assert done.returncode == 0, f"{block}\n{done.stderr}"
    assert (folder / "new.dng").exists()
    assert (folder / "linear.dng").exists()
    picture = paramisp.read(folder / "picture.tif")
    assert isinstance(picture, paramisp.SrgbImage)
    assert picture.pixels.dtype == np.uint16


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """--help of every command; "" for the command itself."""
    found = {}
    for name in ("", *COMMANDS):
        words = [sys.executable, "-m", "paramisp_cli", *name.split(), "--help"]
        done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
        found[name] = done.stdout
    return found


def options(text: str) -> set[str]:
    """Everything that looks like an option."""
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*\b", text))


def mentioned() -> set[str]:
    """Options in the README's code, other programs' left out."""
    code = re.findall(r"`([^`\n]+)`", README) + re.findall(r"^paramisp .*$", README, re.MULTILINE)
    return options(
        "\n".join(part for part in code if not part.startswith(("pytest", "python ", "make", "pip", "find")))
    )


def test_every_option_of_the_readme_exists(helps: dict[str, str]) -> None:
    known = options("\n".join(helps.values()))
    assert mentioned() - known == set()


def test_every_option_is_in_the_readme(helps: dict[str, str]) -> None:
    assert options("\n".join(helps.values())) - mentioned() == set()


def test_every_command_is_in_the_readme(helps: dict[str, str]) -> None:
    listed = {line.split()[0] for line in helps[""].split("Commands:")[1].splitlines() if re.match(r"  \w", line)}
    ours = {name.split()[0] for name in COMMANDS}
    assert listed == ours, "a new command wants a line in the README, and its name in COMMANDS"
    for name in COMMANDS:
        assert f"`paramisp {name}" in README or f"\nparamisp {name} " in README, name
    assert set(re.findall(r"(?:`|^)paramisp ([a-z]+)", README, re.MULTILINE)) == listed


def test_each_example_uses_its_commands_own_options(helps: dict[str, str]) -> None:
    """An option that exists, but not for this command, is wrong too; also in the blocks that are not run."""
    lines = re.findall(r"^paramisp (.*)$", README, re.MULTILINE)
    assert len(lines) >= 8
    for line in lines:
        words = line.split("#")[0].split("|")[0].split()
        name = " ".join(words[: 2 if words[0] == "weights" else 1])
        assert options(" ".join(words)) <= options(helps[name]), line


def test_every_exit_code_is_in_the_readme() -> None:
    from paramisp_cli import errors

    codes = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "exit_code")}
    table = README[README.index("| code | |") :].split("\n\n")[0]
    told = {int(number) for number in re.findall(r"\| (\d+) (?=\|)", table)}
    assert codes | {0, 1, 2, 3, 130} == told


def test_set_up_commands_are_makes() -> None:
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    for target in ("install", "test", "dev", "format", "bench", "clean", "lint", "types", "unit"):
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert "make install && .venv/bin/paramisp unprocess photo.jpg\nmake test\n" in README


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_the_number_of_cameras() -> None:
    from paramisp_cli import cameras

    assert f"{len(cameras.all_cameras())} cameras" in README
