"""The page in a browser without a window: its DNGs are those of the command line, and nothing leaves the machine."""

from __future__ import annotations

import base64
import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import rawpy
from PIL import Image

from paramisp_cli.formats import icc, kept
from paramisp_cli.formats.tiff import Walker, pointers
from paramisp_cli.types import CanonicalParams, RawImage

DIST = Path(__file__).parents[2] / "web" / "dist"
ROOT = Path(__file__).parents[2]
PATIENCE = 240_000  # ms: a busy machine

MOSAIC_TAGS = {324, 325, 51111}
"""Tags that follow from samples that differ by one code: offsets and sizes of tiles, the digest."""
NEAR_TAGS = {50940: (0, 1e-4), 51041: (1e-3, 0), 50728: (1e-9, 0)}
"""Relative and absolute tolerance of ProfileToneCurve, NoiseProfile, and AsShotNeutral (of an estimate)."""
TABLE, TURN, SCALE = 50982, 0.5, 0.02
"""ProfileLookTableData: tolerance of the shift of hue [°], and of both scales."""


def missing(what):
    if os.environ.get("CI") and not os.environ.get("PARAMISP_NO_PAGE"):
        pytest.fail(f"{what} is missing: .ci/run provides it")
    pytest.skip(f"{what} is missing")


class Handler(http.server.SimpleHTTPRequestHandler):
    isolated = False

    def log_message(self, *words):
        pass

    def end_headers(self):
        if self.isolated:  # the page may then use threads
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()


class Isolated(Handler):
    isolated = True


