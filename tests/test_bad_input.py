"""Every bad input: one clear line, its exit code, the other files done, nothing half made, inputs untouched."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rawpy
import tifffile
from PIL import Image

from paramisp_cli import convert, formats, parameters
from paramisp_cli.batch import run as batch_run
from paramisp_cli.cli.console import interruptible
from paramisp_cli.cli.report import Report
from paramisp_cli.formats import dng, libraw

EXIT = {
    "usage": 2,
    "internal": 3,
    "access": 4,
    "missing": 5,
    "exists": 6,
    "format": 7,
    "weights": 8,
    "interrupted": 130,
}


def tree(folder: Path) -> set[str]:
    """Everything below a folder, hidden files and folders too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def smooth(height: int = 48, width: int = 64) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    planes = (x * 200 // width + 20, y * 200 // height + 20, (x + y) * 200 // (width + height) + 20)
    return np.stack(planes, -1).astype(np.uint8)


@pytest.fixture
def fails(paramisp, tmp_path):
    """fails(kind, *words) → the one line on stderr of a run that fails so, and that leaves the folder as it was."""

    def run(kind, *words):
        before = {path: hashlib.sha256(path.read_bytes()).digest() for path in tmp_path.rglob("*") if path.is_file()}
        names = tree(tmp_path)
        code, out, err = paramisp(*words)
        assert (code, out, len(err)) == (EXIT[kind], [], 1), (code, out, err)
        assert tree(tmp_path) == names
        assert all(hashlib.sha256(path.read_bytes()).digest() == digest for path, digest in before.items())
        return err[0]

    return run


@pytest.fixture
def photo(make_jpeg, tmp_path):
    return make_jpeg(tmp_path / "photo.jpg", smooth())


@pytest.fixture
def raw(photo, paramisp):
    """A DNG of our own."""
    assert paramisp("unprocess", photo, "--model", "parametric")[0] == 0
    return photo.with_suffix(".dng")


# Files that are no pictures ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("command", ["unprocess", "render", "inspect"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"A letter to my aunt, no photograph.\n" * 20, "not a JPEG, PNG, TIFF, WebP, AVIF, HEIC or camera RAW file"),
        (bytes(5000), "not a JPEG, PNG, TIFF, WebP, AVIF, HEIC or camera RAW file"),
        (b"\xff\xd8\xff\xe0", "damaged"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (b"II*\0\x08\0\0\0", "damaged"),
        (b"GIF89a" + bytes(100), "is GIF, which paramisp cannot read; convert it to JPEG, PNG or TIFF first"),
    ],
)
def test_no_picture(fails, tmp_path, command, content, said):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    line = fails("format", command, path)
    assert line.startswith(f"paramisp: {path}: ")
    assert line.count(str(path)) == 1
    assert said in line


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_truncated_pictures(fails, tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(smooth()).save(path)
    whole = path.read_bytes()
    for length in (9, 30, len(whole) // 3, len(whole) // 2, len(whole) * 9 // 10):
        path.write_bytes(whole[:length])
        line = fails("format", "unprocess", path)
        assert line.startswith(f"paramisp: {path}: ")
        assert line.count("a" + suffix) == 1
        assert "damaged" in line


@pytest.mark.slow
def test_truncated_raw(fails, raw):
    whole = raw.read_bytes()
    for length in (9, 60, 300, 900, 1500, len(whole) // 2, len(whole) * 3 // 4, len(whole) - 2000, len(whole) - 100):
        raw.write_bytes(whole[:length])
        line = fails("format", "render", raw, "-o", raw.with_name("picture.png"))
        assert line.startswith(f"paramisp: {raw}: ")
        assert line.count(raw.name) == 1
        assert "damaged" in line


def test_raw_with_a_hole_is_not_passed_over(paramisp, raw):
    """LibRaw goes on after damaged data and prints a remark; one of ours must say it, or the file must fail."""
    whole = raw.read_bytes()
    raw.write_bytes(whole[:-2500] + b"\xff\xd9" * 1000 + whole[-500:])  # markers amid the last tile's data
    _, _, err = paramisp("render", raw, "-o", raw.with_name("x.png"), "--model", "parametric")
    assert len(err) == 1
    assert "the RAW data is damaged" in err[0]


@pytest.mark.slow
def test_content_decides_and_not_the_name(paramisp, fails, photo, raw, make_png, make_tiff, tmp_path):
    jpeg_as_raw = tmp_path / "jpeg.dng"
    jpeg_as_raw.write_bytes(photo.read_bytes())
    raw_as_jpeg = tmp_path / "raw.jpg"
    raw_as_jpeg.write_bytes(raw.read_bytes())
    png_as_jpeg = make_png(tmp_path / "png.jpg", smooth())
    tiff_as_raw = make_tiff(tmp_path / "tiff.nef", smooth())
    for path in (jpeg_as_raw, tiff_as_raw):
        assert fails("format", "render", path).endswith(
            "is a picture, not a RAW file; `paramisp unprocess` converts it"
        )
    assert fails("format", "unprocess", raw_as_jpeg).endswith("is a RAW file; `paramisp render` converts it")
    for path in (jpeg_as_raw, tiff_as_raw, png_as_jpeg):
        assert paramisp("unprocess", path, "-o", f"{path}.out.dng", "--model", "parametric")[0] == 0
    assert paramisp("render", raw_as_jpeg, "-o", tmp_path / "x.png", "--model", "parametric")[0] == 0
    assert Image.open(tmp_path / "x.png").size == (64, 48)


def test_cmyk(fails, tmp_path):
    Image.fromarray(smooth()).convert("CMYK").save(tmp_path / "a.jpg")
    assert "is a CMYK JPEG: convert it to RGB first" in fails("format", "unprocess", tmp_path / "a.jpg")


def test_grey_is_done_and_said(paramisp, make_jpeg, tmp_path):
    path = make_jpeg(tmp_path / "a.jpg", smooth()[..., 0])
    code, _, err = paramisp("unprocess", path, "--model", "parametric", "--camera", "Canon EOS 60D")
    assert code == 0
    assert err == [f"{path}: the picture is grey: the same values were used for R, G and B"]


# RAW files that are not Bayer, or not at all -------------------------------------------------------------------------


def raw_tiff(path: Path, mosaic: np.ndarray, pattern: bytes = b"", side: int = 2, photometric: str = "cfa") -> Path:
    """A DNG by tifffile, not by our own writer, with any CFA."""
    matrix = [value for v in (6722, -635, -963, -4287, 12460, 2028, -908, 2162, 5668) for value in (v, 10000)]
    extra = [
        (50706, 1, 4, bytes((1, 4, 0, 0)), True),
        (50708, 2, 7, b"Test 1", True),
        (50717, 4, 1, 16383, True),
        (50721, 10, 9, tuple(matrix), True),
        (50728, 5, 3, (1, 2, 1, 1, 1, 2), True),
        (50778, 3, 1, 21, True),
    ]
    if pattern:
        extra += [(33421, 3, 2, (side, side), True), (33422, 1, len(pattern), pattern, True)]
    tifffile.imwrite(path, mosaic, photometric=photometric, extratags=extra, metadata=None)
    return path


MOSAIC = np.random.default_rng(0).integers(600, 9000, (72, 96)).astype(np.uint16)
X_TRANS = bytes("RGB".index(colour) for colour in "GBGGRGRGRBGBGBGGRGGRGGBGBGBRGRGRGGBG")


@pytest.mark.parametrize(
    ("mosaic", "pattern", "side", "photometric", "said"),
    [
        (MOSAIC, X_TRANS, 6, "cfa", "not a Bayer file (X-Trans)"),
        (MOSAIC, bytes((0, 0, 1, 1, 0, 0, 1, 1, 1, 1, 2, 2, 1, 1, 2, 2)), 4, "cfa", "not a Bayer file (4×4 CFA)"),
        (np.stack([MOSAIC] * 4, -1), b"", 2, "linear_raw", "not a Bayer file ("),
        (MOSAIC, bytes((3, 1, 4, 5)), 2, "cfa", "its colour filters are"),
    ],
)
@pytest.mark.parametrize("command", ["render", "inspect"])
def test_not_bayer(fails, tmp_path, command, mosaic, pattern, side, photometric, said):
    line = fails("format", command, raw_tiff(tmp_path / "a.dng", mosaic, pattern, side, photometric))
    assert line.startswith(f"paramisp: {tmp_path / 'a.dng'}: ")
    assert said in line
    assert "only Bayer RAWs" in line


def test_the_same_by_tifffile_with_a_bayer_cfa_is_rendered(paramisp, tmp_path):
    path = raw_tiff(tmp_path / "a.dng", MOSAIC, bytes((0, 1, 1, 2)))
    assert paramisp("render", path, "--model", "parametric")[0] == 0


@pytest.mark.parametrize("kind", ["Stack", "Flat"])
def test_foveon_as_libraw_shows_it(kind):
    """No small X3F file can be made: LibRaw's view of one is a stack of colours, or a mosaic without pattern."""

    class Raw:
        raw_type = getattr(rawpy.RawType, kind)
        raw_pattern = None

    with pytest.raises(formats.FormatError, match=r"a\.x3f: not a Bayer file \(Foveon"):
        libraw._cfa(Path("a.x3f"), Raw(), [])


@pytest.mark.parametrize(
    ("name", "start"), [("a.x3f", b"FOVb\0\0\2\0"), ("a.raf", b"FUJIFILMCCD-RAW 0201"), ("a.orf", b"IIRO\x08\0\0\0")]
)
def test_raw_that_libraw_refuses(fails, tmp_path, name, start):
    path = tmp_path / name
    path.write_bytes(start + np.random.default_rng(0).bytes(3000))
    line = fails("format", "render", path)
    assert line.startswith(f"paramisp: {path}: LibRaw cannot read it (")
    assert line.count(name) == 1


# Paths ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["unprocess", "render"])
def test_missing(fails, photo, command):
    assert fails("missing", command, photo.with_name("no.jpg")).endswith("no.jpg: no such file or folder")
    assert fails("missing", command, photo / "below.jpg").endswith("below.jpg: no such file or folder")
    photo.with_name("link.jpg").symlink_to(photo.with_name("gone.jpg"))
    assert fails("missing", command, photo.with_name("link.jpg")).endswith("link.jpg: no such file or folder")
    assert fails("missing", "inspect", photo.with_name("no.jpg")).endswith("no.jpg: no such file")


@pytest.mark.parametrize("command", ["unprocess", "render"])
def test_folder_without_images(fails, tmp_path, command):
    (tmp_path / "empty").mkdir()
    line = fails("missing", command, tmp_path / "empty")
    assert "empty: no file in this folder ends in ." in line
    assert "pass -r" not in line  # there is no subfolder to search
    (tmp_path / "empty" / "deep").mkdir()
    assert fails("missing", command, tmp_path / "empty").endswith("; pass -r to search its subfolders")
    assert "pass -r" not in fails("missing", command, "-r", tmp_path / "empty")


def test_folder_is_not_a_file(fails, tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    assert fails("access", "inspect", tmp_path / "folder.jpg").endswith("folder.jpg: is a folder, not a file")


def test_pipes_and_devices(fails, tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "pipe.jpg: is a pipe or device" in fails("access", "inspect", tmp_path / "pipe.jpg")
    assert "is a pipe or device" in fails("access", "unprocess", "/dev/zero", "-o", tmp_path / "a.dng")


def test_names_too_long_and_loops(fails, photo, tmp_path):
    assert "File name too long" in fails("access", "unprocess", tmp_path / ("a" * 300))
    assert "File name too long" in fails("access", "unprocess", photo, "-o", tmp_path / ("a" * 300))
    assert "File name too long" in fails("access", "unprocess", photo, "-o", tmp_path / ("a" * 300 + ".dng"))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "loop" in fails("access", "unprocess", tmp_path / "loop")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that root cannot read")
def test_unreadable(fails, tmp_path):
    line = fails("access", "unprocess", "/proc/self/mem", "-o", tmp_path / "a.dng")
    assert line.startswith("paramisp: /proc/self/mem: cannot read it: ")


def test_no_permission(fails, paramisp, photo, monkeypatch):
    """Root may do anything, so the system's refusals are played."""

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(photo.parent))

    with monkeypatch.context() as patch:
        patch.setattr(formats, "identify", lambda path: _refusing(formats.FORMATS[1], refuse))
        line = fails("access", "inspect", photo)
    assert line.startswith(f"paramisp: {photo}: no permission to read it")
    with monkeypatch.context() as patch:
        honest = os.scandir
        patch.setattr(os, "scandir", lambda folder: refuse() if str(folder) == str(photo.parent) else honest(folder))
        code, out, err = paramisp("unprocess", photo.parent)
    assert (code, out) == (EXIT["access"], [])
    assert err[0] == f"paramisp: {photo.parent}: the folder cannot be read: Permission denied"
    with monkeypatch.context() as patch:
        patch.setattr(formats, "writer", lambda suffix: _refusing(dng.FORMAT, refuse))
        line = fails("access", "unprocess", photo, "-o", photo.with_name("out.dng"), "--model", "parametric", "-q")
    assert line.startswith(f"paramisp: {photo.with_name('out.dng')}: no permission to write it")


def _refusing(form, refuse):
    from dataclasses import replace

    return replace(form, read=refuse if form.read else None, write=refuse if form.write else None)


def test_unwritable(fails, photo, tmp_path):
    words = ("unprocess", photo, "-q", "--model", "parametric", "-o")
    assert fails("access", *words, photo / "a.dng").endswith(
        "photo.jpg: cannot make the folder: a file is in its place"
    )
    assert "cannot make the folder" in fails("access", *words, photo / "folder")
    assert "is a file, and must be a folder" in fails("usage", *words, photo)
    if Path("/proc/self").exists():
        assert fails("access", *words, "/proc/a.dng").startswith("paramisp: /proc/a.dng: cannot write it: ")
        assert "/proc/no/folder: cannot make the folder" in fails("access", *words, "/proc/no/folder")
    assert tree(tmp_path) == {"photo.jpg"}


# A full disk ---------------------------------------------------------------------------------------------------------


def in_shell(*words, **options):
    command = [sys.executable, "-m", "paramisp_cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, **options)


def small_files_only():
    """No file may grow beyond 10 kB from now on; the system says so by an error and not by a signal."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))


@pytest.mark.slow
def test_disk_takes_no_more(make_jpeg, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3)).astype(np.uint8)
    small = [make_jpeg(tmp_path / f"small{n}.jpg", np.full((8, 8, 3), 90, np.uint8)) for n in (1, 2)]
    big = make_jpeg(tmp_path / "big.jpg", noise)
    out = tmp_path / "new" / "out"
    done = in_shell("unprocess", small[0], big, small[1], "-o", out, "-q", preexec_fn=small_files_only)
    assert done.returncode == 1
    assert done.stderr == f"paramisp: {out / 'big.dng'}: cannot write it: File too large\n"
    assert tree(out) == {"small1.dng", "small2.dng"}
    done = in_shell("unprocess", big, "-o", tmp_path / "x" / "y", "-q", preexec_fn=small_files_only)
    assert done.returncode == EXIT["access"]
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_disk_full_while_rendering(fails, raw, monkeypatch, suffix):
    """The error comes from the last byte written, the hardest moment: the temporary file is complete but for it."""
    from dataclasses import replace

    def full(form):
        def write(image, path, options):
            form.write(image, path, options)
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

        return replace(form, write=write) if form.write else form

    monkeypatch.setattr(formats, "FORMATS", tuple(full(form) for form in formats.FORMATS))
    out = raw.with_name("out")
    line = fails("access", "render", raw, "-q", "--model", "parametric", "-o", out / f"a{suffix}")
    assert line == f"paramisp: {out / f'a{suffix}'}: the disk is full; free some space or choose another -o"


@pytest.mark.slow
def test_full_stdout(photo):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with Path("/dev/full").open("w") as full:
        for words in (["cameras"], ["--help"], ["inspect", photo]):
            command = [sys.executable, "-m", "paramisp_cli", *map(str, words)]
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
            assert done.returncode == EXIT["access"]
            assert done.stderr == "paramisp: stdout: cannot write to it: No space left on device\n" or words == [
                "--help"
            ]
            assert done.stderr.count("\n") == 1


# Absurd EXIF ---------------------------------------------------------------------------------------------------------


ISO, TIME, F_NUMBER, FOCAL = 0x8827, 0x829A, 0x829D, 0x920A


def exif_with(tag: int, kind: int, count: int, data: bytes, ifd0: bytes = b"") -> bytes:
    """An EXIF block, little-endian, whose Exif IFD has one entry; ``data`` of up to 8 bytes."""
    exif_at = 8 + 2 + 12 + 4
    value = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", exif_at + 18)
    block = b"II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x8769, 4, 1, exif_at, 0)
    return block + struct.pack("<HHHI", 1, tag, kind, count) + value + bytes(4) + (data if len(data) > 4 else b"")


RATIONAL, SRATIONAL, SHORT, LONG, ASCII, FLOAT, DOUBLE = 5, 10, 3, 4, 2, 11, 12
ABSURD = {
    "zero ISO": (ISO, SHORT, 1, struct.pack("<H", 0)),
    "ISO 65535": (ISO, SHORT, 1, struct.pack("<H", 65535)),
    "huge ISO": (ISO, LONG, 1, struct.pack("<I", 4_000_000_000)),
    "ISO as text": (ISO, ASCII, 4, b"100\0"),
    "negative ISO": (ISO, 8, 1, struct.pack("<h", -100)),
    "NaN ISO": (ISO, FLOAT, 1, struct.pack("<f", float("nan"))),
    "time 0/1": (TIME, RATIONAL, 1, struct.pack("<II", 0, 1)),
    "time 1/0": (TIME, RATIONAL, 1, struct.pack("<II", 1, 0)),
    "time 0/0": (TIME, RATIONAL, 1, struct.pack("<II", 0, 0)),
    "negative time": (TIME, SRATIONAL, 1, struct.pack("<ii", -1, 125)),
    "huge time": (TIME, RATIONAL, 1, struct.pack("<II", 4294967295, 1)),
    "time as text": (TIME, ASCII, 6, b"1/125\0"),
    "infinite time": (TIME, DOUBLE, 1, struct.pack("<d", float("inf"))),
    "f/0": (F_NUMBER, RATIONAL, 1, struct.pack("<II", 0, 10)),
    "f/(1/0)": (F_NUMBER, RATIONAL, 1, struct.pack("<II", 28, 0)),
    "huge f-number": (F_NUMBER, RATIONAL, 1, struct.pack("<II", 4294967295, 1)),
    "0 mm": (FOCAL, RATIONAL, 1, struct.pack("<II", 0, 1)),
    "huge mm": (FOCAL, RATIONAL, 1, struct.pack("<II", 4294967295, 1)),
    "NaN mm": (FOCAL, DOUBLE, 1, struct.pack("<d", float("nan"))),
}
KEYS = {ISO: "iso", TIME: "exposure_time", F_NUMBER: "f_number", FOCAL: "focal_length"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ABSURD)
def test_absurd_exif(paramisp, make_jpeg, tmp_path, name):
    """Absurd values count as unknown, never as numbers, are said where there was one, and the DNG is made."""
    import json

    tag, kind, count, data = ABSURD[name]
    photo = make_jpeg(tmp_path / "a.jpg", smooth(), exif=exif_with(tag, kind, count, data))
    code, out, err = paramisp("unprocess", photo, "--model", "parametric", "--camera", "Canon EOS 60D", "--json")
    assert code == 0
    record = json.loads(out[0])
    assert record[KEYS[tag]] is None
    assert record["origin"][KEYS[tag]] == "unknown"
    assert all(line.startswith(f"{photo}: ") and "is not usable" in line for line in err)
    assert len(err) == 1
    assert paramisp("render", tmp_path / "a.dng", "-o", tmp_path / "b.png", "--model", "parametric")[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "block", [b"", b"II", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff", bytes(40)]
)
def test_broken_exif_blocks(paramisp, photo, block):
    whole = photo.read_bytes()
    photo.write_bytes(whole[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block + whole[2:])
    code, out, _ = paramisp("unprocess", photo, "--model", "parametric")
    assert (code, out) == (0, [str(photo.with_suffix(".dng"))])
    assert paramisp("render", out[0], "-o", photo.with_name("b.png"), "--model", "parametric")[0] == 0


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_absurd_orientation(paramisp, make_jpeg, tmp_path, orientation):
    photo = make_jpeg(tmp_path / "a.jpg", smooth(), exif={"0th": {0x0112: orientation}})
    assert paramisp("unprocess", photo, "--model", "parametric")[0] == 0
    assert formats.read(photo.with_suffix(".dng")).orientation == 1


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (2, 2), (3, 5), (23, 22), (31, 37), (97, 101), (8, 1009)])
def test_tiny_and_odd_sizes(paramisp, tmp_path, size):
    Image.fromarray(smooth(*size)).save(tmp_path / "a.png")
    assert paramisp("unprocess", tmp_path / "a.png", "--model", "parametric")[0] == 0
    assert paramisp("render", tmp_path / "a.dng", "-o", tmp_path / "b.png", "--model", "parametric")[0] == 0
    assert np.asarray(Image.open(tmp_path / "b.png")).shape == (*size, 3)


# Two inputs, one output; outputs over inputs -------------------------------------------------------------------------


def test_two_inputs_with_one_output(fails, photo, make_png, tmp_path):
    png = make_png(photo.with_suffix(".png"), smooth())
    line = fails("exists", "unprocess", photo, png)
    for name in (photo, png, photo.with_suffix(".dng")):
        assert line.count(str(name)) == 1
    fails("exists", "unprocess", tmp_path)
    fails("exists", "unprocess", tmp_path, "-o", tmp_path / "out")
    fails("exists", "unprocess", tmp_path, "--on-exists", "overwrite")


def test_output_over_an_input(fails, photo, raw):
    """Also where a link hides that they are one."""
    as_raw = photo.with_name("x.jpg")
    as_raw.write_bytes(raw.read_bytes())
    assert "is the input itself" in fails("exists", "render", as_raw)
    assert "is the input itself" in fails("exists", "render", as_raw, "--on-exists", "overwrite")
    assert "is the input itself" in fails("exists", "render", as_raw, "-o", as_raw, "--on-exists", "overwrite")
    photo.with_name("link.dng").symlink_to(photo)
    line = fails("exists", "unprocess", photo, "-o", photo.with_name("link.dng"), "--on-exists", "overwrite")
    assert "is the input itself" in line


def test_existing_output(fails, raw, photo):
    line = fails("exists", "unprocess", photo)
    assert line == f"paramisp: {raw}: exists already; pass --on-exists skip, overwrite or rename"
    photo.with_name("dangling.dng").symlink_to(photo.with_name("nowhere"))
    assert "exists already" in fails("exists", "unprocess", photo, "-o", photo.with_name("dangling.dng"))


# Options -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--frob"], "no such option"),
        (["--iso"], "requires an argument"),
        (["--iso", "fast"], "--iso"),
        (["--iso", "0"], "--iso must be a positive number, got 0"),
        (["--iso", "nan"], "--iso must be a positive number, got nan"),
        (["--f-number", "inf"], "--f-number must be a positive number"),
        (["--focal-length", "-5"], "--focal-length must be a positive number"),
        (["--exposure-time", "1/0"], "'1/0' is not a time in seconds"),
        (["--exposure-time", "1/"], "is not a time in seconds"),
        (["--exposure-time", "-1"], "--exposure-time must be a positive number"),
        (["--wb", "1,2"], "not three gains"),
        (["--wb", "1,0,2"], "three positive gains"),
        (["--cfa", "RGBG"], "'RGGB', 'GRBG', 'GBRG', 'BGGR'"),
        (["--camera", "Nikon D9O"], "did you mean"),
        (["--model", "gan"], "'gan' is not one of 'fast', 'paramisp', 'parametric'"),
        (["--device", "abacus"], "--device abacus"),
        (["--device", "cuda:77"], "--device cuda:77"),
        (["--dtype", "fp8"], "'auto', 'fp32', 'bf16', 'fp16'"),
        (["--max-memory", "much"], "not an amount of memory"),
        (["--max-memory", "0GB"], "not a sensible amount"),
        (["--max-memory", "4"], "has no unit; write 4GB"),
        (["--max-pixels", "many"], "is not a number of pixels such as 400MP"),
        (["--scratch", "not there"], "--scratch: not an existing folder: not there"),
        (["--exposure", "40"], "between -10 and 10 EV"),
        (["--on-exists", "never"], "'error', 'skip', 'overwrite', 'rename'"),
        (["--profile", "vivid"], "'match', 'linear', 'adobe'"),
        (["--compression", "zip"], "'lossless', 'none'"),
        (["-o", "out.nef"], "unprocess writes .dng"),
    ],
)
def test_unknown_options_and_values(fails, photo, words, said):
    """Said before any work starts, in one line."""
    assert said in fails("usage", "unprocess", photo, *words)


@pytest.mark.slow
def test_options_of_render(fails, raw, make_tiff):
    tiff = raw.with_name("x.tif")
    assert "1" in fails("usage", "render", raw, "--quality", "101")
    assert "8 or 16" in fails("usage", "render", raw, "--bits", "12")
    assert "a JPEG has 8 bits" in fails("usage", "render", raw, "--bits", "16")
    assert "a JPEG has 8 bits" in fails("usage", "render", raw.parent, "-o", "new.d", "--bits", "16")
    assert "contradicts --format png" in fails("usage", "render", raw, "-o", tiff, "--format", "png")
    assert "'jpg', 'jpeg', 'png', 'tif', 'tiff'" in fails("usage", "render", raw, "--format", "webp")
    assert "no such command" in fails("usage", "develop")
    assert "missing argument" in fails("usage", "render", "-q")


def test_one_output_for_several_inputs(fails, photo, raw):
    assert "must be a folder" in fails("usage", "unprocess", photo, raw, "-o", photo.with_name("x.dng"))
    assert "must be a folder" in fails("usage", "unprocess", photo.parent, "-o", photo.with_name("x.dng"))


def test_like(fails, photo):
    assert fails("missing", "unprocess", photo, "--like", photo.with_name("no.dng")).endswith("no.dng: no such file")
    assert "must be a RAW file" in fails("usage", "unprocess", photo, "--like", photo)


def test_weights(fails, photo):
    assert "no.safetensors" in fails("weights", "unprocess", photo, "--weights", photo.with_name("no.safetensors"))
    assert photo.name in fails("weights", "unprocess", photo, "-o", photo.with_name("x.dng"), "--weights", photo)


# In a batch ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_others_are_done(paramisp, make_jpeg, raw, photo, tmp_path):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    (tmp_path / "nothing").mkdir()
    good = [make_jpeg(folder / "a.jpg", smooth()), make_jpeg(folder / "z.jpg", smooth())]
    make_jpeg(folder / "deep" / "a.jpg", smooth())
    (folder / "b.jpg").write_bytes(b"")
    (folder / "c.jpg").write_bytes(good[0].read_bytes()[:700])
    (folder / "d.jpg").write_bytes(raw.read_bytes())
    (folder / "e.jpg").write_text("no picture")
    (folder / ".hidden.jpg").write_text("no picture")
    (folder / "notes.txt").write_text("no picture")
    missing = tmp_path / "gone.jpg"
    code, out, err = paramisp("unprocess", "-r", folder, missing, tmp_path / "nothing", "-o", tmp_path / "out")
    assert code == 1
    assert out == [str(tmp_path / "out" / name) for name in ("a.dng", "deep/a.dng", "z.dng")]
    bad = [*(folder / f"{letter}.jpg" for letter in "bcde"), missing, tmp_path / "nothing"]
    errors = [line for line in err if line.startswith("paramisp: ")]
    assert len(errors) == len(bad)
    for path, line in zip(bad, errors, strict=True):
        assert line.startswith(f"paramisp: {path}: ")
        assert line.count(str(path)) == 1
    assert err[-2:] == ["3 done, 0 skipped, 6 failed", "failed: " + ", ".join(map(str, bad))]
    assert tree(tmp_path / "out") == {"a.dng", "deep", "deep/a.dng", "z.dng"}


def test_a_fault_of_ours_stops_nothing(paramisp, photo, make_jpeg, monkeypatch):
    other = make_jpeg(photo.with_name("x.jpg"), smooth())
    honest = parameters.complete
    monkeypatch.delenv("PARAMISP_DEBUG", raising=False)
    monkeypatch.setattr(
        parameters, "complete", lambda image, s: 1 / 0 if image.metadata.source_name == "x.jpg" else honest(image, s)
    )
    words = ("--model", "parametric", "--camera", "Canon EOS 60D", "-q")
    code, out, err = paramisp("unprocess", other, photo, *words)
    assert (code, out) == (1, [str(photo.with_suffix(".dng"))])
    assert err[0].startswith(f"paramisp: {other}: internal error: ZeroDivisionError: division by zero (")
    assert len(err) == 1
    assert paramisp("unprocess", other, *words)[0] == EXIT["internal"]


def test_out_of_memory(fails, photo, monkeypatch):
    for error in (
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ):

        def starve(*_, error=error):
            raise error

        monkeypatch.setattr(convert, "run", starve)
        line = fails("access", "unprocess", photo, "-q", "--model", "parametric", "-o", photo.parent / "new" / "a.dng")
        assert line.startswith(f"paramisp: {photo}: not enough memory")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(make_jpeg, tmp_path, number):
    """Ctrl-C and kill: exit code 130, finished files whole, no partial one, and ``skip`` does the rest."""
    noise = np.random.default_rng(0).integers(0, 255, (700, 900, 3)).astype(np.uint8)
    first = make_jpeg(tmp_path / "00.jpg", noise)
    inputs = [first, *(tmp_path / f"{n:02}.jpg" for n in range(1, 40))]
    for path in inputs[1:]:
        path.write_bytes(first.read_bytes())
    out = tmp_path / "out"
    words = ["unprocess", *map(str, inputs), "-o", str(out), "--model", "parametric", "--camera", "Canon EOS 60D"]
    process = subprocess.Popen(
        [sys.executable, "-m", "paramisp_cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        told = [process.stdout.readline().strip(), process.stdout.readline().strip()]
        time.sleep(0.05)  # into the next file
        process.send_signal(number)
        rest, err = process.communicate(timeout=60)
    assert process.returncode == EXIT["interrupted"]
    told += rest.splitlines()
    assert 2 <= len(told) < len(inputs)
    made = sorted(out.iterdir())
    assert {str(path) for path in made} >= set(told)
    assert len(made) <= len(told) + 1  # one may have been finished and not been told
    last = err.splitlines()[-1]
    assert last == f"interrupted: {len(told)} done, {len(inputs) - len(told)} left; resume with --on-exists skip"
    assert all(path.suffix == ".dng" and path.name[0] != "." for path in made)
    expected = formats.read(made[0]).mosaic
    for path in made:
        np.testing.assert_array_equal(formats.read(path).mosaic, expected)
    before = {path: path.stat().st_mtime_ns for path in made}
    done = in_shell("unprocess", *inputs[: len(made) + 1], *words[len(inputs) + 1 :], "--on-exists", "skip")
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1] == f"1 done, {len(made)} skipped, 0 failed"
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_interrupted_where_python_drops_it(photo, monkeypatch, paramisp):
    """An interrupt that arrives in a destructor or a C callback is printed and forgotten by Python; we remember it."""

    class Dying:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    whole = convert.run

    def run(*args):
        Dying()
        return whole(*args)

    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    monkeypatch.setattr(convert, "run", run)
    other = photo.with_name("second.jpg")
    other.write_bytes(photo.read_bytes())
    before = signal.getsignal(signal.SIGINT)
    code, out, err = paramisp("unprocess", photo, other, "--model", "parametric")
    assert code == 130
    assert out == [str(photo.with_suffix(".dng"))]
    assert err[-1] == "interrupted: 1 done, 1 left; resume with --on-exists skip"
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("command", ["unprocess", pytest.param("deblur", marks=pytest.mark.slow)])
def test_interrupted_in_a_report(command, photo, monkeypatch, paramisp):
    """The file of this report counts, and so does a file that is being written meanwhile."""
    inputs = [photo, *(photo.with_name(f"{number}.jpg") for number in range(6))]
    for path in inputs[1:]:
        path.write_bytes(photo.read_bytes())
    shown, show = [], Report._show

    def interrupted(self, outcome, *args):
        shown.append(outcome)
        if len(shown) == 2:
            signal.raise_signal(signal.SIGINT)
        show(self, outcome, *args)

    monkeypatch.setattr(Report, "_show", interrupted)
    out = photo.parent / "out"
    code, told, err = paramisp(command, *inputs, "-o", out, "--model", "parametric", "--camera", "Canon EOS 60D")
    assert code == 130
    assert 2 <= len(told) < len(inputs)
    assert {*told} == {str(path) for path in out.iterdir()}
    left = len(inputs) - len(told)
    assert err[-1] == f"interrupted: {len(told)} done, {left} left; resume with --on-exists skip"


def test_a_second_interrupt_does_not_wait():
    with interruptible() as interrupts:
        with interrupts.held():
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupts()


def test_interrupted_while_writing(photo, monkeypatch, tmp_path, paramisp):
    """The worst moment: a file nearly written, a new folder made."""
    from dataclasses import replace

    def write(image, path, options):
        path.write_bytes(bytes(100))
        raise KeyboardInterrupt

    monkeypatch.setattr(formats, "FORMATS", tuple(replace(f, write=f.write and write) for f in formats.FORMATS))
    code, out, err = paramisp("unprocess", photo, "-o", tmp_path / "new" / "out")
    assert (code, out, err) == (130, [], ["interrupted: 0 done, 1 left; resume with --on-exists skip"])
    assert tree(tmp_path) == {"photo.jpg"}


def test_interrupted_between_making_and_writing(photo, monkeypatch, tmp_path, paramisp):
    """The folder is there, and nothing that would be written to it comes."""
    make = batch_run._Work.make

    def made(work, step):
        make(work, step)
        raise KeyboardInterrupt

    monkeypatch.setattr(batch_run._Work, "make", made)
    code, out, err = paramisp("unprocess", photo, "-o", tmp_path / "new" / "out", "--model", "parametric")
    assert (code, out, err) == (130, [], ["interrupted: 0 done, 1 left; resume with --on-exists skip"])
    assert tree(tmp_path) == {"photo.jpg"}


def test_a_killed_run_is_gone_on_with(photo, tmp_path, paramisp):
    """And what it left of the file that it was writing is taken away, also where nothing is left to do."""
    left = photo.with_name(".paramisp-0123456789ab.part")
    for out in ("done", "skipped"):
        left.write_bytes(b"half a file")
        os.utime(left, (0, 0))
        code, lines, _ = paramisp("unprocess", photo, "--on-exists", "skip", "--json")
        assert (code, json.loads(lines[0])["status"]) == (0, out)
        assert not left.exists() or os.name == "nt"
