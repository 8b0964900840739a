import importlib
import json
import os
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

import paramisp_cli as paramisp
from paramisp_cli import cameras
from paramisp_cli.types import CFA_PATTERNS, Camera, CanonicalParams

sys.path.insert(0, str(Path(__file__).parent / "cameras"))

import build_table

TABLE = cameras.all_cameras()


# The table -----------------------------------------------------------------------------------------------------------


def test_table_is_as_it_says():
    text = resources.files("paramisp_cli.cameras").joinpath("cameras.json").read_text("utf-8")
    assert len(text) < 900_000
    rows = json.loads(text)["cameras"]
    assert text.count("\n{") == len(rows) == len(TABLE)  # one camera a line
    keys = {
        "name", "make", "model", "aliases", "kind", "sensor", "cfa", "cfa_area", "levels", "matrix", "matrix_2",
        "daylight", "noise", "doubts", "source",
    }  # fmt: skip
    assert all(row.keys() <= keys and {"name", "make", "model"} <= row.keys() for row in rows)
    assert len({facts.name for facts in TABLE}) == len(TABLE)


@pytest.mark.slow
def test_table_is_built_from_the_collection(shared, tmp_path):
    collection = shared / "cameras.json"
    if not collection.exists():
        pytest.skip("the collection is not here")
    build_table.write(
        build_table.table(json.loads(collection.read_text("utf-8"))["cameras"]), tmp_path / "cameras.json"
    )
    assert (tmp_path / "cameras.json").read_text("utf-8") == build_table.TARGET.read_text("utf-8")


@pytest.mark.slow
def test_every_row_makes_sense():
    for facts in TABLE:
        assert facts.cfa is None or facts.cfa in CFA_PATTERNS, facts.name
        assert (facts.cfa is None) == (facts.cfa_area == ""), facts.name
        assert facts.cfa_area in ("", "jpeg", "visible", "full"), facts.name
        assert facts.kind in ("", "phone", "tablet"), facts.name
        assert facts.source, facts.name
        assert (facts.color_matrix_2 is None) == (facts.illuminant_2 is None), facts.name
        for iso in (None, 50, 100, 160, 400, 1600, 12800):
            black, white = facts.levels(iso)
            assert 0 <= black < white <= 65535, facts.name
        if facts.color_matrix is not None:
            assert facts.color_matrix.shape == (3, 3)
            assert abs(np.linalg.det(facts.color_matrix)) > 0.01, facts.name
            white = facts.color_matrix @ [0.9505, 1, 1.089]
            assert (white > 0.1).all(), facts.name  # the sensor sees white light in every channel
            assert facts.daylight_neutral is not None
        if facts.daylight_neutral is not None:
            assert facts.daylight_neutral[1] == 1
            assert ((facts.daylight_neutral > 0.2) & (facts.daylight_neutral < 1.6)).all(), facts.name
            assert facts.daylight_origin
        for iso in (50, 100, 1600, 51200):
            noise = facts.noise_profile(iso)
            assert noise is None or ((noise[:, 0] > 0) & (noise[:, 1] >= 0) & (noise < 1).all()).all(), facts.name
        if facts.noise_rows is not None:
            assert (np.diff(facts.noise_rows[:, 0]) > 0).all(), facts.name
            assert not cameras.noise.unphysical(cameras.noise.of_samples(facts.noise_rows))[:, 3:].any(), facts.name


def test_every_complete_row_makes_canonical_parameters():
    made = 0
    for facts in TABLE:
        if facts.color_matrix is not None:
            black, white = facts.levels()
            params = CanonicalParams(facts.cfa or "RGGB", black, white, facts.daylight_neutral, facts.color_matrix)
            assert np.isfinite(params.cam_to_srgb()).all()
            made += 1
    assert made > 1000


def test_generic_is_the_median():
    matrices = [facts.color_matrix for facts in TABLE if facts.color_matrix is not None]
    np.testing.assert_allclose(cameras.GENERIC.color_matrix, np.median(matrices, 0), atol=5e-5)
    presets = [
        f.daylight_neutral for f in TABLE if f.daylight_neutral is not None and "matrix" not in f.daylight_origin
    ]
    np.testing.assert_allclose(cameras.GENERIC.daylight_neutral, np.median(presets, 0), atol=5e-5)
    assert cameras.GENERIC.cfa == "RGGB"
    assert cameras.GENERIC.levels(100) == (512, 16383)
    assert cameras.GENERIC.noise_profile(100) is None


