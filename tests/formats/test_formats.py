"""What a file is, and writing that never leaves half a file or takes another's place."""

from __future__ import annotations

import errno
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paramisp_cli import atomic, formats
from paramisp_cli.errors import FileAccessError, FormatError, InputMissingError, OutputExistsError
from paramisp_cli.formats import WriteOptions, dng, libraw
from paramisp_cli.types import CanonicalParams, LinearImage, RawImage, SrgbImage

MATRIX = np.array([[0.6722, -0.0635, -0.0963], [-0.4287, 1.2460, 0.2028], [-0.0908, 0.2162, 0.5668]])
PICTURE = SrgbImage(np.random.default_rng(0).integers(0, 255, (24, 32, 3)).astype(np.uint8))
RAW = RawImage(
    np.random.default_rng(0).integers(600, 9000, (24, 32)).astype(np.uint16),
    CanonicalParams("RGGB", 512, 16383, (0.5, 1, 0.6), MATRIX),
)


# Contracts of the registry -------------------------------------------------------------------------------------------


def test_registry():
    for kind in (RawImage, SrgbImage, LinearImage):
        forms = [form for form in formats.FORMATS if form.write and kind in form.holds]
        suffixes = [suffix for form in forms for suffix in form.suffixes]
        assert len(set(suffixes)) == len(suffixes)  # a suffix names one format to write for an image
        assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in suffixes)
    assert set(formats.RAW_WRITE_SUFFIXES) == {".dng", ".npy", ".npz", ".tif", ".tiff", ".exr"}
    assert set(formats.SRGB_WRITE_SUFFIXES) == {".jpg", ".jpeg", ".png", ".tif", ".tiff"}
    assert set(formats.SRGB_SUFFIXES) == {*formats.SRGB_WRITE_SUFFIXES, ".webp", ".avif", ".heic", ".heif", ".hif"}
    assert not {*formats.SRGB_SUFFIXES, *formats.RAW_SUFFIXES} & formats.KNOWN_UNREADABLE.keys()
    assert {".dng", ".nef", ".cr2", ".cr3", ".arw", ".raf", ".rw2", ".orf", ".pef"} <= set(formats.RAW_SUFFIXES)
    assert not set(formats.SRGB_SUFFIXES) & set(formats.RAW_SUFFIXES)
    assert formats.writer(".JPG") is formats.writer(".jpeg")
    assert formats.writer(".nef") is None
    assert formats.writer("") is None


@pytest.mark.parametrize("form", [form for form in formats.FORMATS if form.write], ids=lambda form: form.name)
def test_what_is_written_is_known_again(form, tmp_path):
    image = RAW if RawImage in form.holds else PICTURE
    if ".exr" in form.suffixes:  # floats alone
        image = replace(RAW, mosaic=RAW.mosaic.astype(np.float32))
    for suffix in form.suffixes:
        path = tmp_path / f"a{suffix}"
        formats.write(image, path)
        bare = tmp_path / "bare"
        bare.write_bytes(path.read_bytes())
        if (second := formats.beside(path)) is not None:
            second.rename(tmp_path / "bare.json")
        back = formats.read(bare)  # its name tells nothing
        assert type(back) is type(image)
        assert back.size == image.size
        assert formats.identify(bare) is (libraw.FORMAT if form.name == dng.FORMAT.name else form)


@pytest.mark.parametrize("form", formats.FORMATS, ids=lambda form: form.name)
def test_nothing_is_sniffed_in_nothing(form):
    for head in (b"", b"\0" * 64, b"II", b"\xff\xd8", b"hello"):
        assert not form.sniff(head)


# Reading -------------------------------------------------------------------------------------------------------------


