"""DNG files as others see them: LibRaw, the Adobe SDK, exiftool, dcraw, darktable, RawTherapee, tifffile."""

from __future__ import annotations

import hashlib
import io
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rawpy
import tifffile
from PIL import Image

from paramisp_cli import color
from paramisp_cli.errors import ConfigError, FormatError
from paramisp_cli.formats import dng, libraw, tiles
from paramisp_cli.formats.base import WriteOptions
from paramisp_cli.types import (
    CFA_PATTERNS,
    Camera,
    CanonicalParams,
    Crop,
    Metadata,
    OpticalParams,
    RawImage,
    SrgbImage,
)

JPEGS = Path(__file__).parents[3] / "shared" / "data" / "jpegs"
MATRIX = np.array([[0.6722, -0.0635, -0.0963], [-0.4287, 1.2460, 0.2028], [-0.0908, 0.2162, 0.5668]])  # like a real one
WHITE = MATRIX @ color.SRGB_TO_XYZ.sum(1)  # camera RGB of D65 white
LOSSLESS, PLAIN = WriteOptions(), WriteOptions(compression="none")


def make(height: int = 258, width: int = 386, cfa: str = "RGGB", black: object = 512, **more: object) -> RawImage:
    """A RAW image of a noisy gradient."""
    rng = np.random.default_rng(height * width)
    light = np.add.outer(np.arange(height) * 9.0, np.arange(width) * 7.0) + rng.normal(0, 30, (height, width)) + 600
    mosaic = np.clip(light, 0, 16383).astype(np.uint16)
    defaults = {"optical": OpticalParams(400, 1 / 125, 2.8, 50), "camera": Camera("Maker", "M1")}
    canonical = CanonicalParams(cfa, np.array(black), 16383, WHITE, MATRIX)
    return RawImage(mosaic, canonical, **{**defaults, **more})  # type: ignore[arg-type]


def written(folder: Path, raw: RawImage, options: WriteOptions = LOSSLESS) -> Path:
    path = folder / "out.dng"
    dng.write(raw, path, options)
    return path


def need(tool: str) -> str:
    found = shutil.which(tool)
    if not found:
        pytest.skip(f"{tool} is not installed")
    return found


def run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def sdk(*paths: Path) -> str:
    """What the Adobe SDK says while it opens the files, less its progress and its wish for masked borders."""
    pytest.importorskip("dngpy")
    code = "import dngpy, sys\nfor path in sys.argv[1:]: dngpy.Dng(path).raw_pixels; print('opened', flush=True)"
    said = run(sys.executable, "-c", code, *paths).splitlines()
    assert sum(line.endswith("opened") for line in said) == len(paths), said
    noise = ("Too little padding", "Digest time", "opened")
    return "\n".join(line for line in said if not any(word in line for word in noise))


def tags(path: Path) -> list[dict[int, object]]:
    """Tag values of IFD0 and of every SubIFD, as tifffile reads them; the directories themselves are checked."""
    data = path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        main = tiff.pages[0]
        pages = [main, *main.pages]
        values = [{tag.code: tag.value for tag in page.tags.values()} for page in pages]
        starts = [page.offset for page in pages]
    for start in starts:
        assert start % 2 == 0
        (count,) = struct.unpack_from("<H", data, start)
        entries = [struct.unpack_from("<HHII", data, start + 2 + 12 * number) for number in range(count)]
        codes = [code for code, *_ in entries]
        assert codes == sorted(set(codes))
        assert data[start + 2 + 12 * count :][:4] == bytes(4), "a next IFD"
        for _, kind, number, field in entries:
            size = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 10: 8, 11: 4, 12: 8}[kind] * number
            assert size <= 4 or (field % 2 == 0 and field + size <= len(data))
    return values


# ---- the mosaic ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [LOSSLESS, PLAIN], ids=["lossless", "none"])
@pytest.mark.parametrize(
    "size",
    [
        *((24, 24), (22, 512), (600, 30), (100, 22), (30, 48), (64, 32), (100, 144), (300, 150), (90, 240), (90, 254)),
        *((258, 386), (256, 256), (256, 258), (256, 512), (512, 512), (300, 1024), (260, 480), (1026, 514)),
    ],
)
def test_mosaic_comes_back_bit_for_bit(tmp_path: Path, size: tuple[int, int], options: WriteOptions) -> None:
    raw = make(*size)
    path = written(tmp_path, raw, options)
    with rawpy.imread(str(path)) as file:
        np.testing.assert_array_equal(file.raw_image_visible, raw.mosaic)
        np.testing.assert_array_equal(file.raw_image, raw.mosaic)
    dngpy = pytest.importorskip("dngpy")
    np.testing.assert_array_equal(dngpy.Dng(str(path)).raw_pixels[..., 0], raw.mosaic)