def test_a_row_is_built_and_read_back(monkeypatch):
    given = {
        "make": "Maker", "model": "One", "exif_make": "MAKER", "exif_model": "ONE", "aliases": ["UN"], "ids": ["M1,1"],
        "kind": "phone", "sensor": "bayer", "cfa": "RGGB", "cfa_area": "visible", "cfa_crop": "GBRG", "cfa_doubt": 1,
        "levels": [{"black": 0, "white": 9}, {"black": 1, "white": 9, "iso_min": 800}],
        "color_matrix_d65": [[0.6771, -0.1139, -0.0977], [-0.7818, 1.5123, 0.2928], [-0.1244, 0.1437, 0.7533]],
        "color_matrix_2": {"illuminant": 17, "matrix": [[1, 0, 0], [0, 1, 0], [0, 0, 0.5]]},
        "wb": {"Shade": [3, 1, 1], "Direct Sunlight": [2, 1, 1.6]},
        "noise": [[100, 4.718e-06, 2.5e-05, 0.0003434, -3.862e-08, 0, 1e-10]], "source": {"cfa": "dt"},
    }  # fmt: skip
    monkeypatch.setattr(cameras, "_rows", lambda: (build_table.row(given),))
    facts = cameras._facts.__wrapped__(0)
    assert (facts.name, facts.exif_make, facts.exif_model) == ("Maker One", "MAKER", "ONE")
    assert (facts.aliases, facts.kind, facts.sensor) == (("UN", "M1,1"), "phone", "bayer")
    assert (facts.cfa, facts.cfa_area, facts.doubts) == ("GBRG", "jpeg", ("cfa",))
    assert (facts.levels(400), facts.levels(1600), facts.levels()) == ((0, 9), (1, 9), (0, 9))
    np.testing.assert_array_equal(facts.color_matrix, given["color_matrix_d65"])
    np.testing.assert_array_equal(facts.color_matrix_2, given["color_matrix_2"]["matrix"])
    assert facts.illuminant_2 == 17
    np.testing.assert_array_equal(facts.daylight_neutral, [0.5, 1, 0.625])
    assert facts.daylight_origin == "Direct Sunlight"
    np.testing.assert_array_equal(facts.noise_rows, given["noise"])
    assert facts.source == "cfa dt"
    assert build_table.row({**given, "cfa_crop": "ERBG", "cfa": "RYGB"}).get("cfa") is None


# What is read from a row ---------------------------------------------------------------------------------------------


def test_levels_by_iso():
    facts = cameras.find_by_name("Canon EOS 5D Mark III")
    assert facts.levels(None) == (2060, 16383)
    assert facts.levels(320) == (2060, 13700)
    assert facts.levels(400) == (2060, 15700)
    assert facts.levels(50) == (2060, 16383)
    old = cameras.find_by_name("Canon EOS 1000D")
    assert (old.levels(100), old.levels(200), old.levels()) == ((255, 3650), (255, 4036), (255, 4036))
    assert cameras.CameraFacts("x", "", "").levels(100) == (512, 16383)


def test_noise_between_and_beyond_the_rows():
    rows = np.array([[100, 1e-5, 2e-5, 3e-5, 1e-7, 0, 2e-7], [200, 3e-5, 2e-5, 1e-5, 3e-7, 0, 1e-7]])
    facts = cameras.CameraFacts("x", "", "", noise_rows=rows)  # of a DNG's own NoiseProfile
    assert not facts.noise_flags.any()
    np.testing.assert_allclose(facts.noise_profile(100), [[1e-5, 1e-7], [2e-5, 0], [3e-5, 2e-7]])
    np.testing.assert_allclose(facts.noise_profile(150), [[2e-5, 2e-7], [2e-5, 0], [2e-5, 1.5e-7]])
    np.testing.assert_allclose(facts.noise_profile(400), [[6e-5, 6e-7], [4e-5, 0], [2e-5, 2e-7]])
    np.testing.assert_allclose(facts.noise_profile(50), [[5e-6, 5e-8], [1e-5, 0], [1.5e-5, 1e-7]])
    assert facts.noise_profile(None) is None
    assert cameras.CameraFacts("x", "", "").noise_flags is None
    hero = cameras.find_by_name("GoPro HERO7 Black")  # the DNG's own NoiseProfile
    np.testing.assert_allclose(hero.noise_profile(267), [[0.000417055, 1.30296e-07]] * 3, rtol=1e-3)


