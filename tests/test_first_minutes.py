"""The first minutes with the command line: odd files, odd surroundings, and words that help."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paramisp_cli import atomic, cameras, formats, weights
from paramisp_cli.cli import console, options
from paramisp_cli.directions import Direction

KNOWN = ("--model", "parametric", "--camera", "Canon EOS 60D")
UNPRINTABLE = "a\x1b[31mb\x07c\x9bd\u202ee\u2066f\x7fg\u2028h"
ESCAPED = r"a\x1b[31mb\x07c\x9bd\u202ee\u2066f\x7fg\u2028h"


@pytest.fixture
def photo(make_jpeg, tmp_path):
    return make_jpeg(tmp_path / "photo.jpg")


def shell(*words, **more):
    command = [sys.executable, "-m", "paramisp_cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, **more)


# Text from files -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("command", ["unprocess", "inspect"])
def test_a_camera_name_of_any_length(paramisp, make_jpeg, tmp_path, command):
    """File names are made of it when weights are looked for, and none can be that long."""
    long = make_jpeg(tmp_path / "long.jpg", exif={"0th": {0x010F: b"M" * 700, 0x0110: b"N" * 900}})
    fine = make_jpeg(tmp_path / "ok.jpg")
    code, out, err = paramisp(command, long, fine)
    assert code == 0, err
    assert not any("internal" in line for line in err)
    assert any(line.startswith(str(fine.with_suffix(".dng" if command == "unprocess" else ".jpg"))) for line in out)


def test_unprintable_characters_are_escaped(paramisp, make_jpeg, tmp_path):
    """Control characters and direction marks from EXIF and file names, on both streams."""
    exif = {"0th": {0x010F: b"Evil", 0x0110: UNPRINTABLE.encode()}}
    path = make_jpeg(tmp_path / f"{UNPRINTABLE}.jpg", exif=exif)
    code, out, err = paramisp("inspect", path)
    assert code == 0
    assert out[0].endswith(f"{ESCAPED}.jpg")
    assert any(ESCAPED in line for line in out[1:])
    assert all(ESCAPED in line for line in err)
    assert err
    (tmp_path / f"{UNPRINTABLE}.png").write_bytes(b"")
    code, out, err = paramisp("unprocess", tmp_path / f"{UNPRINTABLE}.png")
    assert (code, out) == (7, [])
    assert ESCAPED in err[0]


def test_paths_on_stdout_are_for_programs(paramisp, make_jpeg, tmp_path, monkeypatch):
    """In a pipe a path is the path; on a terminal it is escaped."""
    make_jpeg(tmp_path / "new\nline.jpg")
    _, out, _ = paramisp("unprocess", tmp_path / "new\nline.jpg", *KNOWN)
    assert "\n".join(out) == str(tmp_path / "new\nline.dng")
    shown = []
    monkeypatch.setattr(console, "_out", shown.append)
    monkeypatch.setattr(sys, "stdout", type("Terminal", (), {"isatty": lambda self: True})())
    console.result_path(tmp_path / "new\nline.dng")
    assert shown == [f"{tmp_path}/new\\nline.dng"]


def test_checkpoint_headers_are_escaped(paramisp, tmp_path):
    from paramisp_cli import models

    path = weights.save(models.architecture("paramisp")(Direction.RENDER), tmp_path / "x.safetensors", camera="a\x1b]b")
    _, out, _ = paramisp("weights", "info", path)
    assert any(line.endswith(r"a\x1b]b") for line in out)


# Files that are not ours to touch ------------------------------------------------------------------------------------


def test_like_is_an_input(paramisp, photo, make_jpeg, tmp_path):
    other = make_jpeg(tmp_path / "other.jpg")
    assert paramisp("unprocess", other, "-o", tmp_path / "l.dng", *KNOWN)[0] == 0
    before = (tmp_path / "l.dng").read_bytes()
    words = ("--like", tmp_path / "l.dng", "--on-exists", "overwrite", "--overwrite-foreign")
    code, out, err = paramisp("unprocess", photo, "-o", tmp_path / "l.dng", *words)
    assert (code, out) == (6, [])
    assert "l.dng: is read by this command (--like)" in err[0]
    assert (tmp_path / "l.dng").read_bytes() == before
    code, out, _ = paramisp("unprocess", photo, "-o", tmp_path / "l.dng", *words[:2], "--on-exists", "rename")
    assert (code, out) == (0, [str(tmp_path / "l-1.dng")])


@pytest.mark.slow
def test_only_own_files_are_overwritten(paramisp, make_jpeg, tmp_path):
    """A camera's RAW beside its JPEG, or its JPEG beside its RAW, is lost by no `--on-exists overwrite`."""
    folder = tmp_path / "card"
    folder.mkdir()
    exif = {"0th": {0x0131: b"Firmware 1.0"}}
    first, second = (make_jpeg(folder / name, exif=exif) for name in ("a.jpg", "b.jpg"))
    assert paramisp("unprocess", folder, *KNOWN)[0] == 0
    raw = first.with_suffix(".dng")
    raw.write_bytes(raw.read_bytes().replace(b"paramisp 0", b"camera 1 0"))
    taken, jpeg = raw.read_bytes(), second.read_bytes()
    code, out, err = paramisp("unprocess", folder, "--on-exists", "overwrite", *KNOWN)
    assert (code, out) == (1, [str(folder / "b.dng")])
    assert err[0].startswith(f"paramisp: {raw}: was not made by paramisp")
    assert err[0].endswith("--overwrite-foreign")
    assert raw.read_bytes() == taken
    code, out, err = paramisp("render", folder / "b.dng", "--on-exists", "overwrite", "--model", "parametric")
    assert (code, out) == (6, [])
    assert second.read_bytes() == jpeg
    code, _, _ = paramisp("unprocess", folder, "--on-exists", "overwrite", "--overwrite-foreign", *KNOWN)
    assert code == 0
    assert raw.read_bytes() != taken
    for suffix in (".png", ".tif", ".jpg"):  # of a rendered picture of ours, once more
        for _ in range(2):
            words = ("-o", tmp_path / f"x{suffix}", "--on-exists", "overwrite", "--model", "parametric")
            assert paramisp("render", folder / "b.dng", *words)[0] == 0
        assert formats.is_own(tmp_path / f"x{suffix}")
    assert not formats.is_own(first)
    assert not formats.is_own(tmp_path / "missing.dng")


