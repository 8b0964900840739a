import io
import struct
import sys
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from paramisp_cli import color
from paramisp_cli.errors import FormatError
from paramisp_cli.formats import exif, raster
from paramisp_cli.formats import icc as icc_module
from paramisp_cli.formats.base import WriteOptions
from paramisp_cli.types import Camera, Metadata, OpticalParams, SrgbImage

EXIF = {
    "0th": {271: b"SONY", 272: b"SLT-A57", 274: 8},
    "Exif": {0x829A: (1, 200), 0x829D: (16, 1), 0x8827: 100, 0x920A: (50, 1), 0xA001: 1},
}
RNG = np.random.default_rng(5)


def noise(*shape, dtype=np.uint16):
    return RNG.integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def written(image, tmp_path, suffix, options=None):
    path = tmp_path / f"out{suffix}"
    form = next(form for form in raster.FORMATS if suffix in form.suffixes)
    form.write(image, path, options or WriteOptions())
    assert form.sniff(path.read_bytes()[:64])
    return path


# Reading -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg(tmp_path, make_jpeg, progressive):
    path = make_jpeg(tmp_path / "a.jpg", exif=EXIF, xmp=b"<x:xmpmeta/>", progressive=progressive)
    image = raster.read(path)
    np.testing.assert_array_equal(image.pixels, np.asarray(Image.open(io.BytesIO(path.read_bytes()))))
    assert image.pixels.dtype == np.uint8
    assert image.orientation == 8
    assert image.camera == Camera("SONY", "SLT-A57")
    assert image.optical == OpticalParams(100, 1 / 200, 16, 50)
    assert image.notes == ()
    assert image.metadata.jpeg == path.read_bytes()
    assert image.metadata.exif[:2] in (b"II", b"MM")
    assert image.metadata.xmp == b"<x:xmpmeta/>"
    assert image.metadata.source_name == "a.jpg"


def test_no_exif(tmp_path, make_jpeg):
    image = raster.read(make_jpeg(tmp_path / "a.jpg"))
    assert (image.camera, image.optical, image.orientation) == (None, OpticalParams(), 1)
    assert image.metadata.exif is image.metadata.xmp is image.metadata.icc is None


def test_damaged_exif_is_said(tmp_path, make_jpeg):
    image = raster.read(make_jpeg(tmp_path / "a.jpg", exif=b"nonsense that is no TIFF header"))
    assert image.notes == ("the EXIF block is damaged and was ignored",)
    assert image.metadata.exif is None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("channels", "note"),
    [
        (1, "the picture is grey: the same values were used for R, G and B"),
        (3, None),
        (4, "the alpha channel was dropped"),
    ],
)
def test_png(tmp_path, make_png, dtype, channels, note):
    pixels = noise(21, 30, channels, dtype=dtype)
    image = raster.read(make_png(tmp_path / "a.png", pixels, exif=EXIF))
    np.testing.assert_array_equal(image.pixels, np.broadcast_to(pixels[..., :3], (21, 30, 3)))
    assert image.pixels.dtype == dtype
    assert image.notes == ((note,) if note else ())
    assert image.camera == Camera("SONY", "SLT-A57")
    assert image.metadata.jpeg is None


def test_png_palette_and_bilevel(tmp_path, make_jpeg):
    source = Image.fromarray(noise(20, 20, 3, dtype=np.uint8)).quantize(16)
    source.save(tmp_path / "p.png")
    image = raster.read(tmp_path / "p.png")
    np.testing.assert_array_equal(image.pixels, np.asarray(source.convert("RGB")))
    assert image.notes == ("palette colours were expanded to RGB",)
    Image.fromarray(noise(20, 20, dtype=np.uint8) > 128).save(tmp_path / "b.png")
    assert set(np.unique(raster.read(tmp_path / "b.png").pixels)) == {0, 255}