def test_noise_of_samples_has_the_scale_of_green_and_more_variance():
    rows = np.array([[100, 1e-5, 2e-5, 3e-5, 1e-7, 3e-7, 2e-7]])
    facts = cameras.CameraFacts("x", "", "", noise_rows=rows, source="cfa dt, noise old")
    expected = cameras.noise.SMOOTHING * np.array([[2e-5, 1e-7], [2e-5, 3e-7], [2e-5, 2e-7]])
    np.testing.assert_allclose(facts.noise_profile(100), expected)


def fitted(isos, flagged=()):
    """Rows of a sensor with scale 1e-7·ISO (green: half) and offset 4e-8 + 1e-12·ISO²; ``flagged`` values spoilt."""
    rows = np.array([[i, 1e-7 * i, 5e-8 * i, 1e-7 * i, *[4e-8 + 1e-12 * i * i] * 3] for i in isos])
    for row, column, value in flagged:
        rows[row, column] = value
    return rows


def test_unphysical_values_are_derived_from_the_others():
    isos = (100, 200, 400, 800)
    spoilt = fitted(isos, [(0, 4, -1e-6), (0, 5, -1e-9), (2, 6, -1e-9), (1, 2, -3e-6), (3, 1, 0)])
    flags = cameras.noise.unphysical(spoilt)
    assert flags.sum() == 5
    noise, sound = cameras.noise.of_samples(spoilt), cameras.noise.of_samples(fitted(isos))
    np.testing.assert_allclose(noise[:, :4], sound[:, :4], rtol=1e-6)
    np.testing.assert_allclose(sound[:, 1], cameras.noise.SMOOTHING * 5e-8 * np.array(isos))
    replaced = flags[:, 3:] | flags[:, :3]
    share = cameras.noise.SMOOTHING_OF_DERIVED / cameras.noise.SMOOTHING
    np.testing.assert_allclose((noise / sound)[:, 4:], np.where(replaced, share, 1), rtol=1e-6)


def test_noise_without_good_offsets_or_without_a_channel():
    spoilt = fitted((100, 200), [(r, c, -1e-9) for r in (0, 1) for c in (4, 5, 6)])
    derived = cameras.noise.of_samples(spoilt)
    np.testing.assert_allclose(derived[:, 4:], cameras.noise.READ_NOISE * derived[:, 1:4] ** 2)
    lacking = fitted((100, 200), [(r, c, 0) for r in (0, 1) for c in (2, 5)])  # green was not fitted
    derived = cameras.noise.of_samples(lacking)
    np.testing.assert_allclose(derived[:, 1:4], cameras.noise.SMOOTHING * lacking[:, [1]].repeat(3, 1))
    rows = np.array([[100, *[-1e-6] * 6]])
    hopeless = cameras.CameraFacts("x", "", "", noise_rows=rows, source="noise old")
    assert (hopeless.noise_profile(100)[:, 0] > 0).all()  # DNG forbids 0
    assert (hopeless.noise_profile(100)[:, 1] >= 0).all()


def test_derived_offsets_are_of_the_size_of_measured_ones():
    """The measured values are variances of masked pixels, of one RAW file each."""
    for name, iso, measured in (("Canon EOS 60D", 200, 4.3e-7), ("Canon EOS 30D", 100, 2.8e-7)):
        facts = cameras.find_by_name(name)
        assert facts.noise_flags[list(facts.noise_rows[:, 0]).index(iso), 3:].all()
        ratio = facts.noise_profile(iso)[:, 1] / measured
        assert ((ratio > 0.3) & (ratio < 3)).all(), (name, ratio)


