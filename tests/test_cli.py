"""The command line as people and scripts meet it: results on stdout, words on stderr, options, and every subcommand."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paramisp_cli import __version__, convert, formats, sources, weights
from paramisp_cli.cli.console import interruptible

CAMERA = ("--camera", "Canon EOS 60D")
QUIET = ("--model", "parametric", *CAMERA)


@pytest.fixture(autouse=True)
def no_weights(monkeypatch, tmp_path):
    """Weights that happen to be installed play no part here."""
    monkeypatch.setattr(weights, "places", lambda: [("a test", tmp_path / "no weights")])
    sources._references.cache_clear()


@pytest.fixture
def photos(make_jpeg, tmp_path):
    """A folder with three photographs, one in a folder below."""
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "deep/c.jpg"):
        make_jpeg(folder / name)
    return folder


def shell(*words, **options):
    command = [sys.executable, "-m", "paramisp_cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, **options)


# Words and results ---------------------------------------------------------------------------------------------------


def test_version_and_help(paramisp):
    assert paramisp("--version") == (0, [f"paramisp {__version__}"], [])
    for words in (["--help"], ["-h"], ["unprocess", "-h"], ["weights", "import", "--help"]):
        code, out, err = paramisp(*words)
        assert (code, err) == (0, [])
        assert out[0].startswith("Usage: paramisp")
    code, out, err = paramisp()
    assert (code, out) == (2, [])
    assert "unprocess" in "\n".join(err)


def test_one_file_says_its_path_and_no_more(paramisp, photos):
    assert paramisp("unprocess", photos / "a.jpg", *QUIET) == (0, [str(photos / "a.dng")], [])
    code, out, err = paramisp("render", photos / "a.dng", "-o", photos / "x.tif", "--model", "parametric")
    assert (code, out, err) == (0, [str(photos / "x.tif")], [])


def test_a_batch(paramisp, photos, tmp_path):
    out = tmp_path / "out"
    code, paths, err = paramisp("unprocess", "-r", photos, "-o", out, "--model", "parametric")
    assert code == 0
    assert paths == [str(out / name) for name in ("a.dng", "b.dng", "deep/c.dng")]
    lines = [re.sub(r"\(\d+\.\d s\)", "(s)", line) for line in err]
    expected = [f"[{n}/3] {photos / name}: done (s)" for n, name in enumerate(("a.jpg", "b.jpg", "deep/c.jpg"), 1)]
    notice = "3 files: camera unknown: used average colours (pass --camera or --like RAW)"
    assert lines == [*expected, notice, "3 done, 0 skipped, 0 failed"]
    assert paramisp("unprocess", "-r", photos, "-o", out, "-q", "--on-exists", "overwrite")[2] == []


def test_json(paramisp, photos):
    (photos / "bad.jpg").write_bytes(b"")
    code, out, err = paramisp("unprocess", photos, "--json", "--model", "parametric", "--iso", "200")
    assert code == 1
    records = [json.loads(line) for line in out]
    assert [record["status"] for record in records] == ["done", "done", "failed"]
    first, last = records[0], records[2]
    assert first["input"] == str(photos / "a.jpg")
    assert first["output"] == str(photos / "a.dng")
    assert (first["model"], first["weights"], first["iso"], first["origin"]["iso"]) == ("parametric", None, 200, "flag")
    assert len(first["wb_gains"]) == 3
    assert "average colours" in first["notices"][0]
    words = ("--dry-run", "--json", "--camera", "AgfaPhoto DC-833m")  # of the table, and without a matrix
    _, out, _ = paramisp("unprocess", photos / "a.jpg", "-o", photos / "x.dng", "--model", "parametric", *words)
    silent = "the camera table has no colour matrix of AgfaPhoto DC-833m: used average colours"
    assert any(notice.startswith(silent) for notice in json.loads(out[0])["notices"])
    assert records[1]["notices"] == first["notices"]  # each line tells all of its file
    assert last["output"] is None
    assert last["error"] == f"{photos / 'bad.jpg'}: the file is empty"
    assert last["error_kind"] == "FormatError"
    assert f"paramisp: {last['error']}" in err


@pytest.mark.slow
def test_shards(paramisp, photos, tmp_path):
    """Two workers do what one would, into one folder, each its own; an output that is there is skipped."""
    words = ("unprocess", "-r", photos, "-o", tmp_path / "out", "--model", "parametric", "--on-exists", "skip")
    paths = [path for part in ("1/2", "2/2") for path in paramisp(*words, "--shard", part)[1]]
    assert sorted(paths) == [str(tmp_path / "out" / name) for name in ("a.dng", "b.dng", "deep/c.dng")]
    assert paramisp(*words, "--shard", "1/1")[2][-1] == "0 done, 3 skipped, 0 failed"
    for wrong in ("0/2", "3/2", "2", "a/b", "1/0"):
        code, _, err = paramisp(*words, "--shard", wrong)
        assert code == 2
        assert "I/N" in err[-1]


def test_an_output_that_another_worker_made_meanwhile_is_skipped(paramisp, photos, tmp_path, monkeypatch):
    real = convert.run

    def run(image, plan, settings, *_):
        (photos / "a.dng").write_bytes(b"the other worker's")
        return real(image, plan, settings)

    monkeypatch.setattr(convert, "run", run)
    code, out, _ = paramisp("unprocess", photos / "a.jpg", *QUIET, "--on-exists", "skip")
    assert (code, out) == (0, [])
    assert (photos / "a.dng").read_bytes() == b"the other worker's"
    (photos / "a.dng").unlink()
    code, out, err = paramisp("unprocess", photos / "a.jpg", *QUIET)
    assert (code, out) == (6, [])
    assert "exists already" in err[-1]


def test_verbose(paramisp, photos):
    _, _, err = paramisp("unprocess", photos / "a.jpg", *QUIET, "-v", "--wb", "2,1,1.5")
    assert "  wb_gains: [2.0, 1.0, 1.5]  [flag]" in err
    assert "  cfa: RGGB  [camera table (Canon EOS 60D)]" in err or any(line.startswith("  cfa: ") for line in err)


def test_dry_run(paramisp, photos, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    code, out, err = paramisp("unprocess", photos, "-o", tmp_path / "new" / "out", "--dry-run", *QUIET)
    assert code == 0
    assert out == [str(tmp_path / "new" / "out" / name) for name in ("a.dng", "b.dng")]
    assert err[-1] == "2 planned, 0 skipped, 0 failed"
    assert sorted(tmp_path.rglob("*")) == before
    (photos / "bad.jpg").write_bytes(b"")
    assert paramisp("unprocess", photos, "--dry-run")[0] == 1


@pytest.mark.slow
def test_on_exists(paramisp, photos):
    words = ("unprocess", photos, *QUIET)
    assert paramisp(*words)[0] == 0
    first = (photos / "a.dng").stat()
    code, out, err = paramisp(*words)
    assert (code, out) == (1, [])
    assert err[-2] == "0 done, 0 skipped, 2 failed"
    code, out, err = paramisp(*words, "--on-exists", "skip")
    assert (code, out, err[-1]) == (0, [], "0 done, 2 skipped, 0 failed")
    assert (photos / "a.dng").stat().st_ino == first.st_ino
    assert paramisp(*words, "--on-exists", "rename")[1] == [str(photos / "a-1.dng"), str(photos / "b-1.dng")]
    assert paramisp(*words, "--on-exists", "overwrite")[1] == [str(photos / "a.dng"), str(photos / "b.dng")]
    assert (photos / "a.dng").stat().st_ino != first.st_ino
    code, out, err = paramisp("unprocess", photos / "a.jpg", "--on-exists", "skip")
    assert (code, out, err) == (0, [], [f"{photos / 'a.dng'}: exists already, skipped"])


def test_fail_fast(paramisp, photos):
    (photos / "a.jpg").write_bytes(b"")
    code, out, err = paramisp("unprocess", photos, "--fail-fast", *QUIET)
    assert (code, out) == (1, [])
    assert err[1] == "0 done, 0 skipped, 1 failed, 1 not tried"
    assert not (photos / "b.dng").exists()


@pytest.mark.parametrize(
    "name", ["-dash.jpg", "sp ace é ü 漢.jpg", "new\nline.jpg", "quote'\".jpg", "漢" * 83 + ".jpg", "%s{0}[b].jpg"]
)
def test_names(paramisp, make_jpeg, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    make_jpeg(tmp_path / name)
    code, out, err = paramisp("unprocess", *QUIET, "--", name)
    assert (code, err) == (0, [])
    assert "\n".join(out) == str(Path(name).with_suffix(".dng"))
    assert formats.read(Path(name).with_suffix(".dng")).metadata.source_name
    assert paramisp("render", "--model", "parametric", "-o", "out", "--", Path(name).with_suffix(".dng"))[0] == 0


@pytest.mark.slow
def test_names_that_are_not_utf8(photos, tmp_path):
    raw = os.fsencode(tmp_path) + b"/bad\xff.jpg"
    Path(os.fsdecode(raw)).write_bytes((photos / "a.jpg").read_bytes())
    command = [sys.executable, "-m", "paramisp_cli", "unprocess", *QUIET, raw]
    done = subprocess.run(command, capture_output=True, timeout=100, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, raw[:-4] + b".dng\n", b"")


def test_links_are_read_and_not_replaced(paramisp, photos, tmp_path):
    link = tmp_path / "link.jpg"
    link.symlink_to(photos / "a.jpg")
    assert paramisp("unprocess", link, *QUIET)[1] == [str(tmp_path / "link.dng")]
    assert link.is_symlink()
    other = tmp_path / "out.dng"
    other.symlink_to(tmp_path / "link.dng")
    before = (tmp_path / "link.dng").read_bytes()
    assert paramisp("unprocess", photos / "b.jpg", "-o", other, "--on-exists", "overwrite", *QUIET)[0] == 0
    assert not other.is_symlink()
    assert (tmp_path / "link.dng").read_bytes() == before


@pytest.mark.slow
def test_closed_stdout(photos, tmp_path):
    """`paramisp … | head -1`: no traceback, and the work is done all the same."""
    words = f"unprocess -q -r {photos} -o {tmp_path / 'out'} --model parametric"
    script = f"set -o pipefail; {sys.executable} -m paramisp_cli {words} | true"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((tmp_path / "out").rglob("*.dng"))) == 3
    for words in ("cameras", f"inspect {photos / 'a.jpg'}", "weights list"):
        script = f"set -o pipefail; {sys.executable} -m paramisp_cli {words} 2>&1 | head -1"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=100, check=False)
        assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)


@pytest.mark.slow
@pytest.mark.parametrize("plain", [False, True])
def test_progress_on_a_terminal(photos, tmp_path, plain):
    """A bar with the file's name on a terminal; results still alone on stdout; no colours under NO_COLOR."""
    main, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    if plain:
        environment["NO_COLOR"] = "1"
    command = [sys.executable, "-m", "paramisp_cli", "unprocess", "-r", photos, "-o", tmp_path / "out", *QUIET]
    done = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal, text=True, env=environment)
    os.close(terminal)
    shown = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # Linux's end of a terminal
            break
        if not part:
            break
        shown += part
    os.close(main)
    out, _ = done.communicate(timeout=60)
    assert done.returncode == 0
    assert out.splitlines() == [str(tmp_path / "out" / name) for name in ("a.dng", "b.dng", "deep/c.dng")]
    text = shown.decode()
    assert "/3" in text
    assert text.rstrip().endswith("3 done, 0 skipped, 0 failed")
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-9]", text)) is not plain