def test_errors_of_reading(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    for read in (formats.identify, formats.read):
        with pytest.raises(InputMissingError, match=r"a\.jpg: no such file$"):
            read(path)
        with pytest.raises(FileAccessError, match="is a folder"):
            read(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(FormatError, match="empty"):
        formats.read(path)
    path.write_bytes(b"hello")
    with pytest.raises(FormatError, match="not a JPEG, PNG, TIFF, WebP, AVIF, HEIC or camera RAW"):
        formats.read(path)
    formats.write(PICTURE, path, overwrite=True)
    for number, said in ((errno.EIO, "Input/output error"), (errno.EACCES, "no permission to read it")):

        def broken(*_, number=number):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(formats, "identify", lambda _, b=broken: replace(formats.FORMATS[1], read=b))
        with pytest.raises(FileAccessError, match=rf"^{path}: .*{said}"):
            formats.read(path)


def test_read_takes_text(tmp_path):
    formats.write(PICTURE, str(tmp_path / "a.png"))
    np.testing.assert_array_equal(formats.read(str(tmp_path / "a.png")).pixels, PICTURE.pixels)


# Writing -------------------------------------------------------------------------------------------------------------


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def broken_png(monkeypatch):
    """broken_png(error) makes the PNG writer raise it after it has written half a file."""

    def install(error):
        def write(image, path, options):
            assert path.suffix == ".part"
            path.write_bytes(b"half a file")
            raise error

        form = replace(formats.writer(".png"), write=write)
        monkeypatch.setattr(formats, "writer", lambda suffix: form)

    return install


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), FileAccessError, "the disk is full"),
        (OSError(errno.EDQUOT, "Quota"), FileAccessError, "the disk is full"),
        (OSError(errno.EIO, "Input/output error"), FileAccessError, "cannot write it: Input/output error"),
        (PermissionError(errno.EACCES, "Permission denied", "x.part"), FileAccessError, "no permission to write it"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x.part"), FileAccessError, "cannot write it"),
        (FormatError("too large for it"), FormatError, "too large for it"),
        (ValueError("a fault"), ValueError, "a fault"),
        (KeyboardInterrupt(), KeyboardInterrupt, ""),
    ],
)
def test_a_failed_write_leaves_nothing(broken_png, tmp_path, error, kind, said, overwrite):
    """Not even where there was a file before: that one stays as it was."""
    path = tmp_path / "a.png"
    if overwrite:
        path.write_bytes(b"the old file")
    broken_png(error)
    with pytest.raises(kind) as raised:
        formats.write(PICTURE, path, overwrite=overwrite)
    assert said in str(raised.value)
    if issubclass(kind, (FileAccessError, FormatError)):
        assert str(raised.value).startswith(f"{path}: ")
        assert ".part" not in str(raised.value)
    assert names(tmp_path) == (["a.png"] if overwrite else [])
    assert not overwrite or path.read_bytes() == b"the old file"


def test_overwriting_is_asked_for(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"the old file")
    with pytest.raises(OutputExistsError, match="exists already"):
        formats.write(PICTURE, path)
    assert path.read_bytes() == b"the old file"
    formats.write(PICTURE, path, overwrite=True)
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert names(tmp_path) == ["a.png"]