def test_an_unreadable_file_costs_only_itself(paramisp, photo, make_jpeg, monkeypatch, tmp_path):
    """Typer refuses the whole command for an argument that `os.access` denies."""
    other = make_jpeg(tmp_path / "other.jpg")
    honest_access, honest_open = os.access, Path.open

    def opened(path, *words, **more):
        if path == photo:
            raise PermissionError(13, "Permission denied", str(path))
        return honest_open(path, *words, **more)

    monkeypatch.setattr(os, "access", lambda path, mode, **more: str(path) != str(photo) and honest_access(path, mode))
    monkeypatch.setattr(Path, "open", opened)
    code, out, err = paramisp("unprocess", photo, other, *KNOWN)
    assert (code, out) == (1, [str(other.with_suffix(".dng"))])
    assert err[0] == f"paramisp: {photo}: no permission to read it; check the owner of file and folder"
    assert paramisp("inspect", photo, other)[0] == 1


def test_an_unreadable_subfolder_costs_only_itself(paramisp, photo, make_jpeg, monkeypatch, tmp_path):
    (tmp_path / "closed").mkdir()
    (tmp_path / "open").mkdir()
    make_jpeg(tmp_path / "open" / "a.jpg")
    honest = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return honest(path)

    monkeypatch.setattr(os, "scandir", scandir)
    code, out, err = paramisp("unprocess", tmp_path, "-r", "-o", tmp_path / "out", *KNOWN)
    assert code == 1
    assert out == [str(tmp_path / "out" / name) for name in ("open/a.dng", "photo.dng")]
    assert f"paramisp: {tmp_path / 'closed'}: the folder cannot be read: Permission denied" in err