def test_an_interrupt_that_becomes_an_error_of_c_code_is_an_interrupt():
    """As in a callback of torch's writer of checkpoints."""

    def work(*numbers):
        with interruptible():
            for number in numbers:
                with contextlib.suppress(KeyboardInterrupt):
                    signal.raise_signal(number)
            raise RuntimeError("unexpected pos 30 vs 0")

    for number in (signal.SIGINT, signal.SIGTERM):
        with pytest.raises(KeyboardInterrupt):
            work(number)
    with pytest.raises(RuntimeError):
        work()


# Options -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_options_of_unprocess(paramisp, photos):
    words = ("unprocess", photos / "a.jpg", *QUIET, "--on-exists", "overwrite")
    flags = ("--iso", "800", "--exposure-time", "1/50", "--f-number", "4", "--focal-length", "24", "--wb", "2,1,1.5")
    assert paramisp(*words, *flags, "--cfa", "GBRG", "--exposure", "1")[0] == 0
    raw = formats.read(photos / "a.dng")
    assert raw.canonical.cfa == "GBRG"
    assert raw.optical.iso == 800
    assert raw.optical.exposure_time == pytest.approx(0.02)
    assert (raw.optical.f_number, raw.optical.focal_length) == (4, 24)
    assert raw.camera.model == "Canon EOS 60D"
    assert raw.baseline_exposure == 1
    np.testing.assert_allclose(raw.canonical.wb_gains, [2, 1, 1.5], atol=1e-5)
    assert raw.metadata.jpeg is not None
    sizes = {}
    for compression in ("lossless", "none"):
        assert paramisp(*words, "--compression", compression, "--no-embed-jpeg")[0] == 0
        sizes[compression] = (photos / "a.dng").stat().st_size
        assert formats.read(photos / "a.dng").metadata.jpeg is None
    assert sizes["lossless"] != sizes["none"]
    made = set()
    for profile in ("match", "linear", "adobe"):
        assert paramisp(*words, "--profile", profile)[0] == 0
        made.add((photos / "a.dng").read_bytes())
    assert len(made) == 3