@pytest.fixture(scope="module")
def browser():
    from playwright import sync_api

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        missing("chromium")
    if not (DIST / "manifest.json").is_file():
        missing("web/dist (`make web` builds it)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, request, monkeypatch):
    """The page, opened; every request must go to this server, and every error in the page fails the test."""
    handler = getattr(request, "param", Handler)
    server = http.server.ThreadingHTTPServer(("localhost", 0), functools.partial(handler, directory=str(DIST)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    context = browser.new_context(accept_downloads=True, viewport={"width": 1280, "height": 800})
    page = context.new_page()
    requests, errors = [], []
    context.on("request", lambda each: bool(requests.append(each)))  # playwright takes no method of a list
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.set_default_timeout(PATIENCE)
    page.goto(f"http://localhost:{server.server_port}/index.html")
    try:
        yield page
    finally:
        context.close()
        server.shutdown()
        server.server_close()
    assert errors == []
    assert len(requests) > 3
    for each in requests:
        place = urlsplit(each.url)
        assert place.scheme in ("blob", "data") or place.netloc == f"localhost:{server.server_port}", each.url
        assert each.method == "GET", each.url
        assert each.post_data is None, each.url


def finished(page, number):
    """Wait for the photo of this number (from 0); return its element."""
    item = page.locator(".photo").nth(number)
    item.locator("progress").wait_for(state="hidden")
    return item


def saved(page, number, target):
    item = finished(page, number)
    assert "failed" not in item.get_attribute("class"), item.inner_text()
    with page.expect_download() as download:
        item.locator(".download").click()
    download.value.save_as(target)
    return download.value.suggested_filename


def drop(page, paths):
    """Drop files on the page, as a file manager does."""
    files = [(path.name, base64.b64encode(path.read_bytes()).decode()) for path in paths]
    data = page.evaluate_handle(
        """files => {
          const data = new DataTransfer();
          for (const [name, content] of files) {
            const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
            data.items.add(new File([bytes], name, { type: "image/jpeg" }));
          }
          return data;
        }""",
        files,
    )
    page.locator("#drop").dispatch_event("drop", {"dataTransfer": data})


# --- comparison with the command line ---------------------------------------------------------------------------------


def by_command_line(paths, folder):
    """Convert files as a user does, in a process of its own: with CPU and default settings."""
    folder.mkdir()
    words = ["unprocess", *map(str, paths), "-o", str(folder), "--gain-map", "off", "--device", "cpu", "-q"]
    done = subprocess.run([sys.executable, "-m", "paramisp_cli", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [folder / f"{path.stem}.dng" for path in paths]


def directories(path):
    """Return {name: IFD} of a DNG, and its bytes."""
    data = path.read_bytes()
    walker = Walker(data)
    main, _ = walker.ifd(walker.first)
    found = {"main": main}
    for name, at in zip(("raw", "preview"), pointers(main[330]), strict=False):
        found[name] = walker.ifd(at)[0]
    for name, tag in (("exif", 34665), ("gps", 34853)):
        found[name] = walker.sub(main, tag) if tag in main else {}
    assert walker.sound
    return found, data


def strip_of(ifd, data):
    start, size = ifd[273].values()[0], ifd[279].values()[0]
    return data[start : start + size]


def compare(own, wanted):
    """The page's DNG and the command line's: samples within one code, every tag equal but the few named above."""
    (ours, our_data), (theirs, their_data) = directories(own), directories(wanted)
    assert ours.keys() == theirs.keys()
    for name, ifd in theirs.items():
        assert ours[name].keys() == ifd.keys(), name
        for tag, entry in ifd.items():
            other = ours[name][tag]
            assert (other.type, other.count) == (entry.type, entry.count), (name, tag)
            if (name, tag) == ("main", TABLE):
                tables = [np.reshape(each.values(), (-1, 3)) for each in (other, entry)]
                away = np.abs(tables[0] - tables[1]).max(0)
                assert away[0] <= TURN, away
                assert away[1:].max() <= SCALE, away
            elif tag in NEAR_TAGS:
                relative, absolute = NEAR_TAGS[tag]
                np.testing.assert_allclose(other.values(), entry.values(), relative, absolute, err_msg=str(tag))
            elif tag not in MOSAIC_TAGS:
                assert other.data == entry.data, (name, tag, other.shown(), entry.shown())
    if "preview" in theirs:
        assert strip_of(ours["preview"], our_data) == strip_of(theirs["preview"], their_data)
    thumbnails = [np.frombuffer(strip_of(*each), np.uint8).astype(int) for each in (
        (ours["main"], our_data), (theirs["main"], their_data))]  # fmt: skip
    assert np.abs(thumbnails[0] - thumbnails[1]).max() <= 1
    mosaics = []
    for path in (own, wanted):
        with rawpy.imread(str(path)) as raw:
            mosaics.append(raw.raw_image.astype(int))
    assert mosaics[0].shape == mosaics[1].shape
    away = np.abs(mosaics[0] - mosaics[1])
    assert away.max() <= 1
    assert (away > 0).mean() < 0.01
    assert np.ptp(mosaics[0]) > 100


def scene(height, width, seed=0):
    """A picture with tones, colours, edges, noise, black and white."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / np.array([height, width]).reshape(2, 1, 1)
    waves = [0.5 + 0.5 * np.sin(2 * np.pi * (a * x + b * y) + c) for a, b, c in rng.uniform(0.5, 3, (3, 3))]
    picture = np.stack(waves, -1) * (1.3 * x[..., None]) - 0.1
    picture[height // 3 : height // 2, width // 4 : width // 2] = rng.uniform(0, 1, 3)
    return (np.clip(picture + rng.normal(0, 0.01, picture.shape), 0, 1) * 255).round().astype(np.uint8)


def shot(make, model, orientation=1, *, adobe=False):
    main = {0x010F: make, 0x0110: model, 0x0112: orientation, 0x8298: "© someone".encode()}
    values = {33434: (1, 125), 33437: (56, 10), 34855: 400, 37386: (50, 1), 36867: "2024:05:06 07:08:09"}
    return {
        "0th": main,
        "Exif": values | ({40961: 2} if adobe else {}),
        "GPS": {0: (2, 3, 0, 0), 1: "N", 2: ((1, 1), (2, 1), (3, 1))},
    }


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="3"/></rdf:RDF></x:xmpmeta>'
)


@pytest.fixture
def photos(make_jpeg, tmp_path):
    """Small photos: weights of several cameras, all CFAs, odd sizes, turned, progressive, grey, Adobe RGB, no EXIF."""
    folder = tmp_path / "photos"
    folder.mkdir()
    wide_gamut = icc.linear_srgb_profile()  # any profile that is not sRGB
    made = [
        ("60d", scene(301, 403, 1), {"exif": shot("Canon", "Canon EOS 60D", 6), "xmp": XMP}),
        ("hero", scene(200, 264, 2), {"exif": shot("GoPro", "HERO7 Black"), "progressive": True}),
        ("nikon", scene(177, 240, 3), {"exif": shot("NIKON CORPORATION", "NIKON D90", 8, adobe=True)}),
        ("sony", scene(120, 333, 4), {"exif": shot("SONY", "ILCE-7RM3"), "icc": wide_gamut}),
        ("grey ä", scene(64, 96, 5)[..., 1], {}),
        ("tiny", scene(9, 15, 6), {"exif": shot("Canon", "Canon EOS 80D")}),
    ]
    return [make_jpeg(folder / f"{name}.jpg", pixels, **options) for name, pixels, options in made]


@pytest.mark.slow
def test_the_dng_is_the_one_of_the_command_line(page, photos, tmp_path):
    drop(page, photos[:1])
    page.set_input_files("#files", photos[1:])
    for number, (path, wanted) in enumerate(zip(photos, by_command_line(photos, tmp_path / "cli"), strict=True)):
        assert saved(page, number, tmp_path / f"{number}.dng") == f"{path.stem}.dng"
        compare(tmp_path / f"{number}.dng", wanted)
    states = page.locator(".photo .state").all_inner_texts()
    weights = [re.search("weights ([^,]+),", state)[1] for state in states]
    assert weights == ["canon-eos-60d", "gopro-hero7-black", "generic", "sony-ilce-7rm3", "generic", "generic"]
    assert "EXIF names no camera: used average colours" in page.locator(".photo").nth(4).inner_text()
    assert page.locator("#status").inner_text() == "6 done"
    height, width = page.locator(".thumb").first.evaluate("canvas => [canvas.height, canvas.width]")
    assert height > width  # turned upright
    if shutil.which("exiftool"):
        done = subprocess.run(
            ["exiftool", "-validate", "-warning", "-a", str(tmp_path / "0.dng")],
            capture_output=True,
            text=True,
            check=True,
        )
        assert re.search(r"Validate +: (OK|\d+ Warnings? \((all )?minor\))", done.stdout), done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("page", [Isolated], indirect=True, ids=["threads"])
def test_a_real_photo_with_threads(page, shared, tmp_path):
    """A camera's photo with MakerNote, Adobe RGB, GPS or XMP; the server lets the page use threads."""
    assert page.evaluate("crossOriginIsolated") is True
    photos = [shared / "jpegs" / name for name in ("Canon_EOS5D-MIII__K6A7945.JPG", "Canon_PowerShot_G6_IMG_0002.JPG")]
    page.set_input_files("#files", photos)
    for number, wanted in enumerate(by_command_line(photos, tmp_path / "cli")):
        saved(page, number, tmp_path / f"{number}.dng")
        compare(tmp_path / f"{number}.dng", wanted)


# --- the page ---------------------------------------------------------------------------------------------------------


def carrying(jpeg):
    """A JPEG that carries its RAW."""
    pixels = np.asarray(Image.open(jpeg))
    mosaic = np.ascontiguousarray(pixels[..., 1].astype(np.uint16) * 50)
    canonical = CanonicalParams("RGGB", np.full((2, 2), 0.0), 16383, np.ones(3), np.eye(3))
    return kept.keep(jpeg.read_bytes(), RawImage(mosaic, canonical))


@pytest.mark.slow
def test_files_that_it_does_not_convert_have_one_clear_line(page, make_jpeg, make_png, tmp_path):
    good = make_jpeg(tmp_path / "good.jpg", scene(48, 64))
    content = good.read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "kept.jpg").write_bytes(carrying(good))
    (tmp_path / "empty.jpg").write_bytes(b"")
    Image.new("CMYK", (64, 48)).save(tmp_path / "cmyk.jpg", "JPEG")
    make_png(tmp_path / "png.jpg")
    huge = bytearray(content)
    at = huge.index(b"\xff\xc0")
    huge[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    (tmp_path / "huge.jpg").write_bytes(huge)
    reasons = {
        "cut": "is damaged: the picture is cut short",
        "kept": "carries the RAW that it was rendered from: `paramisp unprocess` gives it back",
        "empty": "is not a JPEG",
        "cmyk": "is a CMYK JPEG: convert it to RGB first",
        "png": "is not a JPEG",
        "huge": "has 4295 megapixels, more than the 250 megapixels allowed",
    }
    page.set_input_files("#files", [*(tmp_path / f"{name}.jpg" for name in reasons), good])
    for number, (name, reason) in enumerate(reasons.items()):
        item = finished(page, number)
        state = item.locator(".state").inner_text()
        assert state.startswith(f"{name}.jpg {reason}"), state
        assert "\n" not in state
        assert not item.locator(".download").is_visible()
    assert "failed" not in finished(page, len(reasons)).get_attribute("class")
    assert page.locator("#status").inner_text() == f"1 done, {len(reasons)} failed"


@pytest.mark.slow
def test_cancel_stops_the_work_and_the_next_photo_follows(page, make_jpeg, tmp_path):
    large = make_jpeg(tmp_path / "large.jpg", scene(2400, 3200))
    small = make_jpeg(tmp_path / "small.jpg", scene(48, 64))
    page.set_input_files("#files", [large, small, small])
    first = page.locator(".photo").first
    first.get_by_text(re.compile("^estimating the RAW")).wait_for()
    assert page.evaluate("1 + 1") == 2  # the page answers while the network runs
    page.locator(".photo").nth(2).get_by_role("button", name="Cancel small.jpg").click()
    first.get_by_role("button", name="Cancel large.jpg").click()
    assert first.locator(".state").inner_text() == "cancelled"
    assert not first.locator(".download").is_visible()
    saved(page, 1, tmp_path / "small.dng")
    assert page.locator(".photo").nth(2).locator(".state").inner_text() == "cancelled"
    assert page.locator("#status").inner_text() == "1 done"
    page.get_by_role("button", name="Remove large.jpg").click()
    assert page.locator(".photo").count() == 2


@pytest.mark.slow
def test_the_keyboard_suffices(page, make_jpeg, tmp_path):
    small = make_jpeg(tmp_path / "small.jpg", scene(48, 64))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    outline = page.locator("#drop").evaluate("element => getComputedStyle(element).outlineStyle")
    assert outline == "solid"
    choosers = []
    page.on("filechooser", lambda each: bool(choosers.append(each)))
    for _ in range(20):  # on a busy machine, Chromium may take the key before it hands choosers to the test
        page.keyboard.press("Space")
        page.wait_for_timeout(1000)
        if choosers:
            break
    choosers[0].set_files(small)
    finished(page, 0)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Save small.dng"
    with page.expect_download():
        page.keyboard.press("Enter")


@pytest.mark.slow
def test_it_fits_two_widths_and_both_schemes(page, make_jpeg, tmp_path):
    name = "a name without any place to break it in several lines".replace(" ", "_") + ".jpg"
    page.set_input_files("#files", make_jpeg(tmp_path / name, scene(240, 320)))
    finished(page, 0)
    folder = os.environ.get("PARAMISP_SCREENSHOTS")  # a person looks at them
    papers = set()
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 800})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            papers.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            if folder:
                page.screenshot(path=f"{folder}/page-{width}-{scheme}.png", full_page=True)
    assert len(papers) == 2
    text = page.locator("main").inner_text()
    assert "nothing is uploaded" in text
    assert "an estimate, not a measurement of a sensor" in text


def test_the_page_forbids_other_hosts():
    """Also a future mistake in the page cannot send a photo: browsers enforce the policy."""
    policy = re.search(r'content="(default-src[^"]+)"', (ROOT / "web" / "index.html").read_text("utf-8"))[1]
    rules = {words[0]: set(words[1:]) for words in (rule.split() for rule in policy.split(";"))}
    assert rules["default-src"] == {"'none'"}
    assert rules["connect-src"] == rules["worker-src"] == {"'self'"}
    assert rules["script-src"] == {"'self'", "'wasm-unsafe-eval'"}
    assert rules["form-action"] == {"'none'"}
    for path in (ROOT / "web").glob("*.*"):
        if path.is_file() and path.suffix in (".html", ".css", ".js"):
            assert not re.search(r"https?://", path.read_text("utf-8")), path
