"""`paramisp report`, and `--report` of a batch: the pages' content, their errors, and how they work in a browser."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paramisp_cli import errors
from paramisp_cli.pages import dataset, document, lines, make, pictures, svg
from paramisp_cli.training import dataset as data
from paramisp_cli.training.synthetic import hdf5
from paramisp_cli.types import Camera, CanonicalParams, OpticalParams

HOSTILE = '<script>document.title="owned"</script>"\'&<img src=x onerror=alert(1)>'
MATRIX = [[0.7309, -0.1403, -0.0519], [-0.8474, 1.6008, 0.2622], [-0.2434, 0.2826, 0.8064]]
RECIPE = {"name": "tiny", "phases": [{"steps": 40, "crop": 32, "batch": 2, "part": "all"}], "lr": 2e-6, "ema": 0.98}
SCORE = {
    "photo": "one", "camera": "Nikon D90", "direction": "render", "model": "fast", "psnr": 31.5, "psnr_crops": 31.25,
    "ssim": 0.91234, "delta_e": 1.5, "delta_e_chart": None, "edits": [], "part": "",
}  # fmt: skip


def checkpoint(path: Path, **header: object) -> None:
    """Write a checkpoint without tensors."""
    strings = {key: value if isinstance(value, str) else json.dumps(value) for key, value in header.items()}
    facts = {
        "format_version": "1",
        "architecture": "fast",
        "config": "{}",
        "camera": "Nikon D90",
        "direction": "render",
    }
    text = json.dumps({"__metadata__": {**facts, **strings}}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)


def triptych(path: Path, error: int = 10, side: int = 48) -> None:
    """Write prediction, truth and error side by side: the prediction is ``error`` codes off everywhere."""
    y, x = np.mgrid[:side, :side]
    truth = np.stack([40 + 3 * x, 40 + 3 * y, 120 + 0 * x], -1).clip(0, 200).astype(np.uint8)
    wrong = np.full_like(truth, min(10 * error, 255))
    Image.fromarray(np.concatenate([truth + np.uint8(error), truth, wrong], 1)).save(path)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A training folder."""
    folder = tmp_path / "run"
    folder.mkdir()
    records = [{"step": 20 * at, "loss": 0.1 / at, "lr": 1e-3 / 10**at} for at in (1, 2, 3)]
    (folder / "log.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records), "utf-8")
    for at in (1, 2, 3):
        triptych(folder / f"step{20 * at:07d}.png", error=40 // at)
    training = {
        "photographs": ["a", HOSTILE],
        "cameras": ["Nikon D90"],
        "recipe": RECIPE,
        "minutes": 1.5,
        "machine": "box",
    }
    checkpoint(
        folder / "d90.render.safetensors", training=training, metrics={"photographs never seen": [SCORE]}, licence="MIT"
    )
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A data set of two pairs and a refused file."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    rng = np.random.default_rng(0)
    canonical = CanonicalParams("RGGB", np.zeros((2, 2)), 4095, np.array([0.5, 1, 0.6]), np.array(MATRIX))
    found = []
    for name, iso in (("one", 100.0), ("two", 1600.0)):
        data.write_arrays(
            folder, name, rng.integers(200, 3000, (64, 96)).astype(np.uint16),
            rng.integers(0, 255, (64, 96, 3)).astype(np.uint8),
        )  # fmt: skip
        found.append(
            data.Pair(
                name, f"{name}.NEF", f"{name}.JPG", "pair", "offset (0, 0)", Camera("NIKON", "NIKON D90"),
                OpticalParams(iso, 1 / 125, 4.0, None), canonical, regions=(data.Region(0, 0, 64, 96),), size=(64, 96),
            )
        )  # fmt: skip
    found.append(data.Pair("bad", f"{HOSTILE}.NEF", "", "refused", "no JPEG beside it"))
    data.write_index(folder, found)
    return folder


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    """Scores of two models on two photographs, with error maps beside them."""
    folder = tmp_path / "scores"
    folder.mkdir()
    records = []
    for photo, fast, other in (("one", 31.5, 28.0), ("two", 25.1, 26.0)):
        for model, psnr in (("fast", fast), ("LibRaw, gain fitted", other)):
            records.append(SCORE | {"photo": photo, "model": model, "psnr": psnr})
            triptych(folder / f"{photo}.render.{model}.png", error=round(40 - psnr))
    edits = [{"edit": "+2 EV", "psnr": None, "delta_e": 2.0}, {"edit": "as shot", "psnr": 40.0, "delta_e": 1.0}]
    records.append(SCORE | {"photo": HOSTILE, "direction": "unprocess", "delta_e": None, "edits": edits})
    path = folder / "scores.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in records), "utf-8")
    return path


class Reader(HTMLParser):
    """Collects elements and texts of a page, and checks that elements are closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("br", "img", "input", "link", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def page_of(path: Path, **options) -> Reader:
    return Reader(make.document(path, **options))


# Elements -------------------------------------------------------------------------------------------------------------


def test_every_string_is_escaped_and_elements_are_not():
    made = document.tag("p", HOSTILE, document.tag("b", 1), title='a"b')
    assert Reader(str(made)).texts == [HOSTILE, "1"]
    assert Reader(str(made)).tags == [("p", {"title": 'a"b'}), ("b", {})]
    assert document.text("a\udcffb\u202ec\0d") == "a\\udcffb\\u202ec\\x00d"  # names of files may hold all of these
    assert document.tag("input", hidden=False, value=None, class_="x") == '<input class="x">'


def test_numbers():
    assert document.number(0.0156490698) == "0.015649"
    assert document.number(2e-6) == "2e−6"
    assert document.number(-1.5, 1) == "−1.5"
    assert (document.number(None), document.number(math.nan), document.number(math.inf)) == ("–", "not a number", "∞")
    assert (document.seconds(0.008), document.seconds(2)) == ("1/125 s", "2 s")


def test_ticks_are_round_and_inside():
    assert svg.ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert svg.ticks(0.0156, 0.018, 4) == pytest.approx([0.016, 0.017, 0.018])
    assert svg.ticks(5, 5) == [5]


def test_a_curve_lies_where_its_numbers_say():
    drawn = svg.curves([svg.Series("loss", [(0, 1.0), (10, 2.0), (20, math.nan), (30, 3.0)])], "step", "loss")
    root = ET.fromstring(drawn)
    spots = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in root.iter("circle")]
    assert len(spots) == 3
    assert spots[1][0] - spots[0][0] == pytest.approx((spots[2][0] - spots[0][0]) / 3, abs=0.2)
    assert spots[0][1] - spots[1][1] == pytest.approx(spots[1][1] - spots[2][1], abs=0.2)
    assert spots[0][1] > spots[2][1]  # upwards
    assert next(label.text for label in root.iter("title")) == "loss, step 0: 1"
    assert "no finite value" in svg.curves([svg.Series("loss", [(0, math.nan)])], "step", "loss")


def test_a_wide_range_is_logarithmic():
    drawn = svg.curves([svg.Series("lr", [(0, 1e-1), (1, 1e-3), (2, 1e-5)])], "step", "rate")
    heights = [float(dot.get("cy")) for dot in ET.fromstring(drawn).iter("circle")]
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.2)
    assert "logarithmic" in drawn


def test_bars_have_heights_in_proportion():
    bars = list(ET.fromstring(svg.bars(["100", "200", "400"], [1, 4, 2], "ISO")).iter("rect"))
    assert [float(bar.get("height")) / float(bars[0].get("height")) for bar in bars] == pytest.approx(
        [1, 4, 2], rel=0.02
    )


def test_pictures_are_reduced_by_means():
    pixels = np.zeros((400, 600, 3), np.uint8)
    pixels[:, 1::2] = 200
    small = pictures.reduced(pixels, 300)
    assert small.shape == (200, 300, 3)
    assert (small == 100).all()
    assert pictures.reduced(pixels[:3, :5], 300).shape == (3, 5, 3)
    assert pictures.reduced(np.zeros((1, 5000, 3), np.uint8), 300).shape[0] == 1


def test_spread_takes_both_ends():
    assert pictures.spread(3, 24) == [0, 1, 2]
    assert pictures.spread(100, 4) == [0, 33, 66, 99]


def test_bins_have_no_gap():
    scale = dataset._SCALES["ISO"]
    assert dataset._binned([100, 110, 1600], scale) == (["100", "200", "400", "800", "1600"], [2, 0, 0, 0, 1])
    labels, counts = dataset._binned([1, 1e30], scale)  # an absurd ISO makes no page of a thousand bars
    assert (len(labels), sum(counts)) == (60, 2)


def contrast(first: str, second: str) -> float:
    """Return the contrast of two colours (#rrggbb) by WCAG 2."""

    def luminance(colour: str) -> float:
        wide = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        parts = [int(wide[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted(map(luminance, (first, second)))
    return (high + 0.05) / (low + 0.05)


def test_colours_have_contrast_in_light_and_dark():
    style = (Path(document.__file__).parent / "page.css").read_text("utf-8")
    schemes = [dict(re.findall(r"--([\w-]+): (#\w+)", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)]
    assert len(schemes) == 2
    for colours in schemes:
        for ground in ("ground", "card"):
            for ink in ("ink", "soft", "accent"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
            for line in ("c0", "c1", "c2", "c3", "c4", "c5"):
                assert contrast(colours[line], colours[ground]) >= 3, (line, ground)
        assert contrast(colours["bad-ink"], colours["bad"]) >= 4.5
        assert contrast(colours["ink"], colours["good"]) >= 4.5


# Pages ----------------------------------------------------------------------------------------------------------------


def test_a_training(run):
    page = page_of(run)
    for words in (
        "Training run",
        "60 of 40",
        "Nikon D90; render.",
        "1.5 min",
        "box",
        "31.50",
        "0.9123",
        "2e−6",
        HOSTILE,
    ):
        assert words in page.text, words
    # Steps 20, 40, 60 are 40, 20 and 13 codes off: 20 · log10(255 / 13).
    assert f"{20 * math.log10(255 / 13):.2f} dB" in page.text
    assert [each["alt"] for each in page.all("img")][:2] == [
        "Preview at step 20: truth",
        "Preview at step 20: prediction",
    ]
    assert len(page.all("img")) == 9
    (slider,) = [each for each in page.all("input") if "data-chooser" in each]
    assert (slider["data-names"], slider["value"], slider["max"]) == ("20\n40\n60", "2", "2")
    labels = [each["aria-label"] for each in page.all("svg")]
    assert labels == ["Loss over step: Loss", "PSNR [dB] over step: render", "Learning rate over step: Learning rate"]


def test_a_training_of_both_directions(run):
    for path in run.glob("step*.png"):
        shutil.copy(path, path.with_suffix(".unprocess.png"))
        path.rename(path.with_suffix(".render.png"))
    checkpoint(run / "d90.unprocess.safetensors", direction="unprocess")
    page = page_of(run)
    assert "PSNR [dB] over step: render, unprocess" in [each["aria-label"] for each in page.all("svg")]
    assert len(page.all("img")) == 18


@pytest.mark.slow
def test_a_training_without_a_result(run):
    """The recipe then comes from the trainer's checkpoint, and torch is not needed to read it."""
    torch = pytest.importorskip("torch")
    (run / "d90.render.safetensors").unlink()
    assert "Not known: the folder has no checkpoint yet." in page_of(run).text
    state = {"step": 60, "recipe": json.dumps(RECIPE), "direction": "unprocess", "seconds": 90.0, "core_seconds": 120.0}
    torch.save({**state, "model": {"w": torch.zeros(3)}}, run / "checkpoint.pt")
    page = page_of(run)
    for words in ("tiny", "unprocess", "1.5 min", "2.0 min", "No checkpoint of the result yet."):
        assert words in page.text


def test_a_loss_that_is_not_finite_is_named(run):
    with (run / "log.jsonl").open("a") as log:
        log.write('{"step": 80, "loss": NaN, "lr": 1e400}\n')
    page = page_of(run)
    assert "The loss is not a finite number from step 80 on." in page.text


def test_a_step_logged_twice_counts_once(run):
    with (run / "log.jsonl").open("a") as log:
        log.write('{"step": 60, "loss": 0.007, "lr": 1e-6}\n')
    assert page_of(run).text.count("step 60: 0.007") == 1


def test_a_data_set_of_pairs(pairs):
    page = page_of(pairs)
    for words in ("Photographs: RAW and the camera's JPEG.", "NIKON D90", f"{HOSTILE}.NEF", "no JPEG beside it",
                  "not stated (2)", "1/125 s", "f/4"):  # fmt: skip
        assert words in page.text, words
    labels = [each["aria-label"] for each in page.all("svg")]
    assert labels[0] == "Number by ISO. 100: 1, 1600: 1"
    assert labels[-1].startswith("Number by Light of the scene [EV at ISO 100]. 7: 1, 11: 1")  # log2(16 · 125), − 4
    assert len(page.all("img")) == 4


def synth_line(name: str, split: str) -> dict[str, object]:
    return {
        "name": name, "status": "made", "split": split, "source": f"{name}.jpg", "camera": "Nikon D90", "cfa": "GRBG",
        "black_level": 4096, "white_level": 65535, "iso": 400.0, "exposure_time": 0.01, "f_number": 5.6,
        "focal_length": 50.0, "exposure": -1.0, "headroom": 0.0, "as_shot_neutral": [0.5, 1, 0.6],
        "color_matrix": MATRIX, "licence": "CC0",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["tar", "npy", "hdf5"])
def test_a_synthetic_data_set(tmp_path, kind):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "synth.json").write_text("{}")
    (folder / "README.md").write_text(f"# RAW made from pictures\n\n{HOSTILE}\n")
    records = [synth_line("a-1", "train"), synth_line("b-2", "test")]
    refused = {"name": "c", "status": "refused", "split": "train", "source": "c.jpg", "reason": "too small"}
    (folder / "index.jsonl").write_text("".join(json.dumps(each) + "\n" for each in (*records, refused)))
    array = np.random.default_rng(0).integers(4096, 60000, (16, 24, 4)).astype(np.uint16)
    stream = io.BytesIO()
    np.save(stream, array)
    for record in records:
        files = {f"{record['name']}.{each}.npy": stream.getvalue() for each in ("clean", "noisy")}
        where = folder / str(record["split"])
        if kind == "tar":
            where.mkdir()
            with tarfile.open(where / "000000.tar", "w") as archive:
                for name, content in files.items():
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        elif kind == "hdf5":
            pytest.importorskip("h5py")
            where.mkdir()
            hdf5.write(where / "000000.h5", {"clean": [array], "noisy": [array]}, [record])
        else:
            for each in ("clean", "noisy"):
                (where / each).mkdir(parents=True)
                (where / each / f"{record['name']}.npy").write_bytes(stream.getvalue())
    page = page_of(folder)
    for words in ("CC0 (2)", "too small", HOSTILE, "a-1", "b-2", "Split “test” 1", "Split “train” 1"):
        assert words in page.text, words
    assert len(page.all("img")) == 4
    for damaged in (folder / "train").glob("000000.*"):
        damaged.write_bytes(damaged.read_bytes()[:700])
        with pytest.raises(errors.FormatError, match=rf"{damaged.name}: damaged"):
            make.document(folder)


def test_a_data_set_of_blurred_pictures(tmp_path, make_jpeg):
    folder = tmp_path / "blurred"
    folder.mkdir()
    line = {"name": "a", "status": "pair", "split": "test", "source": "a.mp4", "kind": "video", "iso": "much"}
    (folder / "index.jsonl").write_text(json.dumps(line) + "\n")
    assert "The data set has no contact_sheet.jpg." in page_of(folder).text
    make_jpeg(folder / "contact_sheet.jpg")
    page = page_of(folder)
    assert [each["alt"] for each in page.all("img")] == ["Contact sheet of the data set"]
    assert "No line of the index has settings." in page.text


def test_odd_values_in_a_header_make_no_fault(run):
    odd = {"photographs": 5, "cameras": "x", "recipe": {"phases": 3, "name": None, "model": {}}, "minutes": "long"}
    checkpoint(run / "d90.render.safetensors", training=odd, metrics={"a": [1, {"psnr": "x"}], "b": 2}, config="[")
    assert "Steps done 60" in page_of(run).text


def test_an_evaluation(scores):
    page = page_of(scores)
    # Means of 31.5 and 25.1, of 28 and 26; the best is marked.
    assert "fast 2 28.30 25.10 31.25" in page.text
    assert "LibRaw, gain fitted 2 27.00 26.00" in page.text
    assert page.text.index("two 25.10 26.00") < page.text.index("one 31.50 28.00")  # the worst photograph first
    assert "fast – / 2.00 40.00 / 1.00" in page.text
    assert HOSTILE in page.text
    assert len(page.all("select")) == 2
    assert len(page.all("img")) == 12
    best = make.document(scores)
    assert '<span class="best">28.30</span>' in best
    assert '<span class="best">27.00</span>' not in best
    assert make.document(scores.parent) == best  # the folder of the pictures, with its only scores


def test_an_evaluation_with_pictures_elsewhere(scores, tmp_path):
    moved = tmp_path / "alone.jsonl"
    scores.rename(moved)
    assert page_of(moved).all("img") == []
    assert "evaluate --pictures FOLDER writes them" in page_of(moved).text
    assert len(page_of(moved, pictures=scores.parent).all("img")) == 12


def test_a_photo_name_does_not_lead_out_of_the_folder(scores, tmp_path):
    triptych(tmp_path / "secret.render.fast.png")
    scores.write_text(json.dumps(SCORE | {"photo": "../secret"}) + "\n")
    assert page_of(scores).all("img") == []


def test_an_evaluation_from_camera_to_camera(tmp_path):
    path = tmp_path / "transfer.jsonl"
    record = {"method": "matrix <route>", "kind": "daylight", "psnr": 40.5, "noisy": 38.0, "mae": 0.01, "angle": 1.0,
              "delta_e": 1.25, "delta_e_95": 3.0}  # fmt: skip
    path.write_text(json.dumps(record))
    assert "matrix <route> daylight 40.50 38.00 0.0100 1.00 1.25 3.00" in page_of(path).text


def test_the_same_input_gives_the_same_page_without_links_to_anything(run, pairs, scores):
    for path in (run, pairs, scores):
        page = make.document(path)
        assert page == make.document(path)
        read = Reader(page)
        addresses = [each.get(key) for _, each in read.tags for key in ("src", "href") if key in each]
        assert all(address.startswith(("data:", "#")) for address in addresses)
        assert not re.search(r"https?://|url\(|@import", page)
        ids = [each["id"] for _, each in read.tags if "id" in each]
        assert len(set(ids)) == len(ids)
        assert all(each.get("alt") for each in read.all("img"))
        wrapped = [each for each in read.all("input") if "data-chooser" in each]  # inside a label
        assert all(each.get("aria-label") or each in wrapped for each in read.all("input"))


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_writes_a_page_and_replaces_only_its_own(paramisp, run):
    target = run.parent / "page.html"
    assert paramisp("report", run, "-o", target) == (0, [str(target)], [])
    before = target.read_bytes()
    assert before.startswith(b"<!doctype html>")
    code, out, err = paramisp("report", run, "-o", target)
    assert (code, out) == (6, [])
    assert err == [f"paramisp: {target}: exists already; pass --on-exists overwrite, or another name"]
    (run / "log.jsonl").write_text('{"step": 5, "loss": 1}\n')
    assert paramisp("report", run, "-o", target, "--on-exists", "overwrite")[0] == 0
    assert target.read_bytes() != before
    target.write_text("<html>mine</html>")
    code, _, err = paramisp("report", run, "-o", target, "--on-exists", "overwrite")
    assert (code, len(err)) == (6, 1)
    assert target.read_text() == "<html>mine</html>"
    assert sorted(path.name for path in run.parent.iterdir()) == ["page.html", "run"]  # no temporary file


def broken_line(folder: Path) -> Path:
    (folder / "log.jsonl").write_text('{"step": 1, "loss": 2}\n{"step": 2, "lo\n')
    return folder


def damaged_preview(folder: Path) -> Path:
    (folder / "step0000020.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    return folder


def damaged_header(folder: Path) -> Path:
    (folder / "d90.render.safetensors").write_bytes(b"damaged")
    return folder


def no_line(folder: Path) -> Path:
    (folder / "log.jsonl").write_text("")
    return folder


def no_step(folder: Path) -> Path:
    (folder / "log.jsonl").write_text('{"loss": 2}\n')
    return folder


def empty(folder: Path) -> Path:
    (folder / "below").mkdir()
    return folder / "below"


def a_text(folder: Path) -> Path:
    (folder / "notes.txt").write_text("my notes\n")
    return folder / "notes.txt"


def other_json(folder: Path) -> Path:
    (folder / "other.json").write_text('{"a": 1}\n')
    return folder / "other.json"


@pytest.mark.parametrize(
    ("damage", "code", "words"),
    [
        (broken_line, 7, r"log\.jsonl: line 2 is damaged"),
        (no_line, 5, r"log\.jsonl: has no line yet"),
        (no_step, 7, r"log\.jsonl: record 1 has no step"),
        (damaged_preview, 7, r"step0000020\.png: "),
        (damaged_header, 8, r"d90\.render\.safetensors is damaged"),
        (empty, 5, r"below: is no training, data set or evaluation"),
        (a_text, 7, r"notes\.txt: line 1 is damaged"),
        (other_json, 7, r"other\.json: has no scores"),
        (lambda folder: folder / "missing", 5, r"missing: no such file or folder"),
    ],
)
def test_bad_input_has_one_line(paramisp, run, damage, code, words):
    target = run.parent / "page.html"
    found, out, err = paramisp("report", damage(run), "-o", target)
    assert (found, out, len(err)) == (code, [], 1), err
    assert re.search(words, err[0]), err[0]
    assert not target.exists()


def test_bad_data_sets_have_one_line(paramisp, pairs):
    target = pairs.parent / "page.html"
    (pairs / "one.npz").write_bytes(b"PK damaged")
    code, _, err = paramisp("report", pairs, "-o", target)
    assert (code, len(err)) == (7, 1)
    assert "one.npz: missing or damaged" in err[0]
    (pairs / "index.jsonl").write_text('{"regions": []}\n')
    code, _, err = paramisp("report", pairs, "-o", target)
    assert (code, len(err)) == (7, 1)
    assert "index.jsonl: line 1 is damaged" in err[0]
    (pairs / "index.jsonl").write_text("\n")
    assert paramisp("report", pairs, "-o", target)[0] == 5
    assert not target.exists()


def test_bad_options_have_one_line(paramisp, run, scores):
    for words, code in (
        ((run, "-o", run / "page.txt"), 2),
        ((run, "-o", run / "nowhere" / "page.html"), 4),
        ((run, "-o", run.parent / "page.html", "--pictures", run), 2),
        ((scores, "-o", run.parent / "page.html", "--pictures", run / "nowhere"), 5),
    ):
        found, out, err = paramisp("report", *words)
        assert (found, out, len(err)) == (code, [], 1), err


def test_two_files_of_scores_must_be_named(paramisp, scores):
    shutil.copy(scores, scores.with_name("more.jsonl"))
    code, _, err = paramisp("report", scores.parent, "-o", scores.parent / "page.html")
    assert (code, len(err)) == (5, 1)
    assert "more.jsonl, scores.jsonl" in err[0]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("regions", [{"top": [], "left": 0, "height": 64, "width": 96}], "cannot draw one"),
        ("regions", [{"top": 90, "left": 0, "height": 64, "width": 96}], "cannot draw one: mosaic and picture have no"),
        ("canonical", {"as_shot_neutral": [10**400, 1, 1]}, "line 1 is damaged"),
        ("camera", {"make": 5}, "line 1 is damaged"),
    ],
)
def test_odd_values_in_an_index_have_one_line(paramisp, pairs, key, value, words):
    path = pairs / "index.jsonl"
    first, *others = path.read_text("utf-8").splitlines()
    record = json.loads(first)
    record[key] = record[key] | value if isinstance(value, dict) else value
    path.write_text("\n".join([json.dumps(record), *others]), "utf-8")
    code, _, err = paramisp("report", pairs, "-o", pairs.parent / "page.html")
    assert (code, len(err)) == (7, 1)
    assert words in err[0]


@pytest.mark.slow
def test_a_report_needs_no_torch(run, pairs, scores):
    script = (
        "import sys\nfrom pathlib import Path\nfrom paramisp_cli.pages import make\n"
        f"for path in {[str(path) for path in (run, pairs, scores)]!r}: make.document(Path(path))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_numbers_of_records():
    assert lines.real({"a": 10**400}, "a") != lines.real({"a": 10**400}, "a")  # not a number
    assert (lines.real({"a": True}, "a"), lines.real({"a": "1"}, "a"), lines.real({"a": 2}, "a")) == (None, None, 2.0)


# Batches --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(make_jpeg, tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.zeros((48, 64, 3), np.uint8) + np.array([200, 60, 60], np.uint8)
    make_jpeg(folder / "<b>&one.jpg", pixels, exif={"0th": {0x0112: 6, 0x010F: b"<i>Make", 0x0110: b"Model</i>"}})
    make_jpeg(folder / "two.jpg", pixels)
    (folder / "bad.jpg").write_bytes(b"<u>not a picture")
    return folder


@pytest.mark.slow
def test_a_batch(paramisp, photos, tmp_path):
    target = tmp_path / "batch.html"
    quiet = ("--model", "parametric", "--device", "cpu")
    code, out, err = paramisp("unprocess", photos, "-o", tmp_path / "raws", *quiet, "--report", target)
    assert (code, len(out)) == (1, 2)
    assert err[-1] == f"report: {target}"
    page = Reader(target.read_text("utf-8"))
    assert "Done 2 Skipped 0 Failed 1" in page.text
    for words in ("<b>&one.jpg", "<i>Make Model</i>", "two.dng", "not a JPEG", "wb_gains", "average colours"):
        assert words in page.text, words
    assert "`" not in page.text  # notices name flags
    assert page.all("b") == page.all("i") == page.all("u") == []
    sizes = [(each["width"], each["height"]) for each in page.all("img")]
    assert sizes[:2] == [("24", "32"), ("48", "64")]  # turned upright; a RAW has a pixel for each 2×2
    assert sizes[2:] == [("32", "24"), ("64", "48")]
    code, out, err = paramisp("unprocess", photos, "-o", tmp_path / "raws", *quiet, "--report", target)
    assert (code, out, len(err)) == (6, [], 1)
    again = ("--on-exists", "skip", "--report", target)
    assert paramisp("unprocess", photos, "-o", tmp_path / "raws", *quiet, *again)[0] == 1
    assert "Done 0 Skipped 2 Failed 1" in Reader(target.read_text("utf-8")).text
    rendered = tmp_path / "rendered.html"
    code, out, _ = paramisp("render", tmp_path / "raws", "-o", tmp_path / "out", *quiet, "--report", rendered)
    assert (code, len(out)) == (0, 2)
    assert "◀ RAW sRGB ▶" in re.sub(" +", " ", Reader(rendered.read_text("utf-8")).text)


@pytest.mark.slow
def test_an_interrupted_batch_has_a_page(paramisp, photos, tmp_path, monkeypatch):
    from paramisp_cli.pages import batch

    original = batch.Page.add

    def interrupted(page, outcome):
        original(page, outcome)
        if len(page.rows) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(batch.Page, "add", interrupted)
    target = tmp_path / "batch.html"
    words = ("unprocess", photos, "-o", tmp_path / "raws", "--model", "parametric", "--report", target)
    assert paramisp(*words)[0] == 130
    assert "Done 1 Skipped 0 Failed 1 Not tried 1" in Reader(target.read_text("utf-8")).text


def test_a_report_of_a_batch_is_refused_before_the_work(paramisp, photos, tmp_path):
    (tmp_path / "mine.html").write_text("mine")
    for words, code in (
        (("--report", tmp_path / "mine.html"), 6),
        (("--report", tmp_path / "mine.html", "--on-exists", "overwrite"), 6),
        (("--report", tmp_path / "page.txt"), 2),
        (("--report", tmp_path / "no" / "page.html"), 4),
        (("--report", tmp_path / "page.html", "--dry-run"), 2),
    ):
        found, out, err = paramisp("unprocess", photos, "-o", tmp_path / "raws", *words)
        assert (found, out, len(err)) == (code, [], 1), err
    assert not (tmp_path / "raws").exists()
    assert (tmp_path / "mine.html").read_text() == "mine"


def test_a_report_changes_no_result(paramisp, photos, tmp_path):
    quiet = ("--model", "parametric", "--device", "cpu")
    paramisp("unprocess", photos / "two.jpg", "-o", tmp_path / "a.dng", *quiet)
    paramisp("unprocess", photos / "two.jpg", "-o", tmp_path / "b.dng", *quiet, "--report", tmp_path / "page.html")
    assert (tmp_path / "a.dng").read_bytes() == (tmp_path / "b.dng").read_bytes()


# In a browser ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def shown(browser, tmp_path):
    """Return a function that opens a page in a window of a width; any console message or request fails the test."""
    windows = []

    def show(content: str, width: int, scheme: str = "light"):
        path = tmp_path / "shown.html"
        path.write_text(content, "utf-8")
        window = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        window.faults, window.requests = [], []
        window.on("console", lambda message: window.faults.append(message.text))
        window.on("pageerror", lambda error: window.faults.append(str(error)))
        window.on("dialog", lambda dialog: window.faults.append("dialog"))
        window.on("request", lambda request: window.requests.append(request.url))
        window.goto(path.as_uri())
        windows.append((window, path.as_uri()))
        return window

    yield show
    for window, address in windows:
        assert window.faults == []
        assert [url for url in window.requests if not url.startswith("data:")] == [address]
        window.close()


def fits(window) -> bool:
    return window.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_pages_fit_their_window(shown, run, pairs, scores, paramisp, photos, tmp_path, width, scheme):
    target = tmp_path / "batch.html"
    paramisp("unprocess", photos, "-o", tmp_path / "raws", "--model", "parametric", "--report", target)
    for content in (make.document(run), make.document(pairs), make.document(scores), target.read_text("utf-8")):
        window = shown(content, width, scheme)
        assert fits(window)
        window.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
        assert fits(window)
        assert window.evaluate("[...document.images].every(each => each.complete && each.naturalWidth > 0)")
        assert "owned" not in window.title()
        light = window.evaluate("getComputedStyle(document.body).backgroundColor")
        assert light == ("rgb(251, 251, 249)" if scheme == "light" else "rgb(21, 23, 26)")


@pytest.mark.slow
def test_the_slider_over_steps_changes_the_picture(shown, run):
    window = shown(make.document(run), 1280)
    visible = "[...document.querySelectorAll('.frame')].map(each => each.getBoundingClientRect().height > 0)"
    assert window.evaluate(visible) == [False, False, True]
    slider = window.get_by_label("Step", exact=True)
    slider.focus()
    slider.press("ArrowLeft")
    assert window.evaluate(visible) == [False, True, False]
    assert window.locator("output").inner_text() == "40"
    assert slider.get_attribute("aria-valuetext") == "40"
    slider.press("Home")
    assert window.evaluate(visible) == [True, False, False]


@pytest.mark.slow
def test_the_divider_moves_with_the_mouse_and_the_keys(shown, run):
    window = shown(make.document(run), 390)
    box = window.locator(".frame:not([hidden]) .compare")
    box.scroll_into_view_if_needed()
    place = box.bounding_box()

    def clip() -> str:
        return window.evaluate("getComputedStyle(document.querySelector('.frame:not([hidden]) .over')).clipPath")

    before = clip()
    window.mouse.move(place["x"] + place["width"] / 2, place["y"] + 20)
    window.mouse.down()
    window.mouse.move(place["x"] + 0.8 * place["width"], place["y"] + 20)
    window.mouse.up()
    moved = window.locator(".frame:not([hidden]) .divider").input_value()
    assert 74 <= int(moved) <= 86
    assert clip() != before
    window.locator(".frame:not([hidden]) .divider").press("ArrowRight")
    assert window.locator(".frame:not([hidden]) .divider").input_value() == str(int(moved) + 1)
    window.get_by_label("Step", exact=True).focus()
    window.get_by_label("Step", exact=True).press("Home")
    assert window.locator(".frame:not([hidden]) .divider").input_value() == str(int(moved) + 1)  # the same place


@pytest.mark.slow
def test_the_divider_shows_both_pictures(shown, run):
    """Left of the divider is the prediction, right of it the truth, 40 codes darker."""
    for step in (2, 3):
        (run / f"step{20 * step:07d}.png").unlink()
    window = shown(make.document(run), 1280)
    box = window.locator(".compare")
    for value, ours in (("100", True), ("0", False)):
        window.evaluate(
            "value => { const each = document.querySelector('.divider'); each.value = value;"
            " each.dispatchEvent(new Event('input')); }",
            value,
        )
        taken = np.asarray(Image.open(io.BytesIO(box.screenshot())).convert("RGB")).astype(float)
        height, width = taken.shape[:2]
        blue = taken[height // 4 : height // 2, width // 4 : width // 2, 2].mean()
        assert blue == pytest.approx(160 if ours else 120, abs=4)


@pytest.mark.slow
def test_the_list_of_models_changes_the_picture(shown, scores):
    window = shown(make.document(scores), 1280)
    choice = window.get_by_label("Model", exact=True).first
    assert choice.input_value() == "1"
    shown_alt = "document.querySelector('.frames .frame:not([hidden]) .over img').alt"
    before = window.evaluate(shown_alt)
    choice.select_option("0")
    assert window.evaluate(shown_alt) != before


@pytest.mark.slow
def test_a_wide_table_scrolls_inside_its_box(shown, scores):
    window = shown(make.document(scores), 390)
    box = window.locator(".scroll").first
    assert box.evaluate("each => each.scrollWidth > each.clientWidth")
    box.focus()
    box.press("ArrowRight")
    for _ in range(40):  # the scroll is animated; the page's policy forbids Playwright's own waiting
        if box.evaluate("each => each.scrollLeft") > 0:
            break
        window.wait_for_timeout(50)
    assert box.evaluate("each => each.scrollLeft") > 0
    assert window.evaluate("window.scrollX") == 0


@pytest.mark.slow
def test_a_foreign_script_does_not_run(shown, run):
    """The page's policy names the hash of its own script: even a string that was not escaped could not run."""
    content = make.document(run).replace("<footer>", '<script>document.title="owned"</script><footer>')
    window = shown(content, 1280)
    assert window.title() == "Training run"
    assert len(window.faults) == 1
    assert "Content Security Policy" in window.faults.pop()