def test_png_grey_with_alpha_16(tmp_path, make_png):
    """Pillow gives 8 of its 16 bits; better than none, and said."""
    pixels = noise(8, 8, 2)
    image = raster.read(make_png(tmp_path / "a.png", pixels))
    np.testing.assert_array_equal(image.pixels[..., 1], pixels[..., 0] >> 8)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff(tmp_path, make_tiff, *, byteorder, planarconfig, compression, dtype):
    pixels = noise(20, 31, 3, dtype=dtype)
    stored = pixels if planarconfig == "contig" else np.moveaxis(pixels, -1, 0)
    path = make_tiff(
        tmp_path / "a.tif", stored, byteorder=byteorder, planarconfig=planarconfig, compression=compression
    )
    image = raster.read(path)
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.pixels.dtype == dtype


def test_tiff_compressions_of_pillow(tmp_path):
    pixels = noise(20, 31, 3, dtype=np.uint8)
    for compression in ("tiff_lzw", "packbits"):
        Image.fromarray(pixels).save(tmp_path / "a.tif", compression=compression)
        np.testing.assert_array_equal(raster.read(tmp_path / "a.tif").pixels, pixels)


def test_tiff_lzw_16_bits(tmp_path):
    """A 16-bit LZW strip made of literal codes only: 9 bits each, cleared before they grow."""
    pixels = noise(6, 7, 3)
    bits = "".join(f"{code:09b}" for byte in pixels.astype("<u2").tobytes() for code in (256, byte))
    bits += f"{257:09b}"
    strip = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8))
    tags = [(256, 4, 7), (257, 4, 6), (259, 3, 5), (262, 3, 2), (277, 3, 3), (278, 4, 6), (279, 4, len(strip))]
    at = 8 + 2 + 12 * 9 + 4
    entries = [(tag, kind, 1, value) for tag, kind, value in tags] + [(258, 3, 3, at), (273, 4, 1, at + 6)]
    packed = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    head = b"II*\0" + struct.pack("<IH", 8, 9) + packed + bytes(4) + struct.pack("<3H", 16, 16, 16)
    (tmp_path / "lzw.tif").write_bytes(head + strip)
    np.testing.assert_array_equal(raster.read(tmp_path / "lzw.tif").pixels, pixels)


def test_tiff_grey_and_inverted(tmp_path, make_tiff):
    grey = noise(9, 8)
    for photometric, expected in (("minisblack", grey), ("miniswhite", 65535 - grey)):
        image = raster.read(make_tiff(tmp_path / "a.tif", grey, photometric=photometric))
        np.testing.assert_array_equal(image.pixels[..., 2], expected)
        assert "grey" in image.notes[0]


# What cannot be read -------------------------------------------------------------------------------------------------


def test_missing_and_unreadable(tmp_path):
    with pytest.raises(FileNotFoundError):  # formats.read puts it into words
        raster.read(tmp_path / "no.jpg")
    with pytest.raises(OSError, match="directory"):
        raster.read(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "a.jpg: the file is empty"),
        (b"hello", "not a JPEG, PNG, TIFF, WebP, AVIF or HEIC"),
        (b"\xff\xd8\xff\xe0" + bytes(50), "a.jpg"),
        (b"\xff\xd8\xff", "a.jpg"),
        (b"\x89PNG\r\n\x1a\n", "a.jpg"),
        (b"II*\0\x08\0\0\0", "a.jpg"),
        (b"MM\0*\xff\xff\xff\xff", "a.jpg"),
    ],
)
def test_no_picture(tmp_path, data, message):
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(FormatError, match=message):
        raster.read(tmp_path / "a.jpg")