@pytest.mark.slow
def test_options_of_render(paramisp, photos):
    paramisp("unprocess", photos / "a.jpg", *QUIET)
    raw, words = photos / "a.dng", ("--model", "parametric")
    for form, kind in (("png", "PNG"), ("tif", "TIFF"), ("jpeg", "JPEG")):
        _, out, _ = paramisp("render", raw, "--format", form, *words)
        assert out == [str(photos / f"a.{form}")]
        assert Image.open(out[0]).format == kind
    assert formats.read(photos / "a.tif").pixels.dtype == np.uint16
    assert formats.read(photos / "a.png").pixels.dtype == np.uint8
    assert paramisp("render", raw, "-o", photos / "b.png", "--bits", "16", *words)[0] == 0
    assert formats.read(photos / "b.png").pixels.dtype == np.uint16
    assert paramisp("render", raw, "-o", photos / "b.tif", "--bits", "8", *words)[0] == 0
    assert formats.read(photos / "b.tif").pixels.dtype == np.uint8
    sizes = []
    for quality in ("10", "95"):
        paramisp("render", raw, "-o", photos / f"q{quality}.jpg", "--quality", quality, *words)
        sizes.append((photos / f"q{quality}.jpg").stat().st_size)
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize(("text", "value"), [("1/125", 0.008), ("0.5", 0.5), ("2", 2), ("1/0.5", 2), ("30/1", 30)])
def test_exposure_times(paramisp, photos, text, value):
    _, out, _ = paramisp("unprocess", photos / "a.jpg", "--dry-run", "--json", "--exposure-time", text, *QUIET)
    assert json.loads(out[0])["exposure_time"] == pytest.approx(value)


