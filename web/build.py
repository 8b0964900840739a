"""Assemble the page in ``web/dist``: our sources, onnxruntime-web, the exported networks and the camera table.

``npm pack`` fetches onnxruntime-web in the version and with the digest that ``package.json`` states; the archive stays
in ``web/.cache``. Nothing else is fetched. The folder is complete: any static server can serve it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from paramisp_cli import __version__, cameras, color, onnx_export, weights  # noqa: E402
from paramisp_cli.directions import Direction  # noqa: E402
from paramisp_cli.errors import ParamispError  # noqa: E402
from paramisp_cli.models.fast import spec  # noqa: E402

RUNTIME = "onnxruntime-web"
RUNTIME_FILES = {
    "wasm.js": "ort.wasm.min.mjs",
    "wasm.glue.js": "ort-wasm-simd-threaded.mjs",
    "wasm.wasm": "ort-wasm-simd-threaded.wasm",
    "webgpu.js": "ort.webgpu.min.mjs",
    "webgpu.glue.js": "ort-wasm-simd-threaded.asyncify.mjs",
    "webgpu.wasm": "ort-wasm-simd-threaded.asyncify.wasm",
}
"""Our name → file of the package: the builds for WASM alone and for WebGPU. Some servers do not know the suffix .mjs as
JavaScript, and browsers then refuse the file."""


def main() -> None:
    """Build the page; a mistake ends in one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dest", type=Path, default=HERE / "dist", help="the folder to write (default: web/dist)")
    parser.add_argument(
        "--weights", action="append", metavar="NAME", help="weights to include (default: all of fast); generic always"
    )
    parser.add_argument("--runtime", type=Path, help=f"an unpacked {RUNTIME} package, instead of fetching it")
    arguments = parser.parse_args()
    try:
        build(arguments.dest, arguments.weights, arguments.runtime)
    except (ParamispError, OSError) as error:
        sys.exit(f"web/build.py: {error}")


def build(dest: Path, names: list[str] | None = None, runtime: Path | None = None) -> None:
    """Write the page's folder; an older page is replaced, another folder is refused."""
    if dest.exists() and not (dest / "manifest.json").is_file():
        raise OSError(f"{dest} exists and is not a built page; remove it, or pass another --dest")
    dest.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dest.parent, prefix=".page-") as folder:
        page = Path(folder) / "page"
        page.mkdir()
        for name in ("index.html", "style.css"):
            shutil.copyfile(HERE / name, page / name)
        shutil.copytree(HERE / "src", page / "src")
        _add_runtime(page / "vendor", runtime)
        entries = [_exported(name, page) for name in _names(names)]
        _write_json(page / "manifest.json", {"version": __version__, "weights": entries})
        _write_json(page / "cameras.json", camera_table())
        if dest.exists():
            shutil.rmtree(dest)
        page.rename(dest)
    size = sum(path.stat().st_size for path in dest.rglob("*") if path.is_file())
    print(f"{dest}: {len(entries)} networks, {size / 1e6:.0f} MB")


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, separators=(",", ":"), ensure_ascii=False), "utf-8")


# --- networks ---------------------------------------------------------------------------------------------------------


def _names(names: list[str] | None) -> list[str]:
    if names is None:
        folder = HERE.parent / "weights" / "fast"
        names = sorted(path.name.split(".")[0] for path in folder.glob("*.unprocess.safetensors"))
    return list(dict.fromkeys([*map(weights.slug, names), weights.GENERIC]))


def _exported(name: str, page: Path) -> dict[str, Any]:
    """Export a network, and return its entry of the manifest."""
    found = weights.find(name, Direction.UNPROCESS, "fast", generic=name == weights.GENERIC)
    if found is None:
        raise OSError(f"there are no `fast` weights {name!r} that unprocess; `paramisp weights list` shows the names")
    folder = page / "networks"
    folder.mkdir(exist_ok=True)
    (file,) = onnx_export.export(found.path, folder, Direction.UNPROCESS)
    config, _ = weights.load_arrays(found.path, spec.Config)
    return {
        "name": name,
        "camera": weights.info(found.path)["camera"],
        "file": found.path.name,
        "sha256": hashlib.sha256(found.path.read_bytes()).hexdigest(),
        "how": found.how,
        "onnx": file.relative_to(page).as_posix(),
        "multiple": spec.GEOMETRY.multiple,
        "halo": spec.GEOMETRY.halo,
        "lens_shading": config.lens_shading,
    }


# --- the camera table -------------------------------------------------------------------------------------------------


def camera_table() -> dict[str, Any]:
    """Return the facts of all cameras that the page needs, with the index by brand and model."""
    index: dict[str, dict[str, int]] = {}
    for (brand, key), number in cameras._index().items():
        index.setdefault(brand, {})[key] = number
    return {
        "brands": cameras._BRANDS,
        "kelvin": color.ILLUMINANT_KELVIN,
        "generic": _facts(cameras.GENERIC),
        "cameras": [_facts(camera) for camera in cameras.all_cameras()],
        "index": index,
    }


def _facts(camera: cameras.CameraFacts) -> dict[str, Any]:
    def plain(array: Any) -> Any:
        return None if array is None else array.tolist()

    return {
        "name": camera.name,
        "make": camera.exif_make,
        "model": camera.exif_model,
        "aliases": camera.aliases,
        "cfa": camera.cfa,
        "matrix": plain(camera.color_matrix),
        "matrix_2": plain(camera.color_matrix_2),
        "illuminant_2": camera.illuminant_2,
        "neutral": plain(camera.daylight_neutral),
        "daylight_from_matrix": "matrix" in camera.daylight_origin,
        "levels": camera.level_rows,
    }


# --- onnxruntime-web --------------------------------------------------------------------------------------------------


def _add_runtime(target: Path, package: Path | None) -> None:
    """Copy the files of onnxruntime-web that the page loads."""
    target.mkdir()
    if package is not None:
        for own, name in RUNTIME_FILES.items():
            shutil.copyfile(package / "dist" / name, target / own)
        return
    with tarfile.open(_archive()) as archive:
        for own, name in RUNTIME_FILES.items():
            member = archive.extractfile(f"package/dist/{name}")
            assert member is not None  # the archive has the digest in package.json
            (target / own).write_bytes(member.read())


def _archive() -> Path:
    """Return the package's archive: from ``web/.cache`` if it is there, else from npm's registry; check its digest."""
    described = json.loads((HERE / "package.json").read_text("utf-8"))
    version, wanted = described["devDependencies"][RUNTIME], described["integrity"][RUNTIME]
    cache = HERE / ".cache"
    path = cache / f"{RUNTIME}-{version}.tgz"
    if not path.is_file():
        cache.mkdir(exist_ok=True)
        npm = shutil.which("npm")
        if npm is None:
            raise OSError(f"npm is missing: install it, or pass --runtime, an unpacked {RUNTIME} {version}")
        command = [npm, "pack", f"{RUNTIME}@{version}", "--silent", "--pack-destination", str(cache)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode or not path.is_file():
            reason = (result.stderr or result.stdout).strip().splitlines()
            raise OSError(f"`npm pack {RUNTIME}@{version}` failed: {reason[-1] if reason else 'no file came'}")
    digest = "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if digest != wanted:
        path.unlink()
        raise OSError(f"{path.name} has the digest {digest}, web/package.json states {wanted}; it was removed")
    return path


if __name__ == "__main__":
    main()