@pytest.mark.parametrize("kind", ["noise", "flat", "extremes"])
def test_hard_mosaics_come_back_from_every_decoder(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    mosaic = {
        "noise": rng.integers(0, 65536, (300, 600)),
        "flat": np.full((300, 600), 777),
        "extremes": rng.integers(0, 2, (300, 600)) * 32768,  # differences of 32768: category 16
    }[kind].astype(np.uint16)
    raw = make(300, 600)
    path = written(tmp_path, replace(raw, mosaic=mosaic, canonical=replace(raw.canonical, white_level=65535)))
    with rawpy.imread(str(path)) as file:
        np.testing.assert_array_equal(file.raw_image, mosaic)
    dngpy = pytest.importorskip("dngpy")
    np.testing.assert_array_equal(dngpy.Dng(str(path)).raw_pixels[..., 0], mosaic)
    assert sdk(path) == ""  # its digest agrees too
    run(need("dcraw"), "-E", "-4", path)  # the whole sensor as a 16-bit PGM, unprocessed
    pgm = path.with_suffix(".pgm").read_bytes()
    np.testing.assert_array_equal(np.frombuffer(pgm[-mosaic.size * 2 :], ">u2").reshape(mosaic.shape), mosaic)


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_cfa_and_levels(tmp_path: Path, cfa: str) -> None:
    black = [[500, 510], [520, 530]]
    path = written(tmp_path, make(cfa=cfa, black=black))
    with rawpy.imread(str(path)) as file:
        colours = file.color_desc.decode()
        assert "".join(colours[index] for index in file.raw_pattern.ravel()) == cfa
        by_position = [file.black_level_per_channel[index] for index in file.raw_pattern.ravel()]
        assert by_position == [500, 510, 520, 530]
        assert file.white_level == 16383
        np.testing.assert_allclose(file.camera_whitebalance[:3], WHITE[1] / WHITE, rtol=1e-6)
    raw = tags(path)[1]
    assert raw[50713] == (2, 2)
    assert tuple(raw[50714]) == (500, 510, 520, 530)


def test_black_levels_between_integers(tmp_path: Path) -> None:
    path = written(tmp_path, make(black=[[512.25, 512], [511.5, 600]]))
    fractions = np.array(tags(path)[1][50714]).reshape(4, 2)
    np.testing.assert_array_equal(fractions[:, 0] / fractions[:, 1], [512.25, 512, 511.5, 600])


def test_negative_black_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="negative black"):
        written(tmp_path, make(black=-1))


@pytest.mark.parametrize(
    "crop", [Crop(0, 0, 258, 386), Crop(1, 2, 255, 381), Crop(3, 5, 101, 77), Crop(257, 385, 1, 1)]
)
def test_crop(tmp_path: Path, crop: Crop) -> None:
    raw = tags(written(tmp_path, make(crop=crop)))[1]
    assert tuple(raw[50719]) == (crop.left, crop.top)
    assert tuple(raw[50720]) == (crop.width, crop.height)
    assert tuple(raw[50829]) == (0, 0, 258, 386)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path: Path, orientation: int) -> None:
    path = written(tmp_path, make(orientation=orientation, crop=Crop(4, 6, 240, 360)))
    main, *others = tags(path)
    assert main[274] == orientation
    assert all(274 not in ifd for ifd in others)
    with rawpy.imread(str(path)) as file:
        assert file.sizes.flip == (0, 1, 3, 2, 4, 6, 7, 5)[orientation - 1]  # bits: 4 transposed, 2 and 1 flipped
        shape = file.postprocess(half_size=True, use_camera_wb=True).shape
    assert (shape[0] > shape[1]) == (orientation >= 5)


def test_digest(tmp_path: Path) -> None:
    raw = make(300, 600)
    blocks = b""
    for top in (0, 256):
        for left in (0, 256, 512):
            blocks += hashlib.md5(raw.mosaic[top : top + 256, left : left + 256].astype("<u2").tobytes()).digest()
    expected = hashlib.md5(blocks).digest()
    assert tiles.digest(raw.mosaic) == expected
    for options in (LOSSLESS, PLAIN):
        assert bytes(tags(written(tmp_path, raw, options))[0][51111]) == expected


def test_the_sdk_notices_a_changed_sample(tmp_path: Path) -> None:
    path = written(tmp_path, make(), PLAIN)
    assert sdk(path) == ""
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)
    assert "Digest" in sdk(path)


# ---- the container -------------------------------------------------------------------------------------------------