@pytest.mark.parametrize(("text", "value"), [("4GB", 4e9), ("4G", 4e9), ("1.5GiB", 1.5e9), ("512mb", 512e6)])
def test_amounts_of_memory(text, value):
    from paramisp_cli.cli import options

    assert options.size_in_bytes(text) == value


def test_like(paramisp, photos):
    paramisp("unprocess", photos / "a.jpg", *QUIET, "--cfa", "BGGR", "--iso", "640")
    _, out, err = paramisp("unprocess", photos / "b.jpg", "--like", photos / "a.dng", "--json", "--model", "parametric")
    record = json.loads(out[0])
    assert err == []
    assert (record["cfa"], record["iso"], record["camera"]) == ("BGGR", 640, "Canon EOS 60D")
    assert record["origin"]["cfa"] == "--like a.dng"


# Other commands ------------------------------------------------------------------------------------------------------


def test_inspect(paramisp, make_jpeg, tmp_path, no_weights):
    exif = {"0th": {0x010F: b"Canon", 0x0110: b"Canon EOS 60D", 0x0112: 6}, "Exif": {0x8827: 200, 0x829A: (1, 125)}}
    photo = make_jpeg(tmp_path / "a.jpg", exif=exif)
    code, out, err = paramisp("inspect", photo)
    assert code == 0
    assert out[0] == str(photo)
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in out[1:]}
    assert rows["kind"] == "picture, 64 × 48, orientation 6"
    for key, shown, source in (
        ("camera", "Canon EOS 60D", "EXIF"),
        ("iso", "200", "EXIF"),
        ("exposure_time", "1/125 s", "EXIF"),
        ("f_number", "unknown", "unknown"),
        ("cfa", "", "camera table (Canon EOS 60D)"),
        ("black_level", "", "camera table (Canon EOS 60D)"),
        ("white_level", "", "camera table (Canon EOS 60D)"),
        ("wb_gains", "", "camera table (Canon EOS 60D), daylight; ± 0.22 stops (R), 0.26 (B)"),
        ("color_matrix", "", "camera table (Canon EOS 60D)"),
    ):
        assert rows[key].startswith(shown), key
        assert rows[key].endswith(source), key
    assert rows["model"].startswith("parametric")
    assert err == [f"{photo}: no trained weights for Canon EOS 60D and no generic ones: used the parametric model"]


