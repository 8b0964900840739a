"""The import rule: strictly down, siblings apart, each third-party library through one door, torch only when needed."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from functools import cache
from itertools import takewhile
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "paramisp_cli"

# Higher may import lower; equal may not import equal.
LAYERS = [
    {"errors", "color", "mosaic", "memory", "atomic", "onnx_file", "directions"},
    {"types", "scratch", "look_table"},
    {"isp", "cameras", "flat_noise", "patches"},
    {"formats", "torch_pickle", "devices"},
    {"torch_zip", "torch_legacy", "look", "rendition", "companion", "drawn"},
    {"models", "white_balance", "look_refined", "confidence"},
    {"checkpoint", "settings"},
    {"published", "sources", "carried"},
    {"weights", "target"},
    {"conversion"},
    {"parameters", "runner", "onnx_runner", "onnx_export", "arrays"},
    {"machine", "torch"},
    {"make_raw", "make_picture"},
    {"make_transfer"},
    {"convert"},
    {"batch", "apps"},
    {"training"},
    {"pages"},
    {"cli"},
    {"__main__"},
]
RANK = {name: number for number, layer in enumerate(LAYERS) for name in layer}

# The lower half of formats: one job each, for all formats; raster is the face of the two halves of its work.
FORMATS_BASE = {
    "xmp",
    "provenance",
    "kinds",
    "quiet",
    "tiff",
    "jpeg",
    "icc",
    "pixels",
    "verify",
    "raster_tiff",
    "raster_read",
    "items",
    "heic",
    "exr",
    "raster_write",
    "gainmap",
    "array_record",
    "dng_exif",
    "lut",
    "dcp",
    "darktable",
    "confidence_map",
}

CLI = {
    "arrays", "blur_dataset", "console", "convert", "datasets", "deblur", "hdr", "look", "options", "page", "progress",
    "report", "show", "synth", "train", "transfer", "weights",
}  # fmt: skip

# Files in one folder that others beside them may import: exif and base serve all formats, base and regions all models;
# a package's __init__ is its registry.
SHARED = {
    "apps": {"brightness", "fusion"},
    "batch": {"cluster", "find", "outcome", "outputs", "run"},
    "cli": set(CLI),
    "rendition": {"bands", "form", "prior", "fit", "apply", "preview", "look", "develop"},
    "formats": {"exif", "base", "ljpeg", "tiles", *FORMATS_BASE},
    "models": {"base", "regions", "geometry", "foreign", "optics"},
}

# Folders with layers of their own, lowest first: higher may import lower; equal may not import equal.
LAYERS_OF = {
    "training": [
        {"folder", "config"},
        {"dataset"},
        {"crops", "colours", "pairing", "simulated"},
        {"measure", "blurred", "synthetic"},
        {"loop", "restoring"},
        {"protocol", "fit", "transfer"},
    ],
    "torch": [{"layouts"}, {"shots"}, {"noise"}, {"modules"}, {"__init__"}],
    "pages": [
        {"document", "lines"},
        {"svg", "pictures", "scores"},
        {"samples"},
        {"training", "dataset", "evaluation", "batch"},
        {"make"},
    ],
    "training.pairing": [{"align", "find", "contact_sheet"}, {"overlay"}, {"pairs"}],
    "training.blurred": [{"motion", "video"}, {"sources"}, {"series"}, {"clips", "stills"}, {"make"}],
    "training.simulated": [{"scenes", "camera"}, {"shake", "shots", "spectral"}, {"shaken"}],
    "training.synthetic": [{"hdf5"}, {"series"}, {"shard"}, {"make"}],
    "training.transfer": [{"shots", "adversary"}, {"stored"}, {"splines", "cstpp", "measure"}, {"__init__"}],
    "training.measure": [
        {"metrics", "chart", "edits", "predictors"},
        {"baselines", "libraw", "scores"},
        {"shading", "trials"},
    ],
}
RANKS_OF = {
    folder: {name: number for number, layer in enumerate(layers) for name in layer}
    for folder, layers in LAYERS_OF.items()
}

DOORS = {
    "typer": {f"cli/{name}.py" for name in CLI - {"arrays", "progress", "report"} | {"app"}},
    "av": {"training/blurred/video.py"},
    "rich": {"cli/console.py", "cli/progress.py"},
    "rawpy": {"formats/libraw.py"},
    "PIL": {"formats/raster_read.py", "formats/raster_write.py", "formats/icc.py"},
    "piexif": {"formats/exif.py"},
    "tifffile": {"formats/raster_tiff.py"},
    "safetensors": {"checkpoint.py"},
    "platformdirs": {"weights.py"},
    "onnxruntime": {"onnx_runner.py"},
    "OpenEXR": {"formats/exr.py"},
    "pi_heif": {"formats/heic.py"},
    "h5py": {"training/synthetic/hdf5.py"},
    "ray": {"batch/cluster.py"},
}


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Dotted names that a file imports anywhere in it; names under TYPE_CHECKING count too, for they are imports."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return tuple(found)


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
        both = [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(parts[:-1], target, strict=False))]
        if ranks := RANKS_OF.get(".".join(both)):  # the folder that holds both modules
            assert ranks[target[len(both)]] < ranks[parts[len(both)]], f"{path.name} imports {name}"
            continue
        if len(parts) > 2 and target[:2] == list(parts[:2]):
            continue  # inside an architecture's own folder: test_no_circles is the rule
        if target[0] == own and len(parts) >= 2:
            allowed = SHARED.get(own, set())
            inside = target[1] if len(target) > 1 else ""
            module_like = any((PACKAGE / own / found).exists() for found in (f"{inside}.py", f"{inside}/__init__.py"))
            registry = parts[1:] == ("__init__",)
            assert registry or not module_like or inside in allowed, f"{path.name} imports sibling {name}"
            continue
        assert RANK[target[0]] < RANK[own], f"{path.name} (layer {own}) imports {name}"


def graph() -> dict[str, set[str]]:
    """Return each module of the package with the modules that it imports, under TYPE_CHECKING included.

    ``from package import name`` is an import of the module ``package.name`` if there is one, else of ``package``.
    """
    modules = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in FILES
    }

    def module_of(name: str) -> str:
        while name not in modules:
            name = name.rpartition(".")[0]
        return name

    def ours(path: Path) -> list[str]:
        version = f"{PACKAGE.name}.__version__"  # a constant of the package's face, set before its imports
        return [name for name in imports(path) if name.split(".")[0] == PACKAGE.name and name != version]

    return {module: {module_of(name) for name in ours(path)} - {module} for module, path in modules.items()}


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Return groups of modules that import each other in a circle (Tarjan's strongly connected components)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        number[node] = low[node] = len(number)
        stack.append(node)
        for other in edges[node]:
            if other not in number:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], number[other])
        if low[node] == number[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in edges:
        if node not in number:
            visit(node)
    return found


def test_no_circles() -> None:
    """No import leads back to where it began: in no folder, and not under TYPE_CHECKING or inside a function either."""
    edges = graph()
    wanted = {"paramisp_cli.models.paramisp.network", "paramisp_cli.models.regions", "paramisp_cli.models.base"}
    assert edges["paramisp_cli.models.paramisp.localnet"] >= wanted
    assert circles(edges) == []


def test_circles_are_found() -> None:
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set(), "f": {"g"}, "g": {"f"}}
    assert sorted(circles(edges)) == [["a", "b", "c"], ["f", "g"]]


@pytest.mark.parametrize("library", DOORS)
def test_one_door(library: str) -> None:
    users = {str(p.relative_to(PACKAGE)) for p in FILES if any(n.split(".")[0] == library for n in imports(p))}
    assert users == DOORS[library]


def test_formats_never_see_torch() -> None:
    for path in [*(PACKAGE / "formats").glob("*.py"), *(PACKAGE / "cameras").glob("*.py")]:
        assert not any(name.split(".")[0] == "torch" for name in imports(path)), path


def test_models_never_see_files() -> None:
    for path in (PACKAGE / "models").rglob("*.py"):
        assert not any(name.split(".")[0] in ("pathlib", "io", "os", "tempfile") for name in imports(path)), path
        assert not any(name.startswith("paramisp_cli.scratch") for name in imports(path)), path


def test_only_its_folder_knows_the_inside_of_an_architecture() -> None:
    """Others import the class from an architecture's folder, never a module of it."""
    folder = "paramisp_cli.models.paramisp"
    for module, imported in graph().items():
        if not module.startswith(folder):
            assert not any(name.startswith(f"{folder}.") for name in imported), module


def torch_free(code: str) -> None:
    """Run code in a fresh interpreter; fail if torch was imported or the code failed."""
    script = f"import sys, json\n{code}\nprint(json.dumps('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) is False


@pytest.mark.slow
def test_the_torch_modules_load_no_compiler() -> None:
    """torch._dynamo takes as long to load as torch."""
    script = "import sys, paramisp_cli.torch; sys.exit('torch._dynamo' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


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


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [("--help",), ("-h",), ("--version",), ("unprocess", "--help"), ("cameras", "d90"), ("weights", "list")],
    ids=" ".join,
)
def test_start_is_free_of_torch(words: tuple[str, ...]) -> None:
    torch_free(run_cli(*words))


@pytest.mark.slow
def test_metadata_commands_are_free_of_torch(make_jpeg, tmp_path: Path) -> None:
    photo = make_jpeg(tmp_path / "photo.jpg")
    torch_free(run_cli("inspect", photo))
    torch_free(run_cli("unprocess", "--dry-run", photo))


def test_library_import_is_free_of_torch() -> None:
    torch_free("import paramisp_cli as paramisp\nassert paramisp.Settings().device == 'auto'")
