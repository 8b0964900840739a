"""The files that are mutated: small ones of our own, made on the spot, one or more of each kind."""

from __future__ import annotations

import io
import shutil
from collections import OrderedDict
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import heif_files
import numpy as np
import tifffile
from PIL import Image, ImageCms

from fuzz import checkpoints, pictures, tiff
from paramisp_cli.formats import kept
from paramisp_cli.types import CanonicalParams, RawImage

KINDS = ("jpeg", "text", "png", "tiff", "dng", "safetensors", "ckpt", "heif")
"""Case N is of kind KINDS[N % 8]."""

_SUFFIXES = {
    ".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".tif": "tiff", ".tiff": "tiff", ".dng": "dng", ".cr2": "dng",
    ".crw": "dng", ".nef": "dng", ".arw": "dng", ".safetensors": "safetensors", ".ckpt": "ckpt", ".avif": "heif",
    ".heic": "heif",
}  # fmt: skip


@dataclass(frozen=True)
class Pool:
    """The seeds by kind: paths, sorted by name; and a sound picture and RAW to give to --like and beside weights."""

    seeds: dict[str, list[Path]]
    picture: Path
    raw: Path


def picture(height: int = 48, width: int = 64) -> np.ndarray:
    """(height, width, 3) uint8, every channel different, smooth."""
    y, x = np.mgrid[:height, :width]
    planes = (x * 200 // width + 20, y * 200 // height + 20, (x + y) * 200 // (width + height) + 20)
    return np.stack(planes, -1).astype(np.uint8)


def exif(make: str, model: str, order: str = "<", note: bytes = b"") -> bytes:
    """An EXIF block with all that paramisp wants to know, GPS, interoperability and a MakerNote."""
    inside: dict = {
        33434: (5, [1, 125]), 33437: (5, [28, 10]), 34855: (3, [400]), 36864: (7, b"0231"),
        36867: (2, "2020:01:02 03:04:05"), 37377: (10, [7, 1]), 37378: (5, [3, 1]), 37386: (5, [50, 1]),
        37510: (7, b"ASCII\0\0\0hello"), 40961: (3, [1]), 40962: (4, [64]), 40963: (4, [48]), 42036: (2, "A lens"),
        tiff.INTEROP: (0, [{1: (2, "R98"), 2: (7, b"0100")}]),
    }  # fmt: skip
    if note:
        inside[tiff.MAKER_NOTE] = (7, note)
    gps = {0: (1, b"\2\3\0\0"), 1: (2, "N"), 2: (5, [48, 1, 12, 1, 30, 1]), 29: (2, "2020:01:02")}
    main = {
        270: (2, "a picture"), 271: (2, make), 272: (2, model), 274: (3, [6]), 282: (5, [72, 1]), 305: (2, "firmware"),
        315: (2, "somebody"), 33432: (2, "no rights"), tiff.EXIF: (0, [inside]), tiff.GPS: (0, [gps]),
    }  # fmt: skip
    thumbnail = io.BytesIO()
    Image.fromarray(picture(24, 32)).save(thumbnail, "JPEG")
    blocks = [thumbnail.getvalue()]
    second = {259: (3, [6]), 513: (4, tiff.block_offsets(blocks)), 514: (4, [len(blocks[0])])}
    return tiff.build([main, second], order, blocks)


def nikon_note() -> bytes:
    """A Nikon MakerNote of type 3: ISO, white balance."""
    ifd = {2: (3, [0, 800]), 12: (5, [2, 1, 3, 2, 1, 1, 1, 1]), 37: (7, bytes([60] + 13 * [0]))}
    return b"Nikon\0\x02\x10\0\0" + tiff.build([ifd], ">")


def canon_note() -> bytes:
    """A Canon MakerNote: a bare IFD whose one long value lies beyond it, where nothing sound stands."""
    ifd = tiff.build([{1: (3, [1, 2]), 4: (3, [3, 0]), 6: (2, "IMG"), 0x4001: (3, [1, 2])}])
    return ifd[8:].ljust(80, b"\0")


def _jpeg(icc: bytes = b"", block: bytes = b"", **options: object) -> bytes:
    out = io.BytesIO()
    grey = options.pop("grey", False)
    pixels = picture()[..., 0] if grey else picture()
    more = ({"icc_profile": icc} if icc else {}) | ({"exif": pictures.EXIF + block} if block else {})
    Image.fromarray(pixels).save(out, "JPEG", quality=90, **more, **options)
    return out.getvalue()


def _jpegs(icc: bytes) -> dict[str, bytes]:
    two = _jpeg(b"", exif("Canon", "Canon EOS 60D", "<", canon_note()))
    segments, rest = pictures.split_jpeg(two)
    table = {0xB000: (7, b"0100"), 0xB001: (4, [2]), 0xB002: (7, bytes(32))}
    segments.append((0xE2, pictures.MPF + tiff.build([table])))
    packet = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
    cmyk = io.BytesIO()
    Image.fromarray(np.concatenate([picture(), picture()[..., :1]], 2), "CMYK").save(cmyk, "JPEG")
    return {
        "nikon.jpg": _jpeg(icc, exif("NIKON CORPORATION", "NIKON D90", ">", nikon_note()), subsampling=0),
        "canon.jpg": pictures.join_jpeg(segments, rest) + _jpeg(),
        "plain.jpg": _jpeg(),
        "progressive.jpg": _jpeg(icc, exif("Apple", "iPhone 13 Pro"), progressive=True, subsampling=2),
        "grey.jpg": _jpeg(b"", exif("OLYMPUS", "C-3000"), grey=True),
        "xmp.jpg": _jpeg(b"", exif("SONY", "SLT-A57"), xmp=packet, restart_marker_rows=1),
        "cmyk.jpg": cmyk.getvalue(),
        "carrying.jpg": _carrying(),
    }


def _carrying() -> bytes:
    """A JPEG that carries its RAW."""
    canonical = CanonicalParams("RGGB", np.full((2, 2), 64.0), 1023, np.array([0.5, 1, 0.6]), np.eye(3))
    mosaic = picture()[..., 1].astype(np.uint16) * 3 + 64
    return kept.keep(_jpeg(b"", exif("Canon", "Canon EOS 60D")), RawImage(mosaic, canonical))


def _heifs() -> dict[str, bytes]:
    """AVIF and HEIC with gain maps; HEIC where x265 and libheif are installed."""
    codes = picture(48, 64)[..., 0]
    channel = (0, 2, 1, 0.015625, 0.015625)
    turn = [heif_files.turned(1)]
    found = {
        "map.avif": heif_files.tone_mapped("avif", picture(), codes, [channel], turn=turn),
        "long.avif": heif_files.tone_mapped("avif", picture(), codes, [channel] * 3, long_ids=True, in_idat=(3,)),
    }
    if find_spec("av") and find_spec("pi_heif"):
        found["apple.heic"] = heif_files.apple(picture(), codes, headroom=4.5, turn=turn)
        found["map.heic"] = heif_files.tone_mapped("heic", picture(), codes, [channel])
    return found


def _pngs(icc: bytes) -> dict[str, bytes]:
    out = {}
    block = exif("NIKON CORPORATION", "NIKON D90", ">", nikon_note())
    rgb = Image.fromarray(picture())
    alpha = Image.fromarray(np.concatenate([picture(), picture()[..., :1]], 2))
    versions = {
        "rgb.png": (rgb, {"exif": block, "icc_profile": icc}), "alpha.png": (alpha, {}),
        "palette.png": (rgb.quantize(16), {}), "grey.png": (rgb.convert("L"), {}), "bits.png": (rgb.convert("1"), {}),
        "deep.png": (Image.fromarray(picture()[..., 0].astype(np.uint16) * 257), {"exif": block}),
    }  # fmt: skip
    for name, (image, options) in versions.items():
        stream = io.BytesIO()
        image.save(stream, "PNG", **options)
        out[name] = stream.getvalue()
    return out


def _tiffs(icc: bytes) -> dict[str, bytes]:
    out = {}
    rgb, deep = picture(), picture().astype(np.uint16) * 257
    versions: dict[str, tuple[np.ndarray, dict]] = {
        "rgb8.tif": (rgb, {"iccprofile": icc, "metadata": None}),
        "rgb16.tif": (deep, {"compression": "zlib", "predictor": True, "rowsperstrip": 10}),
        "tiled.tif": (rgb, {"tile": (16, 32), "compression": "zlib"}),
        "float.tif": (rgb.astype(np.float32) / 255, {}),
        "big.tif": (rgb, {"bigtiff": True}),
        "motorola.tif": (deep, {"byteorder": ">"}),
        "planar.tif": (np.moveaxis(deep, -1, 0), {"planarconfig": "separate"}),
        "grey.tif": (rgb[..., 0], {"photometric": "minisblack"}),
        "alpha.tif": (np.concatenate([rgb, rgb[..., :1]], 2), {"extrasamples": ["unassalpha"]}),
    }
    for name, (pixels, options) in versions.items():
        stream = io.BytesIO()
        tifffile.imwrite(stream, pixels, **({"photometric": "rgb"} | options))
        out[name] = stream.getvalue()
    for name, how in (("lzw.tif", "tiff_lzw"), ("packbits.tif", "packbits"), ("injpeg.tif", "jpeg")):
        stream = io.BytesIO()
        Image.fromarray(rgb).save(stream, "TIFF", compression=how)
        out[name] = stream.getvalue()
    stream = io.BytesIO()
    Image.fromarray(rgb).quantize(16).save(stream, "TIFF")
    out["palette.tif"] = stream.getvalue()
    return out


def _mosaic(bits: int = 16, height: int = 64, width: int = 64) -> np.ndarray:
    """A smooth mosaic of the given depth, uint16."""
    y, x = np.mgrid[:height, :width]
    values = (x * 7 + y * 5 + 40 * (x % 2) + 60 * (y % 2)) % 700 + 64
    return (values << max(bits - 12, 0)).astype(np.uint16)


def dng(order: str = "<", tiled: bool = False, bits: int = 16, whole: bool = True) -> bytes:
    """A DNG built by hand: the mosaic in strips or tiles, uncompressed, with levels, crops, matrices, a MakerNote."""
    mosaic = _mosaic(bits)
    raw_order = mosaic.astype(order + "u2")
    pieces = (
        [raw_order[y : y + 32, x : x + 32].tobytes() for y in (0, 32) for x in (0, 32)]
        if tiled
        else [raw_order[y : y + 24].tobytes() for y in (0, 24, 48)]
    )
    offsets, counts = tiff.block_offsets(pieces), [len(piece) for piece in pieces]
    places = (
        {322: (4, [32]), 323: (4, [32]), 324: (4, offsets), 325: (4, counts)}
        if tiled
        else {273: (4, offsets), 278: (4, [24]), 279: (4, counts)}
    )
    raw: dict = {
        254: (4, [0]), 256: (4, [64]), 257: (4, [64]), 258: (3, [16]), 259: (3, [1]), 262: (3, [32803]), 277: (3, [1]),
        284: (3, [1]), 33421: (3, [2, 2]), 33422: (1, bytes((0, 1, 1, 2))), 50711: (3, [1]), 50713: (3, [2, 2]),
        50714: (4, [64, 65, 66, 67]), 50717: (4, [4095 << max(bits - 12, 0)]), 50719: (5, [2, 1, 2, 1]),
        50720: (5, [56, 1, 56, 1]), 50829: (4, [2, 2, 62, 62]), **places,
    }  # fmt: skip
    matrix = [0.83, -0.26, -0.07, -0.46, 1.27, 0.2, -0.08, 0.19, 0.61]
    rationals = [number for value in matrix for number in (round(value * 10000), 10000)]
    exif_ifd = {33434: (5, [1, 60]), 33437: (5, [4, 1]), 34855: (3, [200]), tiff.MAKER_NOTE: (7, nikon_note())}
    main: dict = {
        271: (2, "NIKON CORPORATION"), 272: (2, "NIKON D90"), 274: (3, [1]), 305: (2, "by hand"),
        50706: (1, bytes((1, 4, 0, 0))), 50707: (1, bytes((1, 1, 0, 0))), 50708: (2, "NIKON D90"),
        50721: (10, rationals), 50722: (10, rationals), 50727: (5, [1, 1] * 3), 50728: (5, [1, 2, 1, 1, 2, 3]),
        50730: (10, [1, 2]), 50778: (3, [17]), 50779: (3, [21]), 51041: (12, [1e-4, 1e-6] * 3),
        tiff.EXIF: (0, [exif_ifd]),
    }  # fmt: skip
    if whole:
        return tiff.build([main | raw], order, pieces)
    return tiff.build([main | {254: (4, [1]), tiff.SUB_IFDS: (0, [raw])}], order, pieces)


def nef(compression: int = 1) -> bytes:
    """A file as Nikon's cameras write it: no DNG, the mosaic in a SubIFD, LibRaw's own ways of finding out."""
    data = [_mosaic(14).tobytes()]
    raw = {
        254: (4, [0]), 256: (4, [64]), 257: (4, [64]), 258: (3, [16 if compression == 1 else 12]),
        259: (3, [compression]), 262: (3, [32803]), 273: (4, tiff.block_offsets(data)), 277: (3, [1]), 278: (4, [64]),
        279: (4, [len(data[0])]), 33421: (3, [2, 2]), 33422: (1, bytes((0, 1, 1, 2))),
    }  # fmt: skip
    main = {
        254: (4, [1]), 271: (2, "NIKON CORPORATION"), 272: (2, "NIKON D90"), 274: (3, [1]), tiff.SUB_IFDS: (0, [raw]),
        tiff.EXIF: (0, [{33434: (5, [1, 60]), 34855: (3, [200]), tiff.MAKER_NOTE: (7, nikon_note())}]),
    }  # fmt: skip
    return tiff.build([main], "<", data)


def _published(shipped: Path) -> bytes:
    """A checkpoint as torch writes published ones: a shipped network's tensors under their published names."""
    import torch
    from safetensors.torch import load_file

    from paramisp_cli.models.paramisp.published import NAMES

    ours = load_file(shipped)
    kinds = ("weight", "bias")
    state = OrderedDict((f"{theirs}.{kind}", ours[f"{own}.{kind}"]) for theirs, own in NAMES.items() for kind in kinds)
    state = OrderedDict((name, value.float()) for name, value in state.items())
    out = io.BytesIO()
    torch.save({"state_dict": state, "hyper_parameters": {"inverse": True}}, out)
    return out.getvalue()


def make(folder: Path, more: Path | None = None) -> Pool:
    """Write the seeds into a folder; ``more`` is a folder of files to use instead, by suffix, where it has any."""
    import paramisp_cli as paramisp

    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    icc = icc[:24] + bytes(12) + icc[36:]  # the time of its making
    weights = Path(__file__).parents[2] / "weights" / "paramisp"
    shipped = sorted(weights.glob("*.safetensors"))
    files: dict[str, dict[str, bytes]] = {
        "jpeg": _jpegs(icc),
        "png": _pngs(icc),
        "tiff": _tiffs(icc),
        "dng": {
            "strips.dng": dng(),
            "tiles.dng": dng(">", True, 12),
            "sub.dng": dng(whole=False),
            "d90.nef": nef(),
            "packed.nef": nef(34713),
        },
        "safetensors": {path.name: path.read_bytes() for path in shipped[:2]},
        "ckpt": {"small.ckpt": checkpoints.small_ckpt()},
        "heif": _heifs(),
    }
    unprocess = weights / "generic.unprocess.safetensors"
    if unprocess.exists():
        files["ckpt"]["published.ckpt"] = _published(unprocess)
    folder.mkdir(parents=True, exist_ok=True)
    sound = folder / "sound.jpg"
    sound.write_bytes(files["jpeg"]["nikon.jpg"])
    raw = folder / "sound.dng"
    for name, options in {"ours.dng": {}, "wide.dng": {"exposure": 1.0}}.items():
        settings = paramisp.Settings(model="parametric", **options)
        paramisp.write(paramisp.unprocess(sound, settings), raw, overwrite=True)
        files["dng"][name] = raw.read_bytes()
    pool: dict[str, list[Path]] = {}
    for kind, contents in files.items():
        for name, content in sorted(contents.items()):
            path = folder / kind / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            pool.setdefault(kind, []).append(path)
    if more is not None:
        pool |= _given(more)
    return Pool(pool | {"text": [*pool["jpeg"], *pool["tiff"]]}, sound, raw)


def _given(folder: Path) -> dict[str, list[Path]]:
    """The files below a folder by kind."""
    pool: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (kind := _SUFFIXES.get(path.suffix.lower())):
            pool.setdefault(kind, []).append(path)
    return pool


def clear(folder: Path) -> None:
    """Empty a folder, or make it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