def test_truncated(tmp_path, make_jpeg, make_png, make_tiff):
    noisy = noise(64, 64, 3, dtype=np.uint8)
    paths = [
        make_jpeg(tmp_path / "a.jpg", noisy),
        make_jpeg(tmp_path / "b.jpg", noisy, progressive=True),
        make_png(tmp_path / "a.png", noisy),
        make_png(tmp_path / "b.png", noise(64, 64, 3)),
        make_tiff(tmp_path / "a.tif", noisy),
        make_tiff(tmp_path / "b.tif", noisy, compression="zlib"),
    ]
    for path in paths:
        whole = path.read_bytes()
        for part in (0.2, 0.5, 0.9):
            path.write_bytes(whole[: int(len(whole) * part)])
            with pytest.raises(FormatError, match=path.name):
                raster.read(path)


def test_cmyk(tmp_path, make_tiff):
    cmyk = Image.fromarray(noise(16, 16, 3, dtype=np.uint8)).convert("CMYK")
    cmyk.save(tmp_path / "a.jpg")
    with pytest.raises(FormatError, match=r"a\.jpg: is a CMYK JPEG: convert it to RGB first"):
        raster.read(tmp_path / "a.jpg")
    cmyk.save(tmp_path / "a.tif")
    with pytest.raises(FormatError, match="convert it to RGB first"):
        raster.read(tmp_path / "a.tif")


def test_raw_in_a_tiff(tmp_path, make_tiff):
    mosaic = noise(16, 16)
    path = make_tiff(tmp_path / "a.tif", mosaic, photometric="cfa")
    with pytest.raises(FormatError, match="is a RAW file"):
        raster.read(path)
    path = make_tiff(tmp_path / "b.tif", extratags=[(50706, 1, 4, b"\1\4\0\0", True)])
    with pytest.raises(FormatError, match="is a RAW file"):
        raster.read(path)


def test_bombs(tmp_path):
    """150 megapixels are fine (Pillow would warn), 40 billion are not: neither is decoded here."""
    header = struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")):
        png += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    (tmp_path / "a.png").write_bytes(png)
    with pytest.raises(FormatError, match="200000×200000 = 40000 megapixels, more than the 250 megapixels allowed"):
        raster.read(tmp_path / "a.png")


@pytest.mark.slow
def test_large_pictures_are_read_quietly(tmp_path):
    """More than Pillow's limit of 89 megapixels, at which it warns (and a warning fails the test)."""
    Image.new("L", (12000, 8000), 77).save(tmp_path / "a.png", compress_level=1)
    image = raster.read(tmp_path / "a.png")
    assert image.size == (8000, 12000)


# Colour --------------------------------------------------------------------------------------------------------------

