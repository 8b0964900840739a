"""Small picture files made on the spot, and where the real ones lie."""

import gc
import logging
import os
import pickle
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import piexif
import pytest
from PIL import Image

# Real photographs, where the machine has them; never part of the project.
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SAMPLES = Path(os.environ.get("PARAMISP_SAMPLES", "/nonexistent"))


# Every file that a test writes through formats.write is read again and compared, in subprocesses too.
os.environ["PARAMISP_VERIFY"] = "1"

# A shell's background jobs ignore SIGINT, those of `nohup` SIGHUP, and hand that on. Some tests send them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_finish():
    """Let garbage collections skip modules and tests, which stay to the end: a seventh of the time of fast tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def ends():
    """Name of a task's first file → the number of times that it ends its worker."""
    return {}


@pytest.fixture
def cluster(monkeypatch, ends):
    """Two workers of Ray without Ray: all that travels is pickled, and the last tasks end first."""
    from paramisp_cli.batch import on_ray
    from paramisp_cli.batch.cluster import Cluster

    def mapped(cluster, work, tasks):
        workers = [pickle.loads(pickle.dumps(work)) for _ in range(cluster.workers)]
        missing = []
        for number in reversed(range(len(tasks))):
            task = pickle.loads(pickle.dumps(tasks[number]))
            name = task.jobs[0].source.name
            left = ends.get(name, 0)
            ends[name] = left - 1
            if left > 0:
                missing.append(number)
            else:
                yield number, pickle.loads(pickle.dumps(workers[number % len(workers)](task)))
        yield from ((number, None) for number in missing)

    monkeypatch.setattr(on_ray, "mapped", mapped)
    return Cluster(2, {"num_cpus": 1.0}, 2, set())


@pytest.fixture(scope="session")
def shared():
    """The folder of real photographs; the test is skipped where there is none."""
    if not SHARED.is_dir():
        pytest.skip(f"no real photographs at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def real_raws():
    """name → path of the real RAW files there are, from ../shared/data and $PARAMISP_SAMPLES; may be empty."""
    suffixes = {".dng", ".cr2", ".crw", ".arw", ".nef"}
    found = [path for folder in (SHARED, SAMPLES) if folder.is_dir() for path in sorted(folder.rglob("*"))]
    return {path.name: path for path in found if path.suffix.lower() in suffixes}


@pytest.fixture
def no_weights(monkeypatch):
    """As on a machine without any trained weights."""
    from paramisp_cli import weights

    monkeypatch.setattr(weights, "places", lambda: [("nowhere", Path("/nonexistent"))])


def exif_block(tags):
    """An EXIF block, TIFF structure, of {"0th": {tag: value}, "Exif": …, "GPS": …} as piexif takes them."""
    return piexif.dump(tags).removeprefix(b"Exif\0\0")


def gradient(height=48, width=64):
    """(height, width, 3) uint8 with every channel different."""
    y, x = np.mgrid[:height, :width]
    planes = (x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x + y) * 255 // max(width + height - 2, 1))
    return np.stack(planes, -1).astype(np.uint8)


@pytest.fixture
def make_jpeg():
    """make_jpeg(path, pixels=None, *, exif=None, icc=None, xmp=None, quality=95, progressive=False) writes a JPEG.

    pixels: (H, W, 3) or (H, W) uint8, by default a 64×48 gradient; exif: a block (TIFF structure) or a piexif dict.
    Returns the path.
    """

    def make(path, pixels=None, *, exif=None, icc=None, xmp=None, quality=95, progressive=False):
        more = {"exif": b"Exif\0\0" + (exif_block(exif) if isinstance(exif, dict) else exif)} if exif else {}
        if icc:
            more["icc_profile"] = icc
        if xmp:
            more["xmp"] = xmp
        image = Image.fromarray(gradient() if pixels is None else pixels)
        image.save(path, "JPEG", quality=quality, progressive=progressive, subsampling=0, **more)
        return Path(path)

    return make


@pytest.fixture
def make_png():
    """make_png(path, pixels=None, exif=None, icc=None) writes an unfiltered PNG of 8 or 16 bits by the book.

    pixels: (H, W, C) uint8 or uint16 with C = 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA. Returns the path.
    """

    def make(path, pixels=None, exif=None, icc=None):
        pixels = gradient() if pixels is None else pixels
        height, width, channels = pixels.shape
        rows = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(height, -1).view(np.uint8)
        lines = np.concatenate([np.zeros((height, 1), np.uint8), rows], 1).tobytes()
        color_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
        header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, color_type, 0, 0, 0)
        chunks = [(b"IHDR", header)]
        if icc:
            chunks.append((b"iCCP", b"test\0\0" + zlib.compress(icc)))
        if exif:
            chunks.append((b"eXIf", exif_block(exif) if isinstance(exif, dict) else exif))
        chunks += [(b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
        packed = [
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        ]
        Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
        return Path(path)

    return make


@pytest.fixture
def make_tiff():
    """make_tiff(path, pixels=None, **options of tifffile.imwrite) writes a TIFF; returns the path."""
    import tifffile

    def make(path, pixels=None, **options):
        tifffile.imwrite(path, gradient() if pixels is None else pixels, **({"photometric": "rgb"} | options))
        return Path(path)

    return make


@pytest.fixture
def paramisp(capfd, monkeypatch):
    """paramisp(*words) runs the command line in this process → (exit code, stdout lines, stderr lines).

    What libraries print past Python is captured too.
    """
    from paramisp_cli.cli import app

    term, handlers = signal.getsignal(signal.SIGTERM), list(logging.getLogger().handlers)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["paramisp", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            app.main()
        out, err = capfd.readouterr()
        return stop.value.code, out.splitlines(), err.splitlines()

    yield run
    signal.signal(signal.SIGTERM, term)
    logging.getLogger().handlers[:] = handlers


@pytest.fixture
def completed(paramisp):
    """completed(*words) runs the command line in this process, which has torch already → a CompletedProcess of text."""

    def run(*words):
        code, out, err = paramisp(*words)
        return subprocess.CompletedProcess(words, code, "\n".join(out), "\n".join(err))

    return run
