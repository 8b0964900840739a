"""Numbered cases: case N of a seed, a pure function of both, is a mutated file and command lines to try on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from fuzz import checkpoints, pictures, plain, tiff
from fuzz.seeds import KINDS, Pool

_STRUCTURED: dict[str, Callable[[bytes, Random], bytes]] = {
    "jpeg": pictures.mutate_jpeg,
    "text": pictures.mutate_jpeg_text,
    "png": pictures.mutate_png,
    "heif": pictures.mutate_heif,
    "tiff": tiff.mutate,
    "dng": tiff.mutate,
    "safetensors": checkpoints.mutate_safetensors,
    "ckpt": checkpoints.mutate_ckpt,
}


@dataclass(frozen=True)
class Case:
    """A case: the mutated file's name and content, the seed it was made of, and command lines.

    Words {in}, {out}, {picture} and {raw} stand for the file, the folder for outputs, a sound picture and a sound RAW.
    """

    kind: str
    source: str
    name: str
    data: bytes
    commands: tuple[tuple[str, ...], ...]


def kind_of(number: int) -> str:
    """The kind of case ``number``."""
    return KINDS[number % len(KINDS)]


def make(seed: int, number: int, pool: Pool) -> Case:
    """Case ``number`` of ``seed``."""
    kind, rng = kind_of(number), Random(f"{seed}/{number}")
    source = rng.choice(pool.seeds[kind])
    data = source.read_bytes()
    how = rng.random()
    if kind == "text" and not data.startswith(b"\xff\xd8"):
        data = tiff.mutate_text(data, rng)
    elif how < 0.68 or kind == "text":
        data = _STRUCTURED[kind](data, rng)
    elif how < 0.92:
        data = plain.mutate(data, rng)
    else:
        other = rng.choice(pool.seeds[rng.choice((kind, rng.choice(KINDS)))])
        data = plain.splice(data, other.read_bytes(), rng)
    name = f"case{source.suffix}"
    if kind == "text" and rng.random() < 0.5:
        name = _evil_name(rng) + source.suffix
    elif rng.random() < 0.03:
        name = "case" + rng.choice((".dng", ".nef", ".jpg", ".tif", ".ckpt", ".safetensors", ""))
    return Case(kind, source.name, name, data, tuple(_commands(kind, rng)))


def _evil_name(rng: Random) -> str:
    """A file name that a terminal takes amiss, and that a file system does take."""
    text = "".join(c for c in plain.evil_text(rng) if c not in "/\0" and not "\ud800" <= c <= "\udfff")
    return text.encode()[:200].decode(errors="ignore").lstrip(".-") or "x"


def _commands(kind: str, rng: Random) -> list[tuple[str, ...]]:
    """What is tried: reading alone, and the work."""
    parametric = ("--model", "parametric")
    shown = rng.choice(((), ("--json",)))
    told = rng.choice(((), (), ("--json",), ("-v",), ("--quiet",), ("--dry-run", "-v")))
    if kind in ("jpeg", "text", "png", "tiff", "heif"):
        options = rng.choice(
            (
                (), (), (), ("--compression", "none"), ("--no-embed-jpeg",), ("--profile", "adobe"), ("--verify",),
                ("--like", "{raw}"),
            )
        )  # fmt: skip
        work = ("unprocess", "{in}", "-o", "{out}/o.dng", *parametric, *options, *told)
        return [("inspect", "{in}", *shown, *rng.choice(((), parametric))), work]
    if kind == "dng":
        suffix = rng.choice((".jpg", ".jpg", ".png", ".tif"))
        work = ("render", "{in}", "-o", "{out}/o" + suffix, *parametric, *told)
        if rng.random() < 0.15:
            work = ("unprocess", "{picture}", "-o", "{out}/o.dng", "--like", "{in}", *parametric, *told)
        if rng.random() < 0.03:
            work = (*work, "--isolate")
        return [("inspect", "{in}", *shown), work]
    use = rng.choice(
        (
            ("unprocess", "{picture}", "-o", "{out}/o.dng", "--weights", "{in}", *told),
            ("inspect", "{picture}", "--weights", "{in}", *shown),
            ("weights", "info", "{in}", *shown),
        )
    )
    if kind == "safetensors":
        return [rng.choice((("weights", "info", "{in}", *shown), ("weights", "verify", "{in}"))), use]
    camera = rng.choice(("Nikon D90", "Nikon D90", plain.evil_unicode(rng)))
    camera = camera.replace("\0", "") or "x"
    row_sum = rng.choice(((), ("--row-sum", "3"), ("--direction", "render")))
    return [("weights", "import", "{in}", "--camera", camera, *row_sum, "-o", "{out}"), use]


def words(command: tuple[str, ...], places: dict[str, Path]) -> list[str]:
    """The command line with places filled in; no other braces are touched."""
    filled = []
    for word in command:
        for name, path in places.items():
            word = word.replace("{" + name + "}", str(path)) if len(word) < 64 else word  # noqa: PLW2901
        filled.append(word)
    return filled