# CIE xy of primaries, and the power of the tone curve.
SPACES = {
    "Display P3": (((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), None),
    "Adobe RGB (1998)": (((0.640, 0.330), (0.210, 0.710), (0.150, 0.060)), 563 / 256),
    "sRGB": (((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)), None),
}


def profile(name, curve="table"):
    """A version-2 ICC matrix profile of one of SPACES, its white D65 adapted to D50, with curves of three kinds."""
    primaries, gamma = SPACES[name]
    xyz = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    white = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
    xyz = np.linalg.inv(icc_module._D50_TO_D65) @ (xyz * np.linalg.solve(xyz, white))

    def fixed(*values):
        return b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    if gamma and curve == "table":
        trc = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    elif gamma:
        trc = b"para" + bytes(8) + fixed(gamma)
    elif curve == "table":
        points = np.rint(color.srgb_decode(np.linspace(0, 1, 1024)) * 65535).astype(">u2").tobytes()
        trc = b"curv" + bytes(4) + struct.pack(">I", 1024) + points
    else:
        trc = b"para" + bytes(4) + b"\0\3\0\0" + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    text = name.encode() + b"\0"
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78)}
    tags[b"wtpt"] = b"XYZ " + bytes(4) + fixed(0.9642, 1, 0.8249)
    tags[b"cprt"] = b"text" + bytes(4) + b"none\0"
    for i, letter in enumerate(b"rgb"):
        tags[bytes([letter]) + b"XYZ"] = b"XYZ " + bytes(4) + fixed(*xyz[:, i])
        tags[bytes([letter]) + b"TRC"] = trc
    table, body = struct.pack(">I", len(tags)), b""
    for tag, data in tags.items():
        table += struct.pack(">4sII", tag, 132 + 12 * len(tags) + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = 128 + len(table) + len(body)
    version = b"\2\x10\0\0" if curve == "table" else b"\4\x20\0\0"
    head = struct.pack(">I", size) + bytes(4) + version + b"mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28)
    head += fixed(0.9642, 1, 0.8249)
    return head.ljust(128, b"\0") + table + body


def by_lcms(pixels, icc):
    source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    target = ImageCms.createProfile("sRGB")
    return np.asarray(ImageCms.profileToProfile(Image.fromarray(pixels), source, target, renderingIntent=1))


@pytest.mark.parametrize("curve", ["table", "formula"])
@pytest.mark.parametrize("name", ["Display P3", "Adobe RGB (1998)"])
def test_colour_spaces_against_littlecms(tmp_path, make_png, name, curve):
    pixels = noise(100, 300, 3, dtype=np.uint8)
    icc = profile(name, curve)
    image = raster.read(make_png(tmp_path / "a.png", pixels, icc=icc))
    assert image.pixels.dtype == np.uint16
    assert np.abs(raster.to_depth(image.pixels, 8).astype(int) - by_lcms(pixels, icc)).max() <= 1
    assert image.notes[0].startswith(f"converted from {name} to sRGB; ")
    assert "% of the pixels were outside sRGB and were clipped" in image.notes[0]
    assert image.metadata.icc == icc


@pytest.mark.parametrize("name", ["Display P3", "Adobe RGB (1998)"])
def test_neutrals_stay_neutral_and_nothing_is_clipped(tmp_path, make_png, name):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1).repeat(3, 2)
    image = raster.read(make_png(tmp_path / "a.png", ramp, icc=profile(name)))
    assert np.ptp(image.pixels.astype(int), axis=2).max() <= 2  # of 65535
    assert image.pixels[0, 0].tolist() == [0, 0, 0]
    assert image.pixels[-1, -1].tolist() == [65535] * 3
    assert image.notes == (f"converted from {name} to sRGB",)
    if name == "Display P3":  # it has sRGB's own tone curve
        assert np.abs(image.pixels.astype(int) - ramp).max() <= 40  # of 65535: the table has 1024 points


@pytest.mark.parametrize("curve", ["table", "formula"])
def test_srgb_profiles_change_nothing(tmp_path, make_jpeg, make_png, curve):
    for icc in (profile("sRGB", curve), raster.srgb_profile()):
        image = raster.read(make_jpeg(tmp_path / "a.jpg", icc=icc))
        assert (image.pixels.dtype, image.notes) == (np.uint8, ())
        pixels = noise(9, 9, 3)
        np.testing.assert_array_equal(raster.read(make_png(tmp_path / "a.png", pixels, icc=icc)).pixels, pixels)


def test_adobe_rgb_by_exif_alone(tmp_path, make_jpeg):
    adobe = {"0th": {271: b"Canon"}, "Exif": {0xA001: 65535}, "Interop": {1: b"R03"}}
    image = raster.read(make_jpeg(tmp_path / "a.jpg", exif=adobe))
    assert image.notes[0].startswith("converted from Adobe RGB (from EXIF) to sRGB")
    stored = np.asarray(Image.open(io.BytesIO((tmp_path / "a.jpg").read_bytes())))
    expected = by_lcms(stored, profile("Adobe RGB (1998)"))
    assert np.abs(raster.to_depth(image.pixels, 8).astype(int) - expected).max() <= 2
    # an embedded profile says more than EXIF
    assert raster.read(make_jpeg(tmp_path / "b.jpg", exif=adobe, icc=raster.srgb_profile())).notes == ()


