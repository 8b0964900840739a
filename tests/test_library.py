"""The library: what unprocess and render take besides files, what they and the models refuse, strings for paths."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

import paramisp_cli as paramisp
from paramisp_cli import weights
from paramisp_cli.models.base import Params
from paramisp_cli.models.parametric import Parametric
from paramisp_cli.models.paramisp import ParamISP
from paramisp_cli.training import config, loop, protocol
from paramisp_cli.training import dataset as data
from paramisp_cli.training.measure import scores
from paramisp_cli.training.pairing import pairs
from paramisp_cli.training.simulated import scenes
from paramisp_cli.training.simulated import shots as simulated

PARAMETRIC = paramisp.Settings(model="parametric")
MATRIX = np.array([[0.6722, -0.0635, -0.0963], [-0.4287, 1.2460, 0.2028], [-0.0908, 0.2162, 0.5668]])
CANONICAL = paramisp.CanonicalParams("GBRG", 64, 1023, (0.5, 1, 0.6), MATRIX)
OPTICAL = paramisp.OpticalParams(iso=400, exposure_time=0.01, f_number=4, focal_length=35)
CAMERA = paramisp.Camera("Canon", "Canon EOS 60D")


def codes(height: int = 30, width: int = 44) -> np.ndarray:
    return np.random.default_rng(0).integers(20, 230, (height, width, 3), np.uint8)


def same(one: paramisp.RawImage, other: paramisp.RawImage) -> bool:
    return np.array_equal(one.mosaic, other.mosaic) and one.camera == other.camera and one.optical == other.optical


# Pictures ------------------------------------------------------------------------------------------------------------

PICTURES = {
    "uint8": lambda a: a,
    "uint16": lambda a: a.astype(np.uint16) * 257,
    "big-endian": lambda a: (a.astype(np.uint16) * 257).astype(">u2"),
    "float32": lambda a: a.astype(np.float32) / 255,
    "float64": lambda a: a / 255,
    "flipped": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "read-only": lambda a: np.frombuffer(a.tobytes(), np.uint8).reshape(a.shape),
    "tensor uint8": lambda a: torch.from_numpy(a).permute(2, 0, 1),
    "tensor float": lambda a: torch.from_numpy(a).permute(2, 0, 1).float() / 255,
    "tensor double": lambda a: torch.from_numpy(a).permute(2, 0, 1).double() / 255,
    "tensor with gradient": lambda a: (torch.from_numpy(a).permute(2, 0, 1).float() / 255).requires_grad_(),
    "batch of one": lambda a: torch.from_numpy(a).permute(2, 0, 1)[None].float() / 255,
    "PIL": Image.fromarray,
}


@pytest.mark.parametrize("form", PICTURES)
def test_unprocess_takes(form):
    expected = paramisp.unprocess(paramisp.SrgbImage(codes(), CAMERA, OPTICAL, orientation=6), PARAMETRIC)
    source = PICTURES[form](codes())
    raw = paramisp.unprocess(source, PARAMETRIC, camera=CAMERA, optical=OPTICAL, orientation=6)
    assert np.abs(raw.mosaic.astype(int) - expected.mosaic.astype(int)).max() <= 1  # 1: 1/255 in other roundings
    assert (raw.camera, raw.optical, raw.orientation, raw.crop) == (CAMERA, OPTICAL, 6, expected.crop)


def test_half_a_tensor():
    tensor = torch.from_numpy(codes()).permute(2, 0, 1).to(torch.bfloat16) / 255
    assert paramisp.unprocess(tensor, PARAMETRIC).size == (30, 44)


def test_parameters_may_be_unknown():
    assert same(paramisp.unprocess(codes(), PARAMETRIC), paramisp.unprocess(paramisp.SrgbImage(codes()), PARAMETRIC))


def test_settings_override_the_keywords():
    raw = paramisp.unprocess(codes(), replace(PARAMETRIC, iso=1600), optical=OPTICAL)
    assert raw.optical == replace(OPTICAL, iso=1600)


@pytest.mark.parametrize(
    ("picture", "text"),
    [
        (codes()[..., 0], r"\(H, W, 3\), got \(30, 44\)"),
        (codes().transpose(2, 0, 1), r"\(H, W, 3\), got \(3, 30, 44\)"),
        (codes().repeat(2, -1)[..., :4], r"got \(30, 44, 4\)"),
        (np.stack([codes()] * 2), r"batch \(2, 30, 44, 3\)"),
        (codes()[:0], r"at least one pixel, got \(0, 44, 3\)"),
        (codes().astype(np.int32), "uint8, uint16, float32, float64, got int32"),
        (codes() > 99, "got bool"),
        (codes().astype(np.float32), r"in \[0, 1\], got 20 to 229"),
        (codes() / -255, r"in \[0, 1\]"),
        (np.where(codes() > 200, np.nan, 0.5), "got nan"),
        (np.where(codes() > 200, np.inf, 0.5), "got 0.5 to inf"),
        (torch.zeros(30, 44, 3), r"\(3, H, W\) or \(1, 3, H, W\), got \(30, 44, 3\)"),
        (torch.zeros(2, 3, 30, 44), r"batch \(2, 3, 30, 44\); loop over it"),
        (torch.zeros(1, 1, 30, 44), r"got \(1, 1, 30, 44\)"),
        (torch.zeros(30, 44), r"got \(30, 44\)"),
        (torch.full((3, 30, 44), 1.5), "got 1.5 to 1.5"),
        (torch.full((3, 30, 44), float("nan")), "got nan"),
        (torch.zeros(3, 30, 44, dtype=torch.int64), "got int64"),
        (torch.zeros(3, 30, 44, dtype=torch.complex64), "dense and real"),
    ],
    ids=range(19),
)
def test_unprocess_refuses(picture, text):
    with pytest.raises(paramisp.MetadataError, match=text) as caught:
        paramisp.unprocess(picture, PARAMETRIC)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", [None, 3, [[0.5]], b"\xff\xd8\xff", Path])
def test_other_sources_are_refused(source):
    with pytest.raises(paramisp.ConfigError, match="unprocess takes a path, an SrgbImage, an array"):
        paramisp.unprocess(source, PARAMETRIC)
    with pytest.raises(paramisp.ConfigError, match="render takes a path, a RawImage, an array"):
        paramisp.render(source, PARAMETRIC, canonical=CANONICAL)


def test_keywords_are_of_their_types():
    for wrong in ({"camera": "Canon EOS 60D"}, {"optical": {"iso": 100}}, {"orientation": "6"}):
        with pytest.raises(paramisp.ConfigError, match=f"{next(iter(wrong))}= must be of type"):
            paramisp.unprocess(codes(), PARAMETRIC, **wrong)
    with pytest.raises(paramisp.MetadataError, match="orientation must be 1 to 8"):
        paramisp.unprocess(codes(), PARAMETRIC, orientation=9)


def test_a_source_with_its_own_parameters_takes_no_others(make_jpeg, tmp_path):
    photo = make_jpeg(tmp_path / "photo.jpg")
    for source in (photo, paramisp.SrgbImage(codes())):
        with pytest.raises(paramisp.ConfigError, match="optical=: for arrays and tensors"):
            paramisp.unprocess(source, PARAMETRIC, optical=OPTICAL)
    raw = paramisp.unprocess(photo, PARAMETRIC)
    paramisp.write(raw, tmp_path / "photo.dng")
    for made in (raw, str(tmp_path / "photo.dng")):
        with pytest.raises(paramisp.ConfigError, match="canonical=: for arrays"):
            paramisp.render(made, PARAMETRIC, canonical=CANONICAL)


# PIL -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1", "I;16"])
def test_pil_is_read_as_its_file(mode, tmp_path):
    grey = Image.fromarray(codes()[..., 0])
    sources = {"L": grey, "I;16": Image.fromarray(codes()[..., 0].astype(np.uint16) * 200), "LA": grey.convert("LA")}
    picture = sources.get(mode) or Image.fromarray(codes()).convert(mode)
    assert picture.mode == mode
    picture.save(tmp_path / "picture.png")
    read = paramisp.unprocess(tmp_path / "picture.png", PARAMETRIC)
    made = paramisp.unprocess(picture, PARAMETRIC)
    np.testing.assert_array_equal(made.mosaic, read.mosaic)
    assert made.notes == read.notes


def test_pil_has_exif_and_profile(make_jpeg, tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tags = {"0th": {0x010F: b"Canon", 0x0110: b"Canon EOS 60D", 0x0112: 6}, "Exif": {0x8827: 800, 0x920A: (50, 1)}}
    photo = make_jpeg(tmp_path / "photo.jpg", codes(), exif=tags, icc=profile)
    read = paramisp.unprocess(photo, PARAMETRIC)
    with Image.open(photo) as picture:
        made = paramisp.unprocess(picture, PARAMETRIC)
        told = paramisp.unprocess(picture, PARAMETRIC, optical=OPTICAL, orientation=1)
    assert same(made, read)
    assert (made.orientation, made.optical.iso, made.camera) == (6, 800, CAMERA)
    assert made.metadata.exif == read.metadata.exif
    assert made.metadata.source_name == "photo.jpg"
    assert (told.optical, told.orientation, told.camera) == (OPTICAL, 1, CAMERA)
    paramisp.write(made, tmp_path / "made.dng")
    assert isinstance(paramisp.read(tmp_path / "made.dng"), paramisp.RawImage)


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "HSV", "F", "I"])
def test_pil_of_other_modes_is_refused(mode):
    with pytest.raises(paramisp.FormatError, match=f"mode {mode} .* convert it to RGB"):
        paramisp.unprocess(Image.new(mode, (44, 30)), PARAMETRIC)


# Mosaics -------------------------------------------------------------------------------------------------------------


def mosaic(height: int = 30, width: int = 44) -> np.ndarray:
    return np.random.default_rng(1).integers(64, 1024, (height, width)).astype(np.uint16)


def linear(height: int = 30, width: int = 44) -> np.ndarray:
    return ((mosaic(height, width) - 64) / (1023 - 64)).astype(np.float32)


MOSAICS = {
    "uint16": mosaic,
    "float32": linear,
    "float64": lambda: linear().astype(np.float64),
    "tensor (H, W)": lambda: torch.from_numpy(linear()),
    "tensor (1, H, W)": lambda: torch.from_numpy(linear())[None],
    "tensor (1, 1, H, W)": lambda: torch.from_numpy(linear())[None, None],
    "tensor uint16": lambda: torch.from_numpy(mosaic()),
}


@pytest.mark.parametrize("form", MOSAICS)
def test_render_takes(form):
    wanted = paramisp.render(paramisp.RawImage(mosaic(), CANONICAL, OPTICAL, CAMERA, orientation=3), PARAMETRIC)
    shown = paramisp.render(
        MOSAICS[form](), PARAMETRIC, canonical=CANONICAL, optical=OPTICAL, camera=CAMERA, orientation=3
    )
    assert np.abs(shown.pixels.astype(int) - wanted.pixels.astype(int)).max() <= 1
    assert (shown.optical, shown.camera) == (OPTICAL, CAMERA)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (mosaic()[:29], r"even H and W, got \(29, 44\)"),
        (mosaic()[None], r"\(H, W\), one number a site, got \(1, 30, 44\)"),
        (mosaic().astype(np.uint8), "uint16, float32, float64, got uint8"),
        (mosaic().astype(np.float32), r"in \[0, 1\]"),
        (np.full((30, 44), np.nan), "got nan"),
        (torch.zeros(3, 30, 44), r"got \(3, 30, 44\)"),
        (torch.zeros(2, 1, 30, 44), r"batch \(2, 1, 30, 44\)"),
        (torch.zeros(1, 3, 30, 44), r"got \(1, 3, 30, 44\)"),
    ],
    ids=range(8),
)
def test_render_refuses(source, text):
    with pytest.raises(paramisp.MetadataError, match=text):
        paramisp.render(source, PARAMETRIC, canonical=CANONICAL)


def test_a_mosaic_needs_its_parameters():
    with pytest.raises(paramisp.ConfigError, match="needs canonical=CanonicalParams"):
        paramisp.render(mosaic(), PARAMETRIC)


# Models --------------------------------------------------------------------------------------------------------------


def shots(count: int = 1) -> Params:
    return Params.cat([Params.of(CANONICAL, OPTICAL)] * count)


@pytest.mark.parametrize("kind", [Parametric, ParamISP])
@pytest.mark.parametrize(
    ("x", "params", "text"),
    [
        (torch.zeros(3, 16, 16), shots(), r"\(N, 3, H, W\) of floating point, got \(3, 16, 16\)"),
        (torch.zeros(1, 1, 16, 16), shots(), r"\(N, 3, H, W\) of floating point, got \(1, 1, 16, 16\)"),
        (torch.zeros(1, 16, 16, 3), shots(), r"got \(1, 16, 16, 3\)"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), shots(), "got torch.uint8; scale it"),
        (np.zeros((1, 3, 16, 16), np.float32), shots(), "as a tensor, got ndarray"),
        (torch.zeros(1, 3, 15, 16), shots(), "even and at least 2, got 15×16"),
        (torch.zeros(1, 3, 0, 16), shots(), "even and at least 2, got 0×16"),
        (torch.zeros(0, 3, 16, 16), shots(), r"got \(0, 3, 16, 16\)"),
        (torch.zeros(2, 3, 16, 16), shots(1), "2 images need the Params of 2 shots, got 1"),
        (torch.zeros(1, 3, 16, 16), shots(2), "1 images need the Params of 1 shots, got 2"),
        (torch.zeros(1, 3, 16, 16), {"iso": 100}, "needs Params beside the pixels, got dict"),
        (torch.zeros(1, 3, 16, 16), shots().to("meta"), "images are on cpu and the Params on meta"),
    ],
    ids=range(12),
)
def test_models_refuse(kind, x, params, text):
    with pytest.raises(paramisp.ConfigError, match=text):
        kind("unprocess")(x, params)


def test_params_refuse():
    good = {name: getattr(shots(), name) for name in ("wb_gains", "cam_to_srgb", "iso", "exposure_time", "f_number")}
    with pytest.raises(paramisp.ConfigError, match=r"focal_length must be \(1,\), got \(2,\)"):
        Params(**good, focal_length=torch.ones(2))
    with pytest.raises(paramisp.ConfigError, match="focal_length must be a tensor of floating point, got int"):
        Params(**good, focal_length=50)
    with pytest.raises(paramisp.ConfigError, match="one cfa"):
        Params.cat([shots(), replace(shots(), cfa="RGGB")])


# Paths ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_settings_take_strings(make_jpeg, tmp_path):
    raw = paramisp.unprocess(codes(), PARAMETRIC, camera=CAMERA)
    paramisp.write(raw, str(tmp_path / "like.dng"))
    path = weights.save(ParamISP("unprocess"), str(tmp_path / "a.unprocess.safetensors"), camera="generic")
    photo = make_jpeg(tmp_path / "photo.jpg")
    strings = paramisp.Settings(scratch=str(tmp_path), like=str(tmp_path / "like.dng"), weights=str(path))
    paths = paramisp.Settings(scratch=tmp_path, like=tmp_path / "like.dng", weights=path)
    assert strings == paths
    assert same(paramisp.unprocess(str(photo), strings), paramisp.unprocess(photo, paths))
    with pytest.raises(paramisp.ConfigError, match="not an existing folder"):
        paramisp.Settings(scratch=str(tmp_path / "none"))
    with pytest.raises(paramisp.ConfigError, match="`weights` must be a path, got int"):
        paramisp.Settings(weights=3)


def test_weights_take_strings(tmp_path):
    path = weights.save(ParamISP("render"), str(tmp_path / "generic.render.safetensors"), camera="generic")
    assert weights.info(str(path))["direction"] == "render"
    assert weights.load(str(path)).direction == "render"
    assert weights.verify(str(path))["camera"] == "generic"
    assert paramisp.load_model(str(path)).direction == "render"
    found = weights.find(None, "render", explicit=str(tmp_path))
    assert found is not None
    assert found.path == path


@pytest.mark.slow
def test_training_takes_strings(tmp_path):
    folder = str(tmp_path)
    pixels = np.random.default_rng(3).uniform(0, 1, (32, 64, 3)).astype(np.float32)
    hdr = tmp_path / "scene.hdr"
    mantissa = np.clip(pixels * 128 + 128, 0, 255).astype(np.uint8)
    rgbe = np.concatenate([mantissa, np.full((32, 64, 1), 128, np.uint8)], -1)
    hdr.write_bytes(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 32 +X 64\n" + rgbe.tobytes())
    assert scenes.find([folder]) == [hdr]
    assert scenes.load(str(hdr)) is not None
    plan = simulated.Series(1, 96, 0, simulated.pick_cameras(["Canon EOS 60D"]))
    made = list(simulated.make([folder], f"{folder}/set", plan))
    assert [pair.status for pair in made] == ["pair"]
    assert [pair.name for pair in data.read_index(f"{folder}/set")] == [made[0].name]
    assert data.read_arrays(f"{folder}/set", made[0])[0].shape == (96, 96)
    loaded = data.load(f"{folder}/set", simulated=True)
    recipe = config.load("camera-cpu")
    protocol.start(recipe, paramisp.Direction.UNPROCESS, torch.device("cpu"), f"{folder}/run").save_checkpoint()
    assert (tmp_path / "run" / loop.CHECKPOINT).exists()
    scores.error_map(np.zeros((8, 8, 3)), np.ones((8, 8, 3)), f"{folder}/map.png")
    assert len(loaded) == 1
    with pytest.raises(paramisp.InputMissingError, match="no RAW file"):
        list(pairs.make([folder], f"{folder}/other"))


# Names ---------------------------------------------------------------------------------------------------------------


def test_public_names_only():
    assert dir(paramisp) == sorted([*paramisp.__all__, "__version__"])
    for name in paramisp.__all__:
        assert getattr(paramisp, name).__name__ == name
    for name in ("ParamispError", "MetadataError", "ConfigError", "WeightsError", "load_model", "Params"):
        assert name in paramisp.__all__
    with pytest.raises(AttributeError, match="no attribute 'import_module'"):
        _ = paramisp.import_module


def test_every_error_is_public():
    from paramisp_cli import errors

    known = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert known <= set(paramisp.__all__)


def test_types_are_told():
    assert (Path(paramisp.__file__).parent / "py.typed").is_file()


@pytest.mark.slow
def test_arrays_cost_no_pillow(tmp_path):
    script = (
        "import sys, numpy as np, paramisp_cli as p\n"
        "p.unprocess(np.zeros((30, 44, 3), np.uint8), p.Settings(model='parametric'))\n"
        "assert 'PIL' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_numbers_of_32_bits_leave_unrounded(tmp_path):
    """Floating point out: rounded, it gives the codes of 8 and 16 bits; it goes back in as it came."""
    exact = replace(PARAMETRIC, bit_depth=32)
    raw, codes_of_raw = (paramisp.unprocess(codes(), wish, camera=CAMERA) for wish in (exact, PARAMETRIC))
    assert raw.mosaic.dtype == np.float32
    black, white = raw.canonical.black_level, raw.canonical.white_level
    levels = np.tile(black, (raw.mosaic.shape[0] // 2, raw.mosaic.shape[1] // 2))
    assert np.abs(raw.mosaic * (white - levels) + levels - codes_of_raw.mosaic).max() <= 0.501
    assert len(np.unique(raw.mosaic)) > len(np.unique(codes_of_raw.mosaic))
    for bits in (8, 16):
        expected = paramisp.render(raw, replace(PARAMETRIC, bit_depth=bits)).pixels
        scaled = paramisp.render(raw, exact).pixels * (2**bits - 1)
        assert np.abs(scaled - expected).max() <= 0.51
    with pytest.raises(paramisp.FormatError, match="uint16"):
        paramisp.write(raw, tmp_path / "exact.dng")
