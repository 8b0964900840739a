"""Ultra HDR files of our own: decoded by libultrahdr, read by our reader, the base picture byte for byte."""

from dataclasses import replace

import gainmap_files as files
import numpy as np
import pytest
from conftest import gradient

from paramisp_cli import color, formats
from paramisp_cli.errors import FormatError, MetadataError
from paramisp_cli.formats import gainmap, jpeg
from paramisp_cli.formats.gainmap import write
from paramisp_cli.types import HdrImage, SrgbImage

HEIGHT, WIDTH = 96, 128


def picture():
    """A smooth picture: the noise of JPEG must not hide the map's."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    planes = (60 + 150 * x / WIDTH, 80 + 120 * y / HEIGHT, 230 - 100 * x / WIDTH)
    return np.rint(np.stack(planes, -1)).astype(np.uint8)


def codes():
    y, x = np.mgrid[: HEIGHT // 4, : WIDTH // 4]
    return np.rint(127 + 127 * np.sin(x / 9) * np.cos(y / 7)).astype(np.uint8)


def expected(base, gain_codes, stops, corner):
    """H of the specification, linear, with the map enlarged bilinearly.

    ``corner`` is the place of the map's first pixel in the picture: our reader takes the centre of its square, 1.5;
    libultrahdr takes 0.
    """

    def weights(length, small):
        place = np.clip((np.arange(length) - corner) * small / length, 0, small - 1)
        first = place.astype(int)
        return first, np.minimum(first + 1, small - 1), place - first

    (top, below, v), (left, right, u) = (weights(*pair) for pair in zip(base.shape[:2], gain_codes.shape, strict=True))
    g = gain_codes / 255
    wide = g[:, left] * (1 - u) + g[:, right] * u
    g = wide[top] * (1 - v[:, None]) + wide[below] * v[:, None]
    return (color.srgb_decode(base / 255) + 1 / 64) * 2.0 ** (stops * g[..., None]) - 1 / 64


def stops_between(light, truth):
    return np.abs(np.log2((light + 1 / 64) / (truth + 1 / 64)))


STOPS = 2.5
CODE = STOPS / 255
"""EV of one code of the map."""


@pytest.mark.parametrize("code", [0, 77, 255, None])
def test_libultrahdr_decodes_it(tmp_path, make_jpeg, code):
    imagecodecs = pytest.importorskip("imagecodecs")
    source = formats.read(make_jpeg(tmp_path / "a.jpg", picture()))
    path = tmp_path / "b.jpg"
    made = codes() if code is None else np.full_like(codes(), code)
    formats.write(HdrImage(source, made, STOPS), path)
    data = path.read_bytes()
    decoded = imagecodecs.ultrahdr_decode(data)[..., :3].astype(np.float64)
    stored = gainmap.find(data, 10**6).pixels  # after the map's own JPEG
    off = stops_between(decoded, expected(source.pixels, stored, STOPS, corner=0))
    assert off.mean() < CODE * (1 if code is not None else 1.5)
    # libultrahdr weighs by distance, not bilinearly: where the map bends, some codes differ.
    assert np.percentile(off, 99) < CODE * (3 if code is not None else 6)
    # Against the codes that were written: the map's JPEG costs little.
    assert stops_between(decoded, expected(source.pixels, made, STOPS, corner=0)).mean() < 2.5 * CODE
    assert code is not None or decoded.max() > 1.2  # light above white is there
    # Our own reader gives the rendition of the specification.
    rows, columns = np.arange(HEIGHT), np.arange(WIDTH)
    linear = color.srgb_decode(source.pixels / 255).astype(np.float32)
    light = gainmap.find(data, 10**6).light(linear, rows, columns, (HEIGHT, WIDTH))
    assert stops_between(light, expected(source.pixels, stored, STOPS, corner=1.5)).max() < CODE


def test_the_base_stays_byte_for_byte(tmp_path, make_jpeg):
    exif = {"0th": {0x010F: b"Nikon", 0x0112: 6}, "Exif": {0x8827: 200}}
    photo = make_jpeg(tmp_path / "a.jpg", gradient(), exif=exif, xmp=b"", progressive=True)
    source = formats.read(photo)
    path = tmp_path / "b.jpg"
    formats.write(HdrImage(source, codes(), 1.0), path)
    data, original = path.read_bytes(), photo.read_bytes()
    scans = original[original.index(b"\xff\xc2") :]  # the frame of a progressive JPEG, to the end
    assert scans in data
    assert write.coded(data) == write.coded(original)
    assert jpeg.exif_block(data) == jpeg.exif_block(original)
    back = formats.read(path)
    assert np.array_equal(back.pixels, source.pixels)
    assert back.orientation == 6


def test_our_reader_reads_both_kinds_of_metadata(tmp_path, make_jpeg):
    source = formats.read(make_jpeg(tmp_path / "a.jpg", picture()))
    made, notices = write.assembled(source.metadata.jpeg, codes(), 1.375, None)
    assert not notices
    both = gainmap.find(made, 10**6)
    assert both.kind == "Ultra HDR (XMP, ISO 21496-1)"
    assert both.headroom == pytest.approx(1.375)
    assert both.channels == 1
    assert np.abs(both.pixels.astype(int) - codes()).max() < 12
    xmp_alone = made.replace(b"urn:iso:std:iso:ts:21496:-1", b"urn:iso:std:iso:ts:00000:-1")
    assert gainmap.find(xmp_alone, 10**6).kind == "Ultra HDR (XMP)"
    assert gainmap.find(xmp_alone, 10**6).headroom == pytest.approx(1.375)
    iso_alone = made.replace(b"hdrgm:", b"xxxxx:").replace(b"hdr-gain-map", b"xxx-xxxx-xxx")
    assert gainmap.find(iso_alone, 10**6).kind == "ISO 21496-1"
    by_directory = made.replace(b"MPF\0MM", b"XPF\0MM")
    assert gainmap.find(by_directory, 10**6).kind == both.kind


def test_what_stands_behind_the_picture_is_left_out(tmp_path, make_jpeg):
    photo = make_jpeg(tmp_path / "a.jpg", picture()).read_bytes()
    whole = files.joined(photo, files.jpeg_bytes(picture()))  # a preview, named by an index
    made, notices = write.assembled(whole, codes(), 1.0, None)
    assert made.count(b"MPF\0MM") == 1
    assert "bytes behind the picture were left out" in notices[0]
    assert gainmap.find(made, 10**6).headroom == 1
    packet = (
        b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
        b'xmlns:c="http://ns.google.com/photos/1.0/camera/"/>'
    )
    made, notices = write.assembled(photo, codes(), 1.0, packet)
    assert notices == ("its XMP lists parts behind the picture and was left out",)


def test_the_users_xmp_stays(tmp_path, make_jpeg):
    packet = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:format="image/jpeg"/>'
        b"</rdf:RDF></x:xmpmeta>"
    )
    photo = make_jpeg(tmp_path / "a.jpg", picture(), xmp=packet)
    formats.write(HdrImage(formats.read(photo), codes(), 1.0), tmp_path / "b.jpg")
    found = jpeg.xmp_packet((tmp_path / "b.jpg").read_bytes())
    assert b'dc:format="image/jpeg"' in found
    assert b"<hdrgm:Version>1.0</hdrgm:Version>" in found
    long, notices = write.assembled(photo.read_bytes(), codes(), 1.0, packet.replace(b"image/jpeg", b"x" * 65000))
    assert notices == ("its XMP leaves no room for the gain map's and was left out",)
    assert gainmap.find(long, 10**6) is not None


def test_a_picture_without_a_jpeg_is_encoded_upright(tmp_path):
    source = SrgbImage(picture(), orientation=6)
    formats.write(HdrImage(source, codes(), 2.0), tmp_path / "a.jpg", formats.WriteOptions(quality=98))
    back = formats.read(tmp_path / "a.jpg")
    assert back.size == (WIDTH, HEIGHT)
    assert back.orientation == 1
    found = gainmap.find((tmp_path / "a.jpg").read_bytes(), 10**6)
    assert found.pixels.shape == (WIDTH // 4, HEIGHT // 4)
    assert np.abs(found.pixels.astype(int) - np.rot90(codes(), -1)).max() < 12


def test_bad_input(tmp_path, make_jpeg):
    photo = make_jpeg(tmp_path / "a.jpg", picture()).read_bytes()
    grey = make_jpeg(tmp_path / "g.jpg", picture()[..., 0]).read_bytes()
    with pytest.raises(FormatError, match="cut short"):
        write.assembled(photo[:-200], codes(), 1.0, None)
    with pytest.raises(FormatError, match="three colours"):
        write.assembled(grey, codes(), 1.0, None)
    image = SrgbImage(picture())
    for wrong in (codes()[..., None], codes().astype(np.float32), codes()[:0]):
        with pytest.raises(MetadataError, match="gain map must be"):
            HdrImage(image, wrong, 1.0)
    for stops in (0, -1, 9, float("nan")):
        with pytest.raises(MetadataError, match="stops"):
            HdrImage(image, codes(), stops)
    with pytest.raises(FormatError, match=r"an Ultra HDR picture is written as \.jpg, \.jpeg"):
        formats.write(HdrImage(image, codes(), 1.0), tmp_path / "a.png")


def test_the_check_of_a_written_file_finds_other_pixels(tmp_path, make_jpeg):
    source = formats.read(make_jpeg(tmp_path / "a.jpg", picture()))
    image = HdrImage(source, codes(), 2.0)
    formats.write(image, tmp_path / "b.jpg")
    back = formats.read(tmp_path / "b.jpg")
    write.verify(image, tmp_path / "b.jpg", back)
    other = make_jpeg(tmp_path / "c.jpg", picture()[::-1].copy()).read_bytes()
    changed = replace(source, metadata=replace(source.metadata, jpeg=other))
    for wrong in (replace(image, base=changed), replace(image, codes=codes()[::-1].copy()), replace(image, stops=1.9)):
        with pytest.raises(FormatError, match="does not read back"):
            write.verify(wrong, tmp_path / "b.jpg", back)