def test_damaged_profiles_are_said(tmp_path, make_jpeg):
    good = profile("Display P3")
    for bad in (b"x" * 200, good[:140], good[:300], good[:128] + b"\xff" * 400):
        image = raster.read(make_jpeg(tmp_path / "a.jpg", icc=bad))
        assert image.pixels.dtype == np.uint8
        assert "profile" in image.notes[0]


def test_profile_made_of_tables(tmp_path, make_png):
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()  # for Lab: not for these pixels
    image = raster.read(make_png(tmp_path / "a.png", icc=lab))
    assert "is not for RGB" in image.notes[0]


@pytest.mark.slow
def test_p3_of_a_phone(shared):
    path = shared / "jpegs" / "Apple_iPhone_13_Pro_IMG_8568.JPG"
    image = raster.read(path)
    assert "converted from Display P3 to sRGB" in image.notes[0]
    rows = np.asarray(Image.open(io.BytesIO(image.metadata.jpeg)))[1000:1200]
    assert (
        np.abs(raster.to_depth(image.pixels[1000:1200], 8).astype(int) - by_lcms(rows, image.metadata.icc)).max() <= 1
    )


@pytest.mark.slow
def test_real_jpegs(shared):
    for path in sorted((shared / "jpegs").glob("*.JPG")):
        image = raster.read(path)
        assert image.camera is not None
        assert image.optical.exposure_time is not None
        assert image.metadata.jpeg[:2] == b"\xff\xd8"


# Orientation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_as_pillow_does_it(orientation):
    pixels = noise(5, 7, 3, dtype=np.uint8)
    image = Image.fromarray(pixels)
    image.getexif()[274] = orientation
    np.testing.assert_array_equal(
        raster.apply_orientation(pixels, orientation), np.asarray(ImageOps.exif_transpose(image))
    )


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_written_upright(tmp_path, suffix):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :16] = 255
    path = written(SrgbImage(pixels, orientation=6), tmp_path, suffix, WriteOptions(bit_depth=8))
    image = raster.read(path)
    assert image.orientation == 1
    assert np.abs(image.pixels.astype(int) - raster.apply_orientation(pixels, 6)).max() <= 8


# Writing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_lossless_round_trip(tmp_path, suffix, bits, dtype):
    pixels = noise(300, 41, 3, dtype=dtype)  # more rows than a strip
    image = raster.read(written(SrgbImage(pixels), tmp_path, suffix, WriteOptions(bit_depth=bits)))
    assert image.pixels.dtype == (np.uint8 if bits == 8 else np.uint16)
    if dtype == image.pixels.dtype:
        expected = pixels
    elif bits == 16:
        expected = pixels * np.uint16(257)
    else:
        expected = np.rint(pixels / 257)
    np.testing.assert_array_equal(image.pixels, expected)
    assert image.notes == ()


@pytest.mark.parametrize("bits", [8, 16])
def test_floats_are_rounded_and_clipped(tmp_path, bits):
    pixels = RNG.random((6, 7, 3), dtype=np.float32)
    pixels[0, 0] = (-0.5, 1.5, np.nan)
    image = raster.read(written(SrgbImage(pixels), tmp_path, ".png", WriteOptions(bit_depth=bits)))
    expected = np.rint(np.nan_to_num(pixels).clip(0, 1).astype(np.float64) * (2**bits - 1))
    np.testing.assert_array_equal(image.pixels, expected)