@pytest.mark.parametrize("links", [True, False])
def test_a_faster_writer_wins(tmp_path, monkeypatch, links):
    """The output appears while ours is being made, on file systems with and without hard links."""
    path = tmp_path / "a.png"
    honest = formats.writer(".png")

    def write(image, temporary, options):
        honest.write(image, temporary, options)
        path.write_bytes(b"the other's")

    def no_links(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(formats, "writer", lambda suffix: replace(honest, write=write))
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(OutputExistsError, match="appeared while"):
        formats.write(PICTURE, path)
    assert path.read_bytes() == b"the other's"
    assert names(tmp_path) == ["a.png"]


def test_without_hard_links(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    formats.write(PICTURE, tmp_path / "a.png")
    assert names(tmp_path) == ["a.png"]


def test_only_one_of_many_writers_wins(tmp_path):
    results = []

    def write(value):
        try:
            formats.write(SrgbImage(np.full((64, 64, 3), value, np.uint8)), tmp_path / "a.png")
            results.append(value)
        except OutputExistsError:
            pass

    threads = [threading.Thread(target=write, args=(value,)) for value in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 1
    assert (formats.read(tmp_path / "a.png").pixels == results[0]).all()
    assert names(tmp_path) == ["a.png"]


@pytest.mark.parametrize(
    ("image", "name", "said"),
    [
        (PICTURE, "a.dng", "an sRGB picture is written as .jpg, .jpeg, .png, .tif, .tiff, not .dng"),
        (RAW, "a.jpg", "a RAW image is written as .dng, .npy, .npz, .tif, .tiff, .exr, not .jpg"),
        (RAW, "a", "a RAW image is written as .dng, .npy, .npz, .tif, .tiff, .exr, not without a suffix"),
        (PICTURE, "a.webp", "not .webp"),
    ],
)
def test_kinds(image, name, said, tmp_path):
    with pytest.raises(FormatError) as raised:
        formats.write(image, tmp_path / name)
    assert said in str(raised.value)
    assert names(tmp_path) == []


def test_what_a_format_cannot_hold_names_the_output(tmp_path):
    negative = replace(RAW, canonical=replace(RAW.canonical, black_level=np.full((2, 2), -5.0)))
    with pytest.raises(FormatError, match=rf"^{tmp_path / 'a.dng'}: "):
        formats.write(negative, tmp_path / "a.dng")
    wide = SrgbImage(np.zeros((1, 65501, 3), np.uint8))
    with pytest.raises(FormatError, match=rf"^{tmp_path / 'a.jpg'}: 65501×1 is more than JPEG can hold"):
        formats.write(wide, tmp_path / "a.jpg")
    assert names(tmp_path) == []


def test_folders(tmp_path):
    with pytest.raises(
        FileAccessError, match=rf"^{tmp_path}/no/a.png: cannot write it: there is no folder {tmp_path}/no$"
    ):
        formats.write(PICTURE, tmp_path / "no" / "a.png")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(FileAccessError, match="cannot write it: Not a directory"):
        formats.write(PICTURE, tmp_path / "file" / "a.png")


def test_the_longest_names(tmp_path):
    for name in ("a" * 251 + ".png", "漢" * 83 + ".png"):
        formats.write(PICTURE, tmp_path / name)
        assert formats.read(tmp_path / name).size == PICTURE.size


def test_options_reach_the_writer(tmp_path):
    sizes = {}
    for quality in (10, 95):
        formats.write(PICTURE, tmp_path / f"{quality}.jpg", WriteOptions(quality=quality))
        sizes[quality] = (tmp_path / f"{quality}.jpg").stat().st_size
    assert sizes[10] < sizes[95]
    formats.write(PICTURE, tmp_path / "a.png", WriteOptions(bit_depth=16))
    assert formats.read(tmp_path / "a.png").pixels.dtype == np.uint16


def test_permissions_are_those_of_any_new_file(tmp_path):
    formats.write(PICTURE, tmp_path / "a.png")
    (tmp_path / "b").write_bytes(b"")
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_sweep_removes_files_of_ended_writers(tmp_path):
    fcntl = pytest.importorskip("fcntl", reason="files are held by locks on POSIX systems only")
    old = time.time() - 120
    for name in (".paramisp-left.part", ".paramisp-held.part", ".paramisp-new.part", "mine.part", ".other-x.part"):
        (tmp_path / name).write_bytes(b"half a file")
        if "new" not in name:
            os.utime(tmp_path / name, (old, old))
    with (tmp_path / ".paramisp-held.part").open("rb") as another:
        fcntl.flock(another, fcntl.LOCK_EX)
        atomic.sweep(tmp_path)
    assert names(tmp_path) == [".other-x.part", ".paramisp-held.part", ".paramisp-new.part", "mine.part"]
    atomic.sweep(tmp_path / "no such folder")
    atomic.sweep(tmp_path / ("no such name" * 30))


def test_sweep_leaves_a_file_that_is_being_written(tmp_path, monkeypatch):
    pytest.importorskip("fcntl", reason="files are held by locks on POSIX systems only")
    monkeypatch.setattr(atomic, "_YOUNG", -1)
    seen = []

    def write(image, path, options):
        path.write_bytes(b"half a file")
        atomic.sweep(tmp_path)
        seen.append(path.exists())
        path.write_bytes(b"a file")

    form = replace(formats.writer(".png"), write=write, verify=None)  # this writer writes no picture
    monkeypatch.setattr(formats, "writer", lambda suffix: form)
    formats.write(PICTURE, tmp_path / "x.png")
    assert seen == [True]
    assert names(tmp_path) == ["x.png"]