@pytest.mark.parametrize("name", ["canon_eos_350d", "canon_eos_5d", "canon_eos_60d", "canon_powershot_g10", "sony"])
@pytest.mark.slow
def test_noise_is_that_of_flat_areas(name, monkeypatch):
    """The table's noise agrees with the noise in smooth areas of real RAW files, at the level in their middle."""
    folder = Path(os.environ.get("PARAMISP_SAMPLES", ""))
    found = [path for path in folder.glob(f"{name}*") if path.suffix.lower() in {".cr2", ".arw", ".dng"}]
    if not os.environ.get("PARAMISP_SAMPLES") or not found:
        pytest.skip("needs the RAW files of $PARAMISP_SAMPLES")
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "bench"))
    bench = importlib.import_module("bench_noise")
    raw = paramisp.read(found[0])
    light = (raw.mosaic - raw.canonical.black_level.mean()) / (
        raw.canonical.white_level - raw.canonical.black_level.mean()
    )
    site = raw.canonical.cfa.index("G")
    points = bench.by_level(*bench.flat_windows(light[site // 2 :: 2, site % 2 :: 2]))
    level, variance = points[len(points) // 2]
    scale, offset = cameras.find(raw.camera).noise_profile(raw.optical.iso)[1]
    assert 0.6 < variance / (scale * level + offset) < 1.4


def test_daylight():
    assert cameras.find_by_name("Nikon D90").daylight_origin == "Direct Sunlight"
    facts = cameras.find_by_name("Canon PowerShot S40")
    assert facts.daylight_origin == "D55 through the colour matrix"
    expected = facts.color_matrix @ [0.95682, 1, 0.92149]  # D55 (CIE 15)
    np.testing.assert_allclose(facts.daylight_neutral, expected / expected[1], rtol=1e-3)


# Matching ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "model", "name"),
    [
        ("Canon", "Canon EOS 5D Mark III", "Canon EOS 5D Mark III"),
        ("Canon", "EOS 5D Mark III", "Canon EOS 5D Mark III"),
        ("CANON ", " canon eos 5d mark iii ", "Canon EOS 5D Mark III"),
        ("Canon", "Canon EOS DIGITAL REBEL XT", "Canon EOS 350D"),
        ("Canon", "Canon EOS 350D DIGITAL", "Canon EOS 350D"),
        ("Canon", "Canon EOS 350D", "Canon EOS 350D"),
        ("Canon", "EOS 350D", "Canon EOS 350D"),
        ("NIKON CORPORATION", "NIKON D90", "Nikon D90"),
        ("Nikon", "D90", "Nikon D90"),
        ("", "NIKON D90", "Nikon D90"),
        ("PENTAX Corporation", "PENTAX *ist DL", "Pentax *ist DL"),
        ("RICOH IMAGING COMPANY, LTD.", "PENTAX K-1", "Pentax K-1"),
        ("PENTAX", "PENTAX K-1", "Pentax K-1"),
        ("SONY", "SLT-A57", "Sony SLT-A57"),
        ("SONY", "ILCE-7RM3A", "Sony ILCE-7RM3"),
        ("OLYMPUS IMAGING CORP.", "E-5", "Olympus E-5"),
        ("OLYMPUS CORPORATION", "E-5", "Olympus E-5"),
        ("Leica Camera AG", "M9 Digital Camera", "Leica M9"),
        ("GoPro", "HERO7 Black", "GoPro HERO7 Black"),
        ("Apple", "iPhone 13 Pro", "Apple iPhone 13 Pro"),
        ("samsung", "SM-G991B", "Samsung Galaxy S21"),
        ("samsung", "Galaxy S24 Ultra", "Samsung Galaxy S24 Ultra"),
        ("HUAWEI", "VOG-L29", "Huawei HUAWEI P30 Pro"),
        ("Google", "Pixel 8 Pro", "Google Pixel 8 Pro"),
        ("Canon", "Canon EOS R6m2", "Canon EOS R6 Mark II"),
        ("NIKON CORPORATION", "NIKON Z 8", "Nikon Z 8"),
    ],
)
def test_exif_names(make, model, name):
    assert cameras.find(Camera(make, model)).name == name


def test_unknown_cameras():
    for camera in (None, Camera("", ""), Camera("Canon", ""), Camera("Apple", "iPhone 3G"), Camera("Canon", "D90")):
        assert cameras.find(camera) is None
    assert cameras.find(Camera("Canon", "Canon EOS 5D Mark")) is None  # no prefix matching
    assert cameras.find(Camera("\x00\xff", "\x7f")) is None


def test_every_name_and_alias_finds_its_own_camera():
    for facts in TABLE:
        for model in (facts.exif_model, *facts.aliases):
            assert cameras.find(Camera(facts.exif_make, model)) is facts, (facts.name, model)
        assert cameras.find_by_name(facts.name) is facts, facts.name
        assert cameras.find_by_name(f"{facts.exif_make}/{facts.exif_model}") is facts, facts.name


def test_names_as_people_write_them():
    for name in ("Canon EOS 60D", "canon eos 60d", "Canon/EOS 60D", "CANON / Canon EOS 60D", "EOS 60D", "eos60d"):
        assert cameras.find_by_name(name).name == "Canon EOS 60D"
    assert cameras.find_by_name("Canon EOS 61D") is None
    assert "Canon EOS 60D" in cameras.close_names("Canon EOS 61D")
    assert "Nikon D90" in cameras.close_names("Nikon/D91")
    assert cameras.close_names("zzzzzzzzzz") == []
    assert cameras.find_by_name("") is None
    assert cameras.find_by_name("/") is None


# Real files ----------------------------------------------------------------------------------------------------------


def test_cameras_of_the_real_jpegs(shared):
    from paramisp_cli.formats import exif

    known = set()
    for path in sorted((shared / "jpegs").glob("*.JPG")):
        data = path.read_bytes()
        facts = cameras.find(exif.camera(exif.parse(data[data.find(b"Exif\0\0") :])))
        print(path.name, "→", facts.name if facts else "not in the table")
        known |= {facts.name} if facts else set()
    assert known == {
        "Canon EOS 5D Mark III", "Canon PowerShot G6", "Canon EOS 350D", "Nikon D3100", "Nikon D90",
        "Pentax *ist DL", "Sony SLT-A57", "Apple iPhone 13 Pro", "Canon EOS RP", "Canon PowerShot SX150 IS",
    }  # fmt: skip


# file → make and model in its EXIF; whether the JPEG's pixel grid begins an odd number of rows and columns into the
# area that LibRaw shows, turned upright. `paramisp pairs` measured it (30D and D30: on reduced JPEGs, to 0.3 px); the
# 350D's DNG tells it (DefaultCropOrigin). The others' are not known: the visible area stands for them.
RAWS = {
    "GOPR8508.DNG": ("GoPro", "HERO7 Black", (0, 0)),  # (4, -8)
    "IMG_0848.CR2": ("Canon", "Canon EOS 30D", (1, 0)),  # (22.8, 33.75) of a JPEG cropped by (16, 24)
    "CRW.CRW": ("Canon", "Canon EOS D30", (1, 0)),  # (4.7, 7.7): both less by the quarter pixel of the reduction
    "CRW_0101.CRW": ("Canon", "Canon PowerShot S40", (0, 0)),
    "canon_eos_60d.CR2": ("Canon", "Canon EOS 60D", (0, 0)),  # (4, 10)
    "canon_eos_350d.dng": ("Canon", "Canon EOS 350D DIGITAL", (1, 0)),  # (5, 10)
    "canon_eos_5d_mark_iv.CR2": ("Canon", "Canon EOS 5D Mark IV", (0, 0)),
    "canon_powershot_g10.CR2": ("Canon", "Canon PowerShot G10", (1, 0)),  # (7, 8)
    "leica_m9.dng": ("Leica Camera AG", "M9 Digital Camera", (0, 0)),  # (2, 2)
    "sony_ilce-7rm3.ARW": ("SONY", "ILCE-7RM3", (0, 0)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RAWS)
def test_table_against_real_raw_files(real_raws, name):
    """Compare matrix, CFA and black with LibRaw's; white lies between where highlights begin to bend and the top."""
    rawpy = pytest.importorskip("rawpy")
    if name not in real_raws:
        pytest.skip(f"{name} is not here")
    make, model, (down, right) = RAWS[name]
    facts = cameras.find(Camera(make, model))
    with rawpy.imread(str(real_raws[name])) as raw:
        matrix = raw.rgb_xyz_matrix[:3]
        letters = "".join("RGBG"[c] for c in raw.raw_pattern.ravel())
        rows, columns = raw.sizes.top_margin % 2, raw.sizes.left_margin % 2
        black = np.mean(raw.black_level_per_channel)
        white = max(raw.white_level, *(raw.camera_white_level_per_channel or [0]))
        iso = raw.other.iso_speed
    if name.startswith("leica"):  # LibRaw's own numbers for it; the table has those of the DNG
        np.testing.assert_allclose(facts.color_matrix, matrix, atol=0.13)
    elif np.abs(matrix).sum() > 0:  # LibRaw knows no HERO7
        np.testing.assert_allclose(facts.color_matrix, matrix, atol=0.03)
    assert (rows, columns) == (0, 0)  # so raw_pattern, of the sensor's corner, holds for the visible area too
    if name.startswith("GOPR"):  # stored mirrored: the JPEG's grid is the other way round
        letters = letters[1::-1] + letters[:1:-1]
    grid = np.roll(np.array(list(letters)).reshape(2, 2), (-down, -right), (0, 1))
    assert facts.cfa == "".join(grid.ravel())
    table_black, table_white = facts.levels(iso)
    assert abs(table_black - black) <= 3
    # LibRaw says what the format can hold, the table where the sensor clips at this ISO
    assert 0.65 * white <= table_white <= white