def test_default_depths(tmp_path):
    image = SrgbImage(noise(6, 7, 3))
    assert raster.read(written(image, tmp_path, ".png")).pixels.dtype == np.uint8
    assert raster.read(written(image, tmp_path, ".tif")).pixels.dtype == np.uint16
    with pytest.raises(FormatError, match="8 or 16 bits"):
        written(image, tmp_path, ".png", WriteOptions(bit_depth=12))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_metadata_comes_along(tmp_path, suffix):
    optical = OpticalParams(100, 1 / 200, 16, 50)
    block = exif.clean_exif(None, optical=optical, camera=Camera("SONY", "SLT-A57"), software="x", width=7, height=6)
    xmp = b'<?xpacket begin=""?><x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/><?xpacket end="w"?>'
    image = SrgbImage(noise(6, 7, 3, dtype=np.uint8), metadata=Metadata(exif=block, xmp=xmp))
    path = written(image, tmp_path, suffix)
    back = raster.read(path)
    assert back.optical == optical
    assert back.camera == Camera("SONY", "SLT-A57")
    assert back.orientation == 1
    assert back.metadata.icc == raster.srgb_profile()
    assert back.metadata.xmp == xmp.replace(b'"6"', b'"1"')
    if suffix != ".tif":
        assert back.metadata.exif == block
    if suffix == ".tif":
        with tifffile.TiffFile(path) as file:
            tags = file.pages[0].tags
            np.testing.assert_array_equal(file.asarray(), image.pixels * np.uint16(257))
            assert (tags["Make"].value, tags["Software"].value) == ("SONY", "x")
            assert tags["ExifTag"].value["ExposureTime"] == (1, 200)


def test_jpeg_quality_and_subsampling(tmp_path):
    image = SrgbImage(noise(64, 64, 3, dtype=np.uint8))
    fine = written(image, tmp_path, ".jpg", WriteOptions(quality=95)).read_bytes()
    small = written(image, tmp_path, ".jpg", WriteOptions(quality=80)).read_bytes()
    assert len(small) < len(fine) / 2
    for data, sampling in ((fine, 0x11), (small, 0x22)):
        frame = data.index(b"\xff\xc0")
        assert data[frame + 11] == sampling


def test_same_pixels_same_file(tmp_path):
    image = SrgbImage(noise(20, 20, 3, dtype=np.uint8))
    for suffix in (".jpg", ".png", ".tif"):
        assert written(image, tmp_path, suffix).read_bytes() == written(image, tmp_path, suffix).read_bytes()


def test_png_is_by_the_book(tmp_path):
    """Pillow reads our chunks, checking every CRC."""
    pixels = noise(300, 20, 3, dtype=np.uint8)
    path = written(SrgbImage(pixels), tmp_path, ".png")
    with Image.open(path) as image:
        image.verify()
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_what_cannot_be_written(tmp_path):
    wide = SrgbImage(np.zeros((1, 65501, 3), np.uint8))
    with pytest.raises(FormatError, match="more than JPEG can hold"):
        written(wide, tmp_path, ".jpg")
    with pytest.raises(OSError, match="No such file"):
        raster.PNG.write(SrgbImage(np.zeros((2, 2, 3), np.uint8)), tmp_path / "no" / "a.png", WriteOptions())


def test_decode_small(tmp_path, make_jpeg):
    data = make_jpeg(tmp_path / "a.jpg", noise(600, 900, 3, dtype=np.uint8)).read_bytes()
    small = raster.decode_small(data, 100)
    assert small.shape == (67, 100, 3)
    assert abs(small.mean() - 127) < 6
    assert raster.decode_small(make_jpeg(tmp_path / "a.jpg").read_bytes(), 100).shape == (48, 64, 3)
    with pytest.raises(FormatError, match="damaged"):
        raster.decode_small(data[:400], 100)


def test_sniffing():
    heads = {"JPEG": b"\xff\xd8\xff\xe1", "PNG": b"\x89PNG\r\n\x1a\n", "TIFF": b"MM\0*\0\0\0\x08"}
    heads |= {"WebP": b"RIFF\x24\0\0\0WEBPVP8 ", "AVIF": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1"}
    heads["HEIC"] = b"\0\0\0\x1cftypheic\0\0\0\0mif1heic"
    for form in raster.FORMATS:
        assert [name for name, head in heads.items() if form.sniff(head)] == [form.name]


def test_little_endian_machine():
    """The 16-bit trick with Pillow's native raw mode counts on it."""
    assert sys.byteorder == "little"
