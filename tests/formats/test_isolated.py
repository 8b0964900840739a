"""Reading in a process of its own gives the same image, and a decoder that crashes or hangs costs its file alone."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest

import paramisp_cli as paramisp
from paramisp_cli import formats
from paramisp_cli.errors import FileAccessError, FormatError, InputMissingError
from paramisp_cli.formats import isolated
from paramisp_cli.types import RawImage, SrgbImage

posix = pytest.mark.skipif(os.name != "posix", reason="signals and limits are POSIX's")


def assert_same(a: object, b: object, where: str = "image") -> None:
    """Every field of two values is the same: type, shape, bits."""
    assert type(a) is type(b), where
    if isinstance(a, np.ndarray):
        assert (a.dtype, a.shape, a.flags.writeable) == (b.dtype, b.shape, b.flags.writeable), where
        assert a.tobytes() == b.tobytes(), where
    elif is_dataclass(a):
        for field in fields(a):
            assert_same(getattr(a, field.name), getattr(b, field.name), f"{where}.{field.name}")
    elif isinstance(a, tuple):
        assert len(a) == len(b), where
        for number, (one, other) in enumerate(zip(a, b, strict=True)):
            assert_same(one, other, f"{where}[{number}]")
    else:
        assert a == b, where


@pytest.fixture
def raw(make_jpeg, tmp_path):
    """A DNG of our own, with a preview, EXIF and a tone curve."""
    exif = {"0th": {271: "NIKON CORPORATION", 272: "NIKON D90", 274: 6}, "Exif": {34855: 200, 33434: (1, 125)}}
    photo = make_jpeg(tmp_path / "photo.jpg", exif=exif)
    path = tmp_path / "own.dng"
    formats.write(paramisp.unprocess(photo, paramisp.Settings(model="parametric")), path)
    return path


@pytest.mark.slow
def test_the_same_image_of_our_own_dng(raw):
    image = formats.read(raw, isolate=True)
    assert isinstance(image, RawImage)
    assert image.metadata.jpeg
    assert image.origin
    assert_same(image, formats.read(raw))


@pytest.mark.slow
def test_the_same_image_of_every_real_file(real_raws):
    """Of each camera one file: every field is the same, bit for bit."""
    if not real_raws:
        pytest.skip("no real RAW files")
    cameras: dict[str, Path] = {}
    for path in real_raws.values():
        cameras.setdefault(path.parent.name if path.parent.name != "paramisp-samples" else path.name, path)
    for path in cameras.values():
        assert_same(formats.read(path, isolate=True), formats.read(path), path.name)


@pytest.mark.slow
def test_pictures(make_tiff, make_jpeg, tmp_path):
    """A TIFF may be a RAW file until it is read; a JPEG cannot, and takes no process."""
    for path in (make_tiff(tmp_path / "a.tif"), make_jpeg(tmp_path / "a.jpg")):
        image = formats.read(path, isolate=True)
        assert isinstance(image, SrgbImage)
        assert_same(image, formats.read(path))


@pytest.mark.slow
def test_errors_are_the_same(raw, tmp_path):
    data = raw.read_bytes()
    cut, none, empty = (tmp_path / name for name in ("cut.dng", "none.dng", "empty.dng"))
    cut.write_bytes(data[: len(data) // 2])
    empty.write_bytes(b"")
    for path in (cut, none, empty, tmp_path):
        with pytest.raises((FormatError, InputMissingError, FileAccessError)) as plain:
            formats.read(path)
        with pytest.raises(type(plain.value)) as apart:
            formats.read(path, isolate=True)
        assert str(apart.value) == str(plain.value)


@pytest.fixture
def decoder(monkeypatch, tmp_path):
    """decoder(code): the child, and it alone, finds a rawpy that runs code in place of LibRaw's reading."""
    package = Path(isolated.__file__).parents[2]

    def replace(code: str) -> None:
        place = tmp_path / "first"
        place.mkdir()
        (place / "rawpy.py").write_text(
            "class LibRawError(Exception): ...\nclass RawPy: ...\n"
            f"def imread(path):\n    import os, signal, time, sys\n    {code}\n"
        )
        monkeypatch.setattr(sys, "path", [str(place), str(package), *sys.path])

    return replace


@pytest.mark.slow
@posix
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_a_crash_is_an_error_of_the_file(raw, decoder, number):
    decoder(f"os.kill(os.getpid(), {int(number)})")
    with pytest.raises(FormatError, match=rf"own\.dng: the RAW decoder crashed on it \(signal {int(number)}\)"):
        formats.read(raw, isolate=True)


@pytest.mark.slow
@posix
def test_a_busy_decoder_is_stopped(raw, decoder, monkeypatch):
    monkeypatch.setattr(isolated, "_SECONDS", 2)
    monkeypatch.setattr(isolated, "_PATIENCE", 1000)  # the processor time alone ends it, on a busy machine too
    decoder("while True: pass")
    with pytest.raises(FormatError, match="did not finish in 2 s"):
        formats.read(raw, isolate=True)


@pytest.mark.slow
def test_a_sleeping_decoder_is_stopped(raw, decoder, monkeypatch):
    monkeypatch.setattr(isolated, "_SECONDS", 1)
    decoder("time.sleep(1000)")
    with pytest.raises(FormatError, match="did not finish in 4 s"):
        formats.read(raw, isolate=True)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no limit of memory without /proc")
def test_a_decoder_gets_no_more_memory_than_files_need(raw, decoder):
    decoder("return bytearray(4 << 30)")
    with pytest.raises(FormatError, match="more memory than a file of this size needs"):
        formats.read(raw, isolate=True)


@posix
def test_lack_of_memory_is_told_from_a_damaged_file(raw, decoder):
    decoder("os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(FileAccessError, match="was killed, probably for lack of memory"):
        formats.read(raw, isolate=True)


def test_a_fault_of_ours_is_no_error_of_the_file(raw, decoder):
    decoder("raise ZeroDivisionError('ours')")
    with pytest.raises(RuntimeError, match="ZeroDivisionError: ours"):
        formats.read(raw, isolate=True)


@posix
@pytest.mark.parametrize(
    "answer",
    [
        b"", b"x\n", b"-1\n{}", b"99999999999\n", b"5\n[1,2]", b"2\n{}", b"4\nnull", b"13\n" + b'{"Path":null}',
        b"1\n[", b"100000\n" + b"[" * 100_000, b"29\n" + b'{"array":["uint16",[9,9,9]]}'.ljust(29),
        b"27\n" + b'{"array":["object",[1]]}'.ljust(27), b"19\n" + b'{"bytes":100000000}', b"14\n" + b'{"tuple":[{}]}',
        b"17\n" + b'{"error":["x",1]}', b"30\n" + b'{"array":["uint8",[-1,-1]]}'.ljust(30),
        b"15\n" + b'{"RawImage":{}}', b"9\n" + b'{"Crop":1}'[:9], b"10\n" + b'{"Crop":1}',
    ],
)  # fmt: skip
def test_nothing_in_the_answer_is_trusted(raw, monkeypatch, tmp_path, answer):
    """A child that was taken over answers what it likes; the parent refuses the file and goes on."""
    (tmp_path / "answer").write_bytes(answer)
    child = tmp_path / "child"
    child.write_text(f"#!/bin/sh\nexec cat '{tmp_path / 'answer'}'\n")
    child.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(child))
    with pytest.raises(FormatError, match="gave an invalid answer"):
        formats.read(raw, isolate=True)