def test_inspect_json_and_raw(paramisp, photos):
    paramisp("unprocess", photos / "a.jpg", *QUIET, "--iso", "100")
    code, out, _ = paramisp(
        "inspect", photos / "a.jpg", photos / "a.dng", photos / "gone.jpg", "--json", "--model", "parametric"
    )
    assert code == 1
    picture, raw = (json.loads(line) for line in out)
    assert (picture["kind"], picture["file"], picture["width"], picture["height"]) == (
        "picture",
        str(photos / "a.jpg"),
        64,
        48,
    )
    assert (raw["kind"], raw["iso"], raw["origin"]["wb"]) == ("RAW", 100, "the DNG's AsShotNeutral")
    keys = {
        "iso",
        "exposure_time",
        "f_number",
        "focal_length",
        "cfa",
        "black_level",
        "white_level",
        "wb",
        "color_matrix",
    }
    assert keys | {"camera"} <= set(picture["origin"])
    assert keys - {"wb"} <= set(raw)
    _, out, _ = paramisp("inspect", photos / "a.dng")
    assert any(line.split()[0] == "wb_gains" and line.endswith("the DNG's AsShotNeutral") for line in out[1:])


def test_cameras(paramisp):
    _, out, _ = paramisp("cameras")
    assert len(out) > 600
    _, out, _ = paramisp("cameras", "eos 60d", "--json")
    assert [json.loads(line)["name"] for line in out] == ["Canon EOS 60D", "Canon EOS 60Da"]
    code, out, err = paramisp("cameras", "no such thing")
    assert (code, out, len(err)) == (0, [], 1)