# Streams, signals, surroundings --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-", ">&- 2>&-"])
def test_closed_streams(photo, make_jpeg, tmp_path, closed):
    """Nothing meant for one stream appears in another, or in a file that got its number."""
    (tmp_path / "bad.jpg").write_bytes(b"")
    words = f"unprocess {photo} {tmp_path / 'bad.jpg'} --model parametric --on-exists overwrite"
    done = subprocess.run(
        ["sh", "-c", f"exec {sys.executable} -m paramisp_cli {words} {closed}"],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ("" if ">&-" in closed.split() else f"{photo.with_suffix('.dng')}\n")
    assert ("the file is empty" in done.stderr) == ("2>&-" not in closed)
    assert formats.read(photo.with_suffix(".dng")).size == (48, 64)


def test_a_deleted_working_directory(photo, tmp_path):
    gone = tmp_path / "gone"
    script = f"cd {gone} && rmdir {gone} && exec {sys.executable} -m paramisp_cli unprocess"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}

    def run(words):
        return subprocess.run(
            ["sh", "-c", f"{script} {words}"], capture_output=True, text=True, timeout=100, check=False, env=environment
        )

    for path in (photo, "photo.jpg"):
        gone.mkdir()
        done = run(path)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (4, "", 1)
        assert "the working directory no longer exists" in done.stderr


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="a signal of POSIX systems")
def test_a_closed_terminal_ends_as_a_polite_kill(paramisp, photo, make_jpeg, monkeypatch):
    from paramisp_cli import convert

    honest = convert.run

    def hang_up(*args):
        signal.raise_signal(signal.SIGHUP)
        return honest(*args)

    monkeypatch.setattr(convert, "run", hang_up)
    before = signal.getsignal(signal.SIGHUP)
    code, _, err = paramisp("unprocess", photo, make_jpeg(photo.with_name("b.jpg")), *KNOWN)
    assert code == 130
    assert err[-1].endswith("resume with --on-exists skip")
    assert signal.getsignal(signal.SIGHUP) is before
    assert not list(photo.parent.glob(".paramisp-*"))


