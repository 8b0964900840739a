"""The segments of a JPEG, whole and cut anywhere."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from paramisp_cli.formats import jpeg

EXIF = b"II*\0\x08\0\0\0\0\0\0\0\0\0"


def made(mode: str = "RGB", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.linear_gradient("L").resize((48, 32)).convert(mode).save(stream, "JPEG", exif=b"Exif\0\0" + EXIF, **options)
    return stream.getvalue()


def test_segments():
    source = made()
    found = list(jpeg.segments(source))
    assert [marker for marker, _ in found[:2]] == [0xE0, 0xE1]
    assert found[1][1] == b"Exif\0\0" + EXIF
    filled = source[:2] + b"\xff" * 7 + source[2:]  # fill bytes before a marker are allowed (T.81 B.1.1.2)
    assert list(jpeg.segments(filled)) == found


@pytest.mark.parametrize(("subsampling", "factors"), [(0, (1, 1)), (1, (2, 1)), (2, (2, 2))])
def test_frames_that_may_be_previews(subsampling, factors):
    assert jpeg.preview_frame(made(subsampling=subsampling)) == (48, 32, factors)
    assert jpeg.preview_frame(made(subsampling=subsampling, progressive=True)) is None
    assert jpeg.preview_frame(made("L")) is None


def test_any_truncation_is_survived():
    source = made()
    whole = jpeg.preview_frame(source)
    for cut in range(len(source)):
        for tail in (b"", b"\xff" * 50, bytes(50)):
            data = source[:cut] + tail
            frame, block = jpeg.preview_frame(data), jpeg.exif_block(data)
            assert tail or frame in (None, whole)
            assert tail or block is None or EXIF.startswith(block)


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xe1", b"\xff\xd8\xff\xe1\0\0"]
)
def test_almost_nothing(data):
    """The third raised IndexError in the reader of a RAW's embedded JPEG."""
    assert list(jpeg.segments(data)) == []
    assert jpeg.exif_block(data) is None
    assert jpeg.preview_frame(data) is None