def test_doctor(paramisp):
    code, out, err = paramisp("doctor")
    assert (code, err) == (0, [])
    text = "\n".join(out)
    for word in (f"paramisp {__version__}", "torch ", "rawpy ", "cpu: ", "cameras in the table: ", "weights found: 0"):
        assert word in text


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A checkpoint with random weights, where it is looked for."""
    from paramisp_cli import models
    from paramisp_cli.directions import Direction

    root = tmp_path / "store"
    path = root / "paramisp" / "canon-eos-60d.render.safetensors"
    path.parent.mkdir(parents=True)
    weights.save(models.architecture("paramisp")(Direction.RENDER), path, camera="Canon EOS 60D", licence="MIT")
    monkeypatch.setattr(weights, "places", lambda: [("a test", root)])
    return path


@pytest.mark.slow
def test_weights(paramisp, checkpoint, photos):
    code, out, _ = paramisp("weights", "list")
    assert code == 0
    assert out == [f"{'paramisp':<12} {'render':<10} {'Canon EOS 60D':<32} {checkpoint}"]
    _, out, _ = paramisp("weights", "list", "--json")
    assert json.loads(out[0])["file"] == str(checkpoint)
    _, out, _ = paramisp("weights", "info", checkpoint)
    assert any(line.split() == ["camera", "Canon", "EOS", "60D"] for line in out)
    _, out, _ = paramisp("weights", "info", checkpoint, "--json")
    assert json.loads(out[0])["licence"] == "MIT"
    assert paramisp("weights", "verify", checkpoint)[0] == 0
    paramisp("unprocess", photos / "a.jpg", *QUIET)
    _, out, err = paramisp("render", photos / "a.dng", "-o", photos / "x.png", "--json", "--dry-run")
    assert json.loads(out[0])["weights"] == str(checkpoint), out
    assert any("has no ISO, ExposureTime, FNumber, FocalLength; used ISO 160, " in line for line in err)
    cut = checkpoint.with_name("cut.render.safetensors")
    cut.write_bytes(checkpoint.read_bytes()[:-100])
    code, out, err = paramisp("weights", "verify", cut, checkpoint)
    assert (code, len(out), len(err)) == (8, 1, 1)
    assert "damaged" in err[0]
    assert any("damaged" in line for line in paramisp("weights", "list")[1])
    assert paramisp("doctor")[1][-1].startswith("weights found: 2, 1 damaged")


def test_weights_list_when_there_are_none(paramisp):
    code, out, err = paramisp("weights", "list")
    assert (code, out, len(err)) == (0, [], 1)
    assert "parametric needs none" in err[0]


@pytest.mark.slow
def test_weights_import(paramisp, shared, tmp_path):
    source = shared / "parity" / "seed01_unprocess.ckpt"
    code, out, err = paramisp(
        "weights",
        "import",
        source,
        "--camera",
        "Canon EOS 60D",
        "--direction",
        "unprocess",
        "--row-sum",
        "1",
        "-o",
        tmp_path / "w",
    )
    assert (code, len(err)) == (0, 2)
    assert "is a checkpoint of paramisp" in err[0]
    assert err[1] == "licence of the authors' weights: unknown: the authors state none"
    assert paramisp("weights", "verify", out[0])[0] == 0
    (tmp_path / "bad.ckpt").write_bytes(b"no checkpoint")
    code, out, err = paramisp(
        "weights",
        "import",
        tmp_path / "bad.ckpt",
        "--camera",
        "x",
        "--direction",
        "render",
        "--row-sum",
        "1",
        "-o",
        tmp_path,
    )
    assert (code, out, len(err)) == (8, [], 1)


def test_a_fault_of_ours_is_one_line(paramisp, monkeypatch):
    from paramisp_cli import cameras

    monkeypatch.delenv("PARAMISP_DEBUG", raising=False)
    monkeypatch.setattr(cameras, "all_cameras", lambda: 1 / 0)
    code, out, err = paramisp("cameras")
    assert (code, out) == (3, [])
    assert err == ["paramisp: internal error: ZeroDivisionError: division by zero (set PARAMISP_DEBUG=1 and report it)"]
    monkeypatch.setenv("PARAMISP_DEBUG", "1")
    from paramisp_cli.cli import app

    monkeypatch.setattr(sys, "argv", ["paramisp", "cameras"])
    with pytest.raises(ZeroDivisionError):
        app.main()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_the_next_command_is_hinted_on_a_terminal_only(photos):
    """stderr is a terminal here, stdout a pipe; the hint is a command that works."""

    def run(*words, terminal=True):
        ours, theirs = pty.openpty() if terminal else os.pipe()
        command = [sys.executable, "-m", "paramisp_cli", *map(str, words)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, text=True, check=True)
        os.close(theirs)
        chunks = []
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # Linux: the other end of the pseudo-terminal is closed
                chunk = b""
            if not chunk:
                break
            chunks.append(chunk)
        os.close(ours)
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(chunks).decode())  # the progress display's
        hints = [line for line in text.replace("\r", "\n").splitlines() if line.startswith("next: ")]
        return done.stdout.splitlines(), hints

    photo = photos / "a.jpg"
    out, hints = run("unprocess", photo, "--model", "parametric")
    assert out == [str(photos / "a.dng")]
    assert hints == [f"next: paramisp render {photos / 'a.dng'} -o {photos / 'a-again.jpg'}"]
    out, hints = run(*shlex.split(hints[0])[2:], "--model", "parametric")
    assert out == [str(photos / "a-again.jpg")]
    assert run("inspect", photo)[1] == [f"next: paramisp unprocess {photo}"]
    assert run("inspect", photo, terminal=False)[1] == run("inspect", "--json", photo)[1] == []
