"""The import rule: strictly down, siblings apart, each third-party library through one door, torch only when needed."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "paramisp_cli"

# Higher may import lower; equal may not import equal.
LAYERS = [
    {"errors", "color", "memory", "atomic"},
    {"types", "scratch"},
    {"isp", "cameras"},
    {"formats", "models", "torch_zip"},
    {"look", "tiling", "published"},
    {"weights"},
    {"pipeline"},
    {"convert"},
    {"batch"},
    {"training"},
    {"cli"},
    {"__main__"},
]
RANK = {name: number for number, layer in enumerate(LAYERS) for name in layer}

# The lower half of formats: one job each, for all formats; raster is the face of the two halves of its work.
FORMATS_BASE = {
    "kinds",
    "quiet",
    "tiff",
    "jpeg",
    "icc",
    "pixels",
    "verify",
    "raster_tiff",
    "raster_read",
    "raster_write",
}

# Files in one folder that may import each other: exif and base serve all formats, base all models, stages,
# engine, local and streaming are the second half of paramisp; a package's __init__ is its registry.
SHARED = {
    "batch": {"find"},
    "cli": {"console", "options", "progress", "convert", "show", "train", "weights"},
    "formats": {"exif", "base", "ljpeg", "tiles", *FORMATS_BASE},
    "models": {"base", "stages", "engine", "local", "streaming", "attention", "paramisp"},
    # what the loop, the evaluation and the simulation stand on
    "training": {
        "align",
        "pairs",
        "dataset",
        "folder",
        "config",
        "data",
        "evaluate",
        "metrics",
        "chart",
        "baselines",
        "trials",
        "scenes",
        "virtual",
    },
}

DOORS = {
    "typer": {f"cli/{name}.py" for name in ("app", "console", "convert", "options", "show", "train", "weights")},
    "rich": {"cli/console.py", "cli/progress.py"},
    "rawpy": {"formats/libraw.py"},
    "PIL": {"formats/raster_read.py", "formats/raster_write.py", "formats/icc.py"},
    "piexif": {"formats/exif.py"},
    "tifffile": {"formats/raster_tiff.py"},
    "safetensors": {"weights.py"},
    "platformdirs": {"weights.py"},
}


def imports(path: Path) -> list[str]:
    """Dotted names that a file imports anywhere in it; names under TYPE_CHECKING count too, for they are imports."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    own = parts[0]
    if own == "__init__":
        return  # the package's face: public names, resolved lazily
    for name in imports(path):
        if not name.startswith("paramisp_cli"):
            continue
        target = name.split(".")[1:]
        if target[0] in ("__version__", "_version"):
            continue
        if target[0] == own and len(parts) == 2:
            allowed = SHARED.get(own, set())
            inside = target[1] if len(target) > 1 else ""
            file_like = (PACKAGE / own / f"{inside}.py").exists()
            assert parts[1] == "__init__" or not file_like or inside in allowed, f"{path.name} imports sibling {name}"
            continue
        assert RANK[target[0]] < RANK[own], f"{path.name} (layer {own}) imports {name}"


@pytest.mark.parametrize("library", DOORS)
def test_one_door(library: str) -> None:
    users = {str(p.relative_to(PACKAGE)) for p in FILES if any(n.split(".")[0] == library for n in imports(p))}
    assert users == DOORS[library]


def test_formats_never_see_torch() -> None:
    for path in [*(PACKAGE / "formats").glob("*.py"), *(PACKAGE / "cameras").glob("*.py")]:
        assert not any(name.split(".")[0] == "torch" for name in imports(path)), path


def test_models_never_see_files() -> None:
    for path in (PACKAGE / "models").glob("*.py"):
        assert not any(name.split(".")[0] in ("pathlib", "io", "os") for name in imports(path)), path


def torch_free(code: str) -> None:
    """Run code in a fresh interpreter; fail if torch was imported or the code failed."""
    script = f"import sys, json\n{code}\nprint(json.dumps('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) is False


def run_cli(*arguments: object) -> str:
    words = [str(argument) for argument in arguments]
    return f"""
from paramisp_cli.cli import app
sys.argv = ['paramisp', *{words!r}]
try:
    app.main()
except SystemExit as stop:
    assert stop.code == 0, stop.code
"""


@pytest.mark.parametrize(
    "words",
    [("--help",), ("-h",), ("--version",), ("unprocess", "--help"), ("cameras", "d90"), ("weights", "list")],
    ids=" ".join,
)
def test_start_is_free_of_torch(words: tuple[str, ...]) -> None:
    torch_free(run_cli(*words))


def test_metadata_commands_are_free_of_torch(make_jpeg, tmp_path: Path) -> None:
    photo = make_jpeg(tmp_path / "photo.jpg")
    torch_free(run_cli("inspect", photo))
    torch_free(run_cli("unprocess", "--dry-run", photo))


def test_library_import_is_free_of_torch() -> None:
    torch_free("import paramisp_cli as paramisp\nassert paramisp.Settings().device == 'auto'")