def test_leftovers_of_a_killed_run_go_at_once(photo, tmp_path):
    """The writer's lock is free, on this machine: it has ended, however young its file is."""
    pytest.importorskip("fcntl", reason="locks of POSIX systems")
    script = (
        "import os, signal; from pathlib import Path; from paramisp_cli import atomic\n"
        f"with atomic.replacing(Path({str(tmp_path / 'x.dng')!r}), overwrite=False) as part:\n"
        "    part.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    (left,) = tmp_path.glob(".paramisp-*.part")
    assert time.time() - left.stat().st_mtime < 50
    atomic.sweep(tmp_path)
    assert not left.exists()


def test_a_young_file_of_another_machine_stays(tmp_path):
    pytest.importorskip("fcntl", reason="locks of POSIX systems")
    young, old = (tmp_path / f".paramisp-0000{name}-0123456789ab.part" for name in ("aaaa", "bbbb"))
    for path in (young, old):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    atomic.sweep(tmp_path)
    assert young.exists()
    assert not old.exists()


def test_no_advice_that_was_taken(paramisp, photo, monkeypatch):
    from paramisp_cli import convert

    def starve(*_):
        raise MemoryError

    monkeypatch.setattr(convert, "run", starve)
    assert "--model parametric" not in paramisp("unprocess", photo, *KNOWN)[2][0]


# Folders -------------------------------------------------------------------------------------------------------------


def test_files_left_out_are_counted(paramisp, photo, tmp_path):
    for name in ("a.jxl", "b.JXL", "c.nef", "d.txt", "e", ".hidden"):
        (tmp_path / name).write_bytes(b"x")
    code, _, err = paramisp("unprocess", tmp_path, *KNOWN)
    assert code == 0
    assert err[0] == (
        "left out 5 files: 2 JPEG XL (cannot be read), 1 RAW (`paramisp render` converts them), "
        "2 other (.txt, no suffix)"
    )
    assert paramisp("unprocess", tmp_path, "-q", "--on-exists", "overwrite", *KNOWN)[2] == []


def test_a_folder_of_other_files_only(paramisp, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.jxl").write_bytes(b"x")
    code, _, err = paramisp("unprocess", tmp_path)
    assert code == 5
    assert "left out 1 file: 1 JPEG XL" in err[0]
    assert "pass -r" not in err[1]


def test_notices_tell_how_many_files_they_concern(paramisp, make_jpeg, tmp_path):
    for number in range(3):
        make_jpeg(tmp_path / f"{number}.jpg")
    make_jpeg(tmp_path / "grey.jpg", np.full((48, 64), 90, np.uint8))
    _, _, err = paramisp("unprocess", tmp_path, "--model", "parametric")
    notices = [line for line in err if "/4]" not in line]
    assert notices[:2] == [
        "4 files: camera unknown: used average colours (pass --camera or --like RAW)",
        f"{tmp_path / 'grey.jpg'}: the picture is grey: the same values were used for R, G and B",
    ]


# Options -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_stdout_as_output(photo, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "paramisp_cli", "unprocess", photo, "-o", "-", *KNOWN],
        capture_output=True, timeout=100, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    (tmp_path / "x.dng").write_bytes(done.stdout)
    assert formats.read(tmp_path / "x.dng").size == (48, 64)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.jpg", "x.dng"]
    words = ["render", "x.dng", "-o", "-", "--format", "png", "--model", "parametric"]
    done = subprocess.run(
        [sys.executable, "-m", "paramisp_cli", *words],
        capture_output=True, timeout=100, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout.startswith(b"\x89PNG")
    assert "single file" in shell("unprocess", photo, photo, "-o", "-").stderr
    assert shell("unprocess", tmp_path, "-o", "-").returncode == 2
    assert shell("unprocess", tmp_path / "no.jpg", "-o", "-").returncode == 5


def test_suggestions(paramisp, photo):
    assert cameras.close_names("Canon")[0].startswith("Canon")
    assert cameras.close_names("nikon d9") == ["Nikon D90"]
    assert "Nikon D90" in cameras.close_names("Nikon D9O")
    assert cameras.close_names("") == []
    code, _, err = paramisp("unprocess", photo, "--camera", "Canon")
    assert code == 2
    assert "did you mean Canon" in err[0]


def completions(words, incomplete):
    environment = {
        **os.environ,
        "_PARAMISP_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["paramisp", *words, incomplete]),
        "COMP_CWORD": str(len(words) + 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", "from paramisp_cli.cli.app import main; main()"],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "incomplete", "offered"),
    [
        (["unprocess", "--on-exists"], "", {"error", "skip", "overwrite", "rename"}),
        (["unprocess", "--model"], "", {"parametric", "paramisp"}),
        (["unprocess", "--camera"], "Nikon", {"Nikon D90", "Nikon Z 6"}),
        (["train", "--recipe"], "camera", {"camera-cpu", "camera-gpu"}),
        (["weights", "info"], "gen", {"generic"}),
        (["unprocess", "--weights"], "gopro", {"gopro-hero7-black"}),
        (["unprocess", "--device"], "c", {"cpu", "cuda"}),
    ],
)
def test_completion(words, incomplete, offered):
    assert offered <= set(completions(words, incomplete))


@pytest.mark.slow
def test_help(paramisp, monkeypatch):
    for width, longest in (("80", 80), ("120", 120), ("300", 122)):
        monkeypatch.setenv("COLUMNS", width)
        _, out, _ = paramisp("unprocess", "--help")
        assert 0.8 * longest < max(map(len, out)) <= longest
    assert [line for line in out if line.endswith(":")][1:8] == [
        "Files:", "Messages:", "Model and machine:", "Shot:", "Output:", "Cluster:", "Options:",
    ]  # fmt: skip
    _, out, _ = paramisp("--help")
    commands = [line.split()[0] for line in out if line.startswith("  ") and not line.startswith("  -")]
    assert commands[commands.index("unprocess") + 1] == "render"
    for words in ([], ["unprocess"], ["render"], ["inspect"], ["cameras"], ["doctor"], ["train"], ["weights", "info"]):
        _, out, _ = paramisp(*words, "-h")
        assert "Examples:" in out
        assert any(line.startswith("  paramisp ") for line in out[out.index("Examples:") :])
    assert paramisp("-V")[1] == paramisp("--version")[1]


@pytest.mark.parametrize(("text", "value"), [("400MP", 4e8), ("0.4gp", 4e8), ("250", 250), ("12mp", 12e6)])
def test_numbers_of_pixels(text, value):
    assert options.pixel_count(text) == value


# Names of checkpoints ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_checkpoints_by_name(paramisp, photo, tmp_path):
    code, out, _ = paramisp("weights", "info", "generic")
    assert code == 0
    assert [line.split()[-1] for line in out if line.startswith("direction ")] == ["unprocess", "render"]
    code, out, _ = paramisp("weights", "info", "Canon EOS 60D", "--json")
    assert [json.loads(line)["camera"] for line in out] == ["Canon EOS 60D"] * 2
    assert paramisp("weights", "info", "no such camera")[0] == 8
    code, out, _ = paramisp("unprocess", photo, "--weights", "canon-eos-60d", "--dry-run", "--json")
    assert json.loads(out[0])["weights"].endswith("canon-eos-60d.unprocess.safetensors")
    assert paramisp("inspect", photo, "--weights", "generic")[0] == 0
    code, _, err = paramisp("unprocess", photo, "--weights", "nothing")
    assert code == 8
    assert "neither a file nor the name" in err[0]
    assert paramisp("weights", "verify", "x" * 300)[0] == 8


def test_import_to_a_file(paramisp, shared, tmp_path):
    source = shared / "parity" / "seed01_unprocess.ckpt"
    words = ("--camera", "Nikon D90", "--direction", "unprocess", "-o", tmp_path / "new" / "X.safetensors")
    code, out, err = paramisp("weights", "import", source, *words)
    assert (code, out) == (0, [str(tmp_path / "new" / "X.safetensors")])
    assert err == [
        f"{source} is a checkpoint of paramisp: 288 tensors, 1.39 million numbers",
        "licence of the authors' weights: unknown: the authors state none",
    ]
    assert (tmp_path / "new" / "X.safetensors").is_file()
    assert weights.info(tmp_path / "new" / "X.safetensors")["camera"] == "Nikon D90"


@pytest.mark.slow
def test_a_single_photo_on_a_terminal_is_not_silent(photo):
    """A clock runs while the network works."""
    import pty

    main, terminal = pty.openpty()
    words = [sys.executable, "-m", "paramisp_cli", "unprocess", photo, *KNOWN]
    done = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=terminal, env={**os.environ, "TERM": "xterm"})
    os.close(terminal)
    shown = b""
    while True:
        try:
            piece = os.read(main, 65536)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    os.close(main)
    done.communicate(timeout=60)
    assert done.returncode == 0
    assert b"photo.jpg" in shown
    assert b"0:00:0" in shown


@pytest.mark.slow
def test_a_limit_of_pixels(paramisp, photo, make_tiff, tmp_path):
    """The error names the flag; the limit holds for pictures and RAW files, and for `inspect`."""
    assert paramisp("unprocess", photo, *KNOWN)[0] == 0
    (tmp_path / "x.dng").write_bytes(photo.with_suffix(".dng").read_bytes())
    for words in (("inspect", photo), ("inspect", tmp_path / "x.dng"), ("inspect", "--isolate", tmp_path / "x.dng")):
        code, out, err = paramisp(*words, "--max-pixels", "3000")
        assert (code, out) == (7, [])
        assert "64×48 = 0.0031 megapixels, more than the 0.003 megapixels allowed (--max-pixels)" in err[0]
        assert paramisp(*words, "--max-pixels", "3072")[0] == 0
    assert paramisp("unprocess", photo, "-o", tmp_path / "y.dng", "--max-pixels", "3000")[0] == 7


@pytest.mark.slow
def test_isolated_rendering_is_the_same(paramisp, photo, tmp_path):
    assert paramisp("unprocess", photo, *KNOWN)[0] == 0
    for name, more in (("a.png", ()), ("b.png", ("--isolate",))):
        words = ("render", photo.with_suffix(".dng"), "-o", tmp_path / name, "--model", "parametric", "--verify")
        assert paramisp(*words, *more)[0] == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_picture_too_long_for_a_dng_is_refused_at_once(paramisp, tmp_path, monkeypatch):
    from paramisp_cli import convert

    Image.new("RGB", (64002, 2)).save(tmp_path / "long.png")
    monkeypatch.setattr(convert, "run", lambda *_: pytest.fail("pixel work was done"))
    code, out, err = paramisp("unprocess", tmp_path / "long.png", *KNOWN)
    assert (code, out) == (7, [])
    assert "64002×2 is more than most programs open as a DNG" in err[0]


def test_notices_of_exif_are_summed_up(paramisp, make_jpeg, tmp_path):
    """Each file has another value, and all have one cause."""
    for number in range(3):
        make_jpeg(tmp_path / f"{number}.jpg", exif={"Exif": {0x9201: (number + 5, 1)}})
    _, _, err = paramisp("unprocess", tmp_path, *KNOWN)
    assert "3 files: exposure_time derived from ShutterSpeedValue" in err


def test_a_lens_faster_than_its_maximum_aperture_tells(paramisp, photo):
    """f/0.9, from a file that names no maximum aperture."""
    code, out, err = paramisp("unprocess", photo, *KNOWN, "--f-number", "0.9")
    assert (code, out, err) == (0, [str(photo.with_suffix(".dng"))], [])