def jpeg(mode: str = "RGB", size: tuple[int, int] = (386, 258), **options: object) -> bytes:
    gradient = np.indices((size[1], size[0])).sum(0) % 256
    image = Image.fromarray(np.stack([gradient, 255 - gradient, gradient // 2], 2).astype(np.uint8)).convert(mode)
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


def exif_block(order: str = "<", note: bytes = b"") -> bytes:
    """A small EXIF block: Orientation, Artist, XPTitle; exposure 1/60, ISO 100, colour space, lens; latitude."""

    def ifd(start: int, entries: list[tuple[int, int, bytes]]) -> bytes:
        sizes = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1}
        at, head, tail = start + 2 + 12 * len(entries) + 4, struct.pack(order + "H", len(entries)), b""
        for tag, kind, data in entries:
            field = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack(order + "I", at + len(tail))
            tail += data if len(data) > 4 else b""
            head += struct.pack(order + "HHI", tag, kind, len(data) // sizes[kind]) + field
        return head + bytes(4) + tail

    def pack(code: str, *values: int) -> bytes:
        return struct.pack(order + code, *values)

    exif = [
        (0x829A, 5, pack("II", 1, 60)),
        (0x8827, 3, pack("H", 100)),
        (0x9000, 7, b"0231"),
        (0x9003, 2, b"2020:01:02 03:04:05\0"),
        (0x9201, 5, pack("II", 59, 10)),
        *([(0x927C, 7, note)] if note else []),
        (0xA001, 3, pack("H", 1)),
        (0xA002, 4, pack("I", 386)),
        (0xA434, 2, b"A lens\0\0"),
    ]
    gps = [(1, 2, b"N\0"), (2, 5, pack("6I", 48, 1, 8, 1, 0, 1))]
    main = [(0x112, 3, pack("H", 6)), (0x13B, 2, b"An artist\0")]
    main += [(0x8769, 4, bytes(4)), (0x8825, 4, bytes(4)), (0x9C9B, 1, "Title".encode("utf-16-le"))]
    exif_at = 8 + len(ifd(8, main))
    gps_at = exif_at + len(ifd(exif_at, exif))
    main[2:4] = [(0x8769, 4, pack("I", exif_at)), (0x8825, 4, pack("I", gps_at))]
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + pack("I", 8) + ifd(8, main) + ifd(exif_at, exif) + ifd(gps_at, gps)


XMP = b"""<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="3"/></rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""


def full(**more: object) -> RawImage:
    """A RAW image with everything that can be told about one."""
    metadata = Metadata(exif=exif_block(), jpeg=jpeg(), xmp=XMP, source_name="è.jpg")
    curve = np.array([[0, 0], [0.2, 0.3], [1, 1]])
    defaults = {
        "metadata": metadata,
        "noise_profile": [[1e-4, 1e-6]] * 3,
        "tone_curve": curve,
        "crop": Crop(4, 4, 241, 361),
    }
    return make(**{**defaults, "baseline_exposure": 0.35, **more})  # type: ignore[arg-type]


def variants() -> dict[str, tuple[RawImage, WriteOptions]]:
    raw = full()
    out = {
        f"{profile} {compression}": (raw, WriteOptions(profile=profile, compression=compression))
        for profile in ("match", "linear", "adobe")
        for compression in ("lossless", "none")
    }
    unknown = {"camera": None, "optical": OpticalParams()}
    out["nothing known"] = (make(), WriteOptions())
    out["no camera"] = (make(**unknown), WriteOptions())  # type: ignore[arg-type]
    for mode, options in (("L", {}), ("CMYK", {}), ("RGB", {"progressive": True}), ("RGB", {"keep_rgb": True})):
        odd = replace(raw, metadata=Metadata(jpeg=jpeg(mode, **options)))
        out[f"{mode} {options}"] = (odd, WriteOptions())
    for orientation in range(1, 9):
        out[f"orientation {orientation}"] = (full(orientation=orientation), WriteOptions())
    for cfa in CFA_PATTERNS:
        out[cfa] = (full(cfa=cfa, black=[[500.5, 510], [520, 530]]), WriteOptions())
    for subsampling in (0, 1, 2):
        preview = replace(raw.metadata, jpeg=jpeg(subsampling=subsampling))
        out[f"subsampling {subsampling}"] = (replace(raw, metadata=preview), WriteOptions())
    return out


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file of each variant."""
    folder = tmp_path_factory.mktemp("variants")
    paths = {}
    for number, (name, (raw, options)) in enumerate(variants().items()):
        paths[name] = folder / f"{number}.dng"
        dng.write(raw, paths[name], options)
    return paths


def test_the_adobe_sdk_has_nothing_to_say(shelf: dict[str, Path]) -> None:
    assert sdk(*shelf.values()) == ""


@pytest.mark.slow
def test_exiftool_says_ok(shelf: dict[str, Path]) -> None:
    said = run(need("exiftool"), "-q", "-T", "-filename", "-validate", "-warning", "-a", *shelf.values())
    assert [line.split("\t")[1:] for line in said.splitlines()] == [["OK", "-"]] * len(shelf)


@pytest.mark.slow
def test_libraw_reads_all(shelf: dict[str, Path]) -> None:
    for name, path in shelf.items():
        with rawpy.imread(str(path)) as file:
            np.testing.assert_array_equal(file.raw_image_visible, variants()[name][0].mosaic)
            np.testing.assert_allclose(file.camera_whitebalance[:3], WHITE[1] / WHITE, rtol=1e-6)


def test_ifds_are_sound(shelf: dict[str, Path]) -> None:
    for path in shelf.values():
        main, raw, *previews = tags(path)
        assert (main[254], raw[254]) == (1, 0)
        assert all(preview[254] == 1 for preview in previews)
        assert max(main[256], main[257]) <= 256


def test_global_tags(shelf: dict[str, Path]) -> None:
    main, raw, preview = tags(shelf["match lossless"])
    assert bytes(main[50706]) == bytes((1, 4, 0, 0))
    assert main[50708] == "Maker M1"
    assert (main[271], main[272]) == ("Maker", "M1")
    matrix = np.array(main[50721], float).reshape(9, 2)
    np.testing.assert_allclose(matrix[:, 0] / matrix[:, 1], MATRIX.ravel(), atol=1e-7)
    neutral = np.array(main[50728], float).reshape(3, 2)
    np.testing.assert_allclose(neutral[:, 0] / neutral[:, 1], WHITE / WHITE.max(), atol=1e-7)
    assert main[50778] == 21
    exposure = main[50730]
    assert exposure[0] / exposure[1] == pytest.approx(0.35)
    np.testing.assert_allclose(np.ravel(main[50940]), [0, 0, 0.2, 0.3, 1, 1], atol=1e-7)
    assert main[51110] == 1
    assert bytes(main[50827]) == "è.jpg".encode() + b"\0"
    assert bytes(main[700]) == full().metadata.xmp
    assert main[315] == "An artist"
    assert bytes(main[0x9C9B]) == "Title".encode("utf-16-le")
    np.testing.assert_array_equal(np.ravel(raw[51041]), [1e-4, 1e-6] * 3)
    assert raw[259] == 7
    assert raw[322] == 256
    assert preview[50970] == 2


@pytest.mark.parametrize("profile", ["match", "linear", "adobe"])
def test_profiles(shelf: dict[str, Path], profile: str) -> None:
    main = tags(shelf[f"{profile} lossless"])[0]
    if profile == "adobe":
        assert not {50936, 50940, 50941, 51110} & set(main)
    else:
        assert len(np.ravel(main[50940])) == (6 if profile == "match" else 4)


def test_match_without_a_curve_is_linear(tmp_path: Path) -> None:
    np.testing.assert_array_equal(np.ravel(tags(written(tmp_path, make()))[0][50940]), [0, 0, 1, 1])


@pytest.mark.parametrize("curve", [[[0, 0], [1, 0.9]], [[0.1, 0], [1, 1]], [[0, 0], [0.5, 0.2], [0.5, 0.4], [1, 1]]])
def test_tone_curves_that_are_none_are_refused(tmp_path: Path, curve: list[list[float]]) -> None:
    with pytest.raises(FormatError, match="tone curve"):
        written(tmp_path, make(tone_curve=curve))


def test_unknown_camera(shelf: dict[str, Path]) -> None:
    main = tags(shelf["no camera"])[0]
    assert main[50708] == "paramisp generic"
    assert not {271, 272} & set(main)


def test_no_tile_is_half_the_image_or_wider() -> None:
    for width in range(2, 2000, 2):
        tile = tiles.tile_width_for(width)
        assert tile % 16 == 0
        assert tile * 2 != width
        assert (0 < tile <= width) or (tile == 0 and width < 16)


@pytest.mark.parametrize("size", [(2, 2), (2, 512), (4, 258), (512, 2), (14, 14)])
def test_tiny_mosaics(tmp_path: Path, size: tuple[int, int]) -> None:
    """Too small for LibRaw, which wants 22 pixels each way; the Adobe SDK takes them."""
    raw = make(*size)
    for options in (LOSSLESS, PLAIN):
        path = written(tmp_path, raw, options)
        dngpy = pytest.importorskip("dngpy")
        np.testing.assert_array_equal(dngpy.Dng(str(path)).raw_pixels[..., 0], raw.mosaic)


def test_nothing_is_written_of_what_is_no_mosaic(tmp_path: Path) -> None:
    raw = make()
    path = tmp_path / "out.dng"
    with pytest.raises(FormatError, match="uint16"):
        dng.write(replace(raw, mosaic=np.zeros((2, 2), np.float32), crop=None), path, LOSSLESS)
    with pytest.raises(FormatError, match="RAW"):
        dng.write(SrgbImage(np.zeros((2, 2, 3), np.uint8)), path, LOSSLESS)
    with pytest.raises(ConfigError, match="compression"):
        dng.write(raw, path, WriteOptions(compression="zip"))
    with pytest.raises(ConfigError, match="profile"):
        dng.write(raw, path, WriteOptions(profile="vivid"))
    assert not path.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_an_os_error() -> None:
    with pytest.raises(OSError, match="No space"):
        dng.write(make(), Path("/dev/full"), LOSSLESS)


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first = written(tmp_path, full()).read_bytes()
    assert written(tmp_path, full()).read_bytes() == first


# ---- the preview ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("subsampling", "factors"), [(0, (1, 1)), (1, (2, 1)), (2, (2, 2))])
def test_jpeg_is_there_byte_for_byte(shelf: dict[str, Path], subsampling: int, factors: tuple[int, int]) -> None:
    path, source = shelf[f"subsampling {subsampling}"], jpeg(subsampling=subsampling)
    preview = tags(path)[2]
    at, length = int(np.ravel(preview[273])[0]), int(np.ravel(preview[279])[0])
    assert at % 2 == 0
    assert path.read_bytes()[at : at + length] == source
    assert (preview[256], preview[257], preview[259], preview[262]) == (386, 258, 7, 6)
    assert tuple(preview[530]) == factors
    with rawpy.imread(str(path)) as file:
        thumb = file.extract_thumb()
    assert thumb.format == rawpy.ThumbFormat.JPEG
    found = np.asarray(Image.open(io.BytesIO(thumb.data)))  # LibRaw adds an Exif block to a JFIF file
    np.testing.assert_array_equal(found, np.asarray(Image.open(io.BytesIO(source))))


@pytest.mark.parametrize("kind", ["grey", "progressive", "larger than the mosaic"])
@pytest.mark.slow
def test_jpegs_that_cannot_be_previews_are_kept_whole(tmp_path: Path, kind: str) -> None:
    size = (900, 700) if kind.startswith("larger") else (300, 200)
    source = jpeg("L" if kind == "grey" else "RGB", size, progressive=kind == "progressive") + bytes(70000)
    path = written(tmp_path, make(metadata=Metadata(jpeg=source)))
    assert "Full size:    386 x 258" in run(need("dcraw"), "-i", "-v", path)
    main, *others = tags(path)
    assert len(others) == 1
    data = bytes(main[50828])
    assert bytes(main[50973]) == hashlib.md5(data).digest()
    exiftool = need("exiftool")
    done = subprocess.run([exiftool, "-b", "-OriginalRawImage", path], capture_output=True, check=True)
    assert done.stdout == source
    assert sdk(path) == ""


def test_no_jpeg_unless_wanted(tmp_path: Path) -> None:
    path = written(tmp_path, full(), WriteOptions(embed_jpeg=False))
    assert len(tags(path)) == 2
    assert jpeg() not in path.read_bytes()


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_thumbnail_looks_like_the_picture(tmp_path: Path, cfa: str) -> None:
    srgb = np.zeros((600, 900, 3))
    srgb[:300, :450], srgb[:300, 450:], srgb[300:, :450], srgb[300:, 450:] = 0.5, (0.6, 0.3, 0.2), (0.2, 0.4, 0.6), 0.05
    path = written(tmp_path, raw_of(srgb, cfa))
    with tifffile.TiffFile(path) as tiff:
        thumbnail = tiff.pages[0].asarray()
    assert thumbnail.shape == (150, 225, 3)
    expected = color.srgb_encode(srgb[150::300, 225::450]) * 255
    np.testing.assert_allclose(thumbnail[37::75, 56::112], expected, atol=1.5)


def test_thumbnail_of_all_sizes(tmp_path: Path) -> None:
    for height, width in ((2, 2), (2, 700), (700, 2), (512, 514), (258, 2050)):
        for crop in (Crop(0, 0, height, width), Crop(height - 1, width - 1, 1, 1), Crop(1, 1, height - 1, width - 1)):
            main = tags(written(tmp_path, make(height, width, crop=crop)))[0]
            assert 1 <= min(main[256], main[257]) <= max(main[256], main[257]) <= 256


# ---- EXIF ----------------------------------------------------------------------------------------------------------


def exif_of(path: Path) -> dict[str, object]:
    with tifffile.TiffFile(path) as tiff:
        main = tiff.pages[0].tags
        return {**main[34665].value, **(main[34853].value if 34853 in main else {})}


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_and_gps_are_copied(tmp_path: Path, order: str) -> None:
    raw = make(optical=OpticalParams(100, 1 / 60), metadata=Metadata(exif=exif_block(order)))
    found = exif_of(written(tmp_path, raw))
    assert found["ExposureTime"] == (1, 60)
    assert found["ISOSpeedRatings"] == 100
    assert found["ShutterSpeedValue"] == (59, 10)
    assert found["LensModel"] == "A lens"
    assert found["ExifVersion"] in ("0231", b"0231")
    assert found["GPSLatitudeRef"] == "N"
    assert found["GPSLatitude"] == (48, 1, 8, 1, 0, 1)
    assert not {"ColorSpace", "PixelXDimension", "MakerNote"} & set(found)


def test_parameters_fill_in_and_override(tmp_path: Path) -> None:
    raw = make(optical=OpticalParams(800, 1 / 250, 5.6, 35), metadata=Metadata(exif=exif_block()))
    found = exif_of(written(tmp_path, raw))
    assert found["ExposureTime"] == (1, 250)
    assert found["FNumber"] == (28, 5)
    assert found["FocalLength"] == (35, 1)
    assert found["ISOSpeedRatings"] == 800
    assert "ShutterSpeedValue" not in found


def test_parameters_without_any_exif(tmp_path: Path) -> None:
    found = exif_of(written(tmp_path, make(optical=OpticalParams(204800, 30, 1.4))))
    assert found["ExposureTime"] == (30, 1)
    assert found["FNumber"] == (7, 5)
    assert found["ISOSpeedRatings"] == 65535
    assert found["RecommendedExposureIndex"] == 204800
    assert "FocalLength" not in found


def test_a_makernote_of_a_few_letters_is_left_out(tmp_path: Path) -> None:
    assert 50740 not in tags(written(tmp_path, make(metadata=Metadata(exif=exif_block(note=b"MKED\4\0")))))[0]


def test_what_cameras_get_wrong_is_put_right(tmp_path: Path) -> None:
    """A lens' unknown apertures as 0/1, a comment of blanks in no encoding, f-numbers where APEX values belong."""
    entries = [
        (0x829D, 5, struct.pack("<II", 60, 10)),
        (0x9202, 5, struct.pack("<II", 6, 1)),
        (0x9205, 5, struct.pack("<II", 60, 10)),
        (0x9286, 7, bytes(8) + b"       \0"),
        (0xA432, 5, struct.pack("<8I", 28, 1, 135, 1, 0, 1, 0, 1)),
    ]
    head, tail = struct.pack("<H", len(entries)), b""
    for tag, kind, data in entries:
        head += struct.pack("<HHII", tag, kind, len(data) // {5: 8, 7: 1}[kind], 26 + 6 + 12 * len(entries) + len(tail))
        tail += data
    main = struct.pack("<HHHIII", 1, 0x8769, 4, 1, 26, 0)
    block = b"II*\0" + struct.pack("<I", 8) + main + head + bytes(4) + tail
    path = written(tmp_path, make(optical=OpticalParams(f_number=6), metadata=Metadata(exif=block)))
    found = exif_of(path)
    assert found["LensSpecification"] == (28, 1, 135, 1, 0, 0, 0, 0)
    assert found["FNumber"] == (60, 10)
    assert not {"ApertureValue", "MaxApertureValue", "UserComment"} & set(found)
    assert sdk(path) == ""


def test_makernote_goes_where_adobe_puts_it(tmp_path: Path) -> None:
    note = bytes(range(33))
    block = exif_block(">", note)
    data = bytes(tags(written(tmp_path, make(metadata=Metadata(exif=block))))[0][50740])
    assert data == b"Adobe\0MakN" + struct.pack(">I", 39) + b"MM" + struct.pack(">I", block.index(note)) + note + b"\0"


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["Nikon_D90*", "Canon_Rebel*", "Sony*", "Apple*"])
def test_real_makernotes_can_be_read(tmp_path: Path, pattern: str) -> None:
    sources = sorted(JPEGS.glob(pattern))
    if not sources:
        pytest.skip(f"no {pattern} in {JPEGS}")
    exiftool, source = need("exiftool"), sources[0].read_bytes()
    start = source.index(b"Exif\0\0")
    block = source[start + 6 : start - 2 + int.from_bytes(source[start - 2 : start], "big")]
    raw = make(metadata=Metadata(exif=block, jpeg=source))
    make_, model = run(exiftool, "-s3", "-Make", "-Model", sources[0]).splitlines()
    path = written(tmp_path, replace(raw, camera=Camera(make_, model)))
    said = [run(exiftool, "-a", "-G1", "-s", "-MakerNotes:all", file).splitlines() for file in (sources[0], path)]
    # Where a MakerNote's preview starts is told from the file's first byte, and so differs.
    listing = [[line for line in lines if "PreviewImageStart" not in line] for lines in said]
    assert listing[0] == listing[1]
    assert len(listing[0]) > 20
    with rawpy.imread(str(path)) as file:  # LibRaw looks into MakerNotes too: what the DNG says must win
        np.testing.assert_allclose(file.camera_whitebalance[:3], WHITE[1] / WHITE, rtol=1e-6)
        assert file.black_level_per_channel == [512] * 4
        assert file.white_level == 16383


# ---- other readers -------------------------------------------------------------------------------------------------


def darktable(path: Path, out: Path, folder: Path) -> np.ndarray:
    """Linear Rec. 709 from darktable without its tone curves, as (H, W, 3) in [0, 1]."""
    config = ["--configdir", folder / "darktable", "--library", ":memory:", "--conf", "plugins/darkroom/workflow=none"]
    bits = ["--conf", "plugins/imageio/format/tiff/bpp=16"]
    run(need("darktable-cli"), path, out, "--icc-type", "LIN_REC709", "--core", *config, *bits)
    return tifffile.imread(out) / 65535


@pytest.mark.parametrize("options", [LOSSLESS, PLAIN], ids=["lossless", "none"])
def test_dcraw_opens_it(tmp_path: Path, options: WriteOptions) -> None:
    said = run(need("dcraw"), "-i", "-v", written(tmp_path, full(orientation=6), options))
    lines = dict(line.split(": ", 1) for line in said.splitlines() if ": " in line)
    assert lines["Camera"] == "Maker M1"
    assert lines["ISO speed"] == "400"
    assert lines["Shutter"] == "1/125.0 sec"
    assert lines["Full size"].split() == ["386", "x", "258"]
    assert lines["Output size"].split() == ["258", "x", "386"]
    assert lines["Thumb size"].split() == ["386", "x", "258"]


@pytest.mark.slow
@pytest.mark.parametrize("options", [LOSSLESS, PLAIN], ids=["lossless", "none"])
def test_darktable_opens_it(tmp_path: Path, options: WriteOptions) -> None:
    path = written(tmp_path, full(orientation=6), options)
    assert darktable(path, tmp_path / "out.tif", tmp_path).shape == (361, 241, 3)


@pytest.mark.parametrize("options", [LOSSLESS, PLAIN], ids=["lossless", "none"])
def test_rawtherapee_opens_it(tmp_path: Path, options: WriteOptions) -> None:
    path = written(tmp_path, full(orientation=6), options)
    run(need("rawtherapee-cli"), "-Y", "-t", "-o", tmp_path / "out.tif", "-c", path)
    height, width = tifffile.imread(tmp_path / "out.tif").shape[:2]
    assert height > width
    assert abs(height - 386) < 40  # it leaves out a border, and the crop where it reads it


@pytest.mark.slow
@pytest.mark.parametrize("model", ["Canon EOS RP", "Canon EOS R6", "Canon EOS 5D Mark IV", "Canon PowerShot G7 X"])
def test_rawtherapee_takes_no_black_level_from_the_picture(tmp_path: Path, model: str) -> None:
    """It looks for masked pixels at the border of these cameras' files; ours have none, and came out black."""
    raw = replace(full(), camera=Camera("Canon", model))
    path = written(tmp_path, raw, LOSSLESS)
    assert libraw.read(path).camera == raw.camera  # for us the name is the camera's own
    # The same picture whatever the camera is called.
    run(need("rawtherapee-cli"), "-Y", "-t", "-o", tmp_path / "out.tif", "-c", path)
    named = float(tifffile.imread(tmp_path / "out.tif").mean())
    path = written(tmp_path, replace(raw, camera=Camera("Maker", "M1")), LOSSLESS)
    run(need("rawtherapee-cli"), "-Y", "-t", "-o", tmp_path / "out.tif", "-c", path)
    assert named == pytest.approx(float(tifffile.imread(tmp_path / "out.tif").mean()), rel=0.02)


# ---- colour --------------------------------------------------------------------------------------------------------

PATCH = 24  # side of a patch [px]


def patches() -> np.ndarray:
    """(4, 6, 3) linear sRGB: 18 colours within what the camera can hold, 6 greys."""
    rng = np.random.default_rng(24)
    colours = rng.uniform(0.08, 0.6, (18, 3))
    greys = np.repeat(np.array([[0.6], [0.45], [0.3], [0.18], [0.09], [0.04]]), 3, 1)
    return np.concatenate([colours, greys]).reshape(4, 6, 3)


def raw_of(srgb: np.ndarray, cfa: str = "RGGB") -> RawImage:
    """What a camera of matrix MATRIX and black 512, white 16383 sees of (H, W, 3) linear sRGB under D65."""
    camera = srgb @ (MATRIX @ color.SRGB_TO_XYZ).T / WHITE.max()  # white fills the strongest channel
    raw = make(*srgb.shape[:2], cfa=cfa)
    mosaic = np.zeros(srgb.shape[:2])
    for position, colour in enumerate(cfa):
        rows, columns = slice(position // 2, None, 2), slice(position % 2, None, 2)
        mosaic[rows, columns] = camera[rows, columns, "RGB".index(colour)]
    return replace(raw, mosaic=np.rint(512 + mosaic * (16383 - 512)).astype(np.uint16))


def centres(picture: np.ndarray) -> np.ndarray:
    """(4, 6, 3) mean of each patch's middle."""
    grid = picture.reshape(4, PATCH, 6, PATCH, 3)[:, PATCH // 3 : -PATCH // 3, :, PATCH // 3 : -PATCH // 3]
    return grid.mean((1, 3))


def libraw_colours(path: Path) -> np.ndarray:
    with rawpy.imread(str(path)) as file:
        picture = file.postprocess(
            use_camera_wb=True, no_auto_bright=True, gamma=(1, 1), output_bps=16, output_color=rawpy.ColorSpace.sRGB
        )
    return centres(picture / 65535)


def colour_error(found: np.ndarray) -> float:
    """Largest difference in linear light, relative to white."""
    return float(np.abs(found - patches()).max())


def chart(cfa: str = "RGGB") -> RawImage:
    return raw_of(np.kron(patches(), np.ones((PATCH, PATCH, 1))), cfa)


MUTANTS = {
    "matrix transposed": lambda c: replace(c, color_matrix=c.color_matrix.T),
    "matrix inverted": lambda c: replace(c, color_matrix=np.linalg.inv(c.color_matrix)),
    "black too low": lambda c: replace(c, black_level=c.black_level - 128),
    "black too high": lambda c: replace(c, black_level=c.black_level + 128),
    "white wrong": lambda c: replace(c, white_level=15000),
    "CFA one column on": lambda c: c.shifted(0, 1),
    "CFA one row on": lambda c: c.shifted(1, 0),
    "CFA both on": lambda c: c.shifted(1, 1),
    "neutral inverted": lambda c: replace(c, as_shot_neutral=1 / c.as_shot_neutral),
    "neutral backwards": lambda c: replace(c, as_shot_neutral=c.as_shot_neutral[::-1]),
    "neutral 5 % off": lambda c: replace(c, as_shot_neutral=c.as_shot_neutral * [1.05, 1, 1]),
}
LIBRAW_TOLERANCE = 0.001  # both come within 0.0002
DARKTABLE_TOLERANCE = 0.001


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_colours_through_libraw(tmp_path: Path, cfa: str) -> None:
    assert colour_error(libraw_colours(written(tmp_path, chart(cfa)))) < LIBRAW_TOLERANCE


@pytest.mark.parametrize("mutant", MUTANTS)
def test_wrong_colours_are_noticed_by_libraw(tmp_path: Path, mutant: str) -> None:
    raw = chart()
    wrong = replace(raw, canonical=MUTANTS[mutant](raw.canonical))
    assert colour_error(libraw_colours(written(tmp_path, wrong))) > 20 * LIBRAW_TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("cfa", ["RGGB", "GBRG"])
def test_colours_through_darktable(tmp_path: Path, cfa: str) -> None:
    path = written(tmp_path, chart(cfa))
    assert colour_error(centres(darktable(path, tmp_path / "out.tif", tmp_path))) < DARKTABLE_TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("mutant", ["matrix transposed", "black too low", "CFA one row on", "neutral backwards"])
def test_wrong_colours_are_noticed_by_darktable(tmp_path: Path, mutant: str) -> None:
    raw = chart()
    path = written(tmp_path, replace(raw, canonical=MUTANTS[mutant](raw.canonical)))
    assert colour_error(centres(darktable(path, tmp_path / "out.tif", tmp_path))) > 10 * DARKTABLE_TOLERANCE
