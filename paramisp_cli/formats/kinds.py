"""Kinds of files by their first bytes: kinds that paramisp reads, and kinds that it can only name."""

from __future__ import annotations

JPEG_MAGIC = b"\xff\xd8\xff"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
TIFF_MAGICS = (b"II*\0", b"MM\0*")

_AVIF = {b"avif", b"avis"}
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_UNREADABLE = (
    ("GIF", (b"GIF87a", b"GIF89a")),
    ("BMP", (b"BM",)),
    ("JPEG XL", (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")),
    ("JPEG 2000", (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")),
    ("JPEG XR", (b"II\xbc\x01",)),
    ("PSD (Photoshop)", (b"8BPS",)),
    ("XCF (GIMP)", (b"gimp xcf",)),
    ("OpenEXR", (b"\x76\x2f\x31\x01",)),
    ("Radiance HDR", (b"#?RADIANCE", b"#?RGBE")),
    ("BigTIFF", (b"II+\0", b"MM\0+")),
    ("PDF", (b"%PDF-",)),
    ("video", (b"\x1a\x45\xdf\xa3", b"\0\0\1\xba", b"\0\0\1\xb3", b"\x06\x0e\x2b\x34", b"\x30\x26\xb2\x75")),
)  # fmt: skip

KNOWN_UNREADABLE = {
    ".gif": "GIF",
    ".bmp": "BMP",
    ".jxl": "JPEG XL",
    **dict.fromkeys((".jp2", ".j2k", ".jpf", ".jpx"), "JPEG 2000"),
    **dict.fromkeys((".jxr", ".wdp", ".hdp"), "JPEG XR"),
    **dict.fromkeys((".psd", ".psb"), "PSD (Photoshop)"),
    ".xcf": "XCF (GIMP)",
    ".exr": "OpenEXR",
    ".hdr": "Radiance HDR",
    ".pdf": "PDF",
    **dict.fromkeys(
        (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mts", ".m2ts", ".mpg", ".mpeg", ".3gp", ".wmv", ".mxf"),
        "video",
    ),
}
"""Suffix → kind, for files beside photographs that paramisp cannot read."""


def is_webp(head: bytes) -> bool:
    """Tell whether a file with these first bytes is WebP."""
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def is_avif(head: bytes) -> bool:
    """Tell whether a file with these first bytes is AVIF."""
    return bool(_brands(head) & _AVIF)


def is_heic(head: bytes) -> bool:
    """Tell whether a file with these first bytes is HEIC, or another HEIF file that is not AVIF."""
    brands = _brands(head)
    return bool(brands & _HEIC) and not brands & _AVIF


def unreadable(head: bytes) -> str | None:
    """Return the kind of an unreadable file by its first 64 bytes; None for other files."""
    brands = _brands(head)
    if brands & {b"jxl "}:
        return "JPEG XL"
    if brands or (head[:4] == b"RIFF" and head[8:12] == b"AVI "):
        return "video"
    return next((kind for kind, magics in _UNREADABLE if head.startswith(magics)), None)


def _brands(head: bytes) -> set[bytes]:
    """Return the brands in the file type box at the start of an ISO media file (ISO/IEC 14496-12, 4.3)."""
    if head[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}
