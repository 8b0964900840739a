"""Find the inputs of a batch and give each its output, before any work starts."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Collection, Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from paramisp_cli import formats
from paramisp_cli.directions import Direction
from paramisp_cli.errors import (
    ConfigError,
    FileAccessError,
    InputMissingError,
    OutputExistsError,
    ParamispError,
)


class OnExists(StrEnum):
    """The treatment of an output that exists already."""

    ERROR = "error"
    SKIP = "skip"
    OVERWRITE = "overwrite"
    RENAME = "rename"


_SHARED = (".tif", ".tiff", ".exr")
"""Suffixes of pictures and of arrays."""


@dataclass(frozen=True, slots=True)
class Input:
    """A file to convert, and its name below the output folder; ``error`` if it cannot be converted."""

    source: Path
    name: Path
    error: ParamispError | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """An input and its output; ``error`` and no output if the input cannot be converted."""

    source: Path
    target: Path | None
    error: ParamispError | None = None
    confidence: Path | None = None
    """File of the confidence map, if there is to be one."""


@dataclass(frozen=True, slots=True)
class Search:
    """The inputs in order, and the files of folders left out because of their suffix."""

    inputs: list[Input] = field(default_factory=list)
    left_out: list[Path] = field(default_factory=list)


def search(
    paths: Sequence[str | Path], suffixes: Collection[str], *, recursive: bool, array_tiffs: bool = False
) -> Search:
    """List every input once: given files in their order, files of folders by suffix, sorted.

    A TIFF or OpenEXR that is an array (``formats.is_array``) counts by ``array_tiffs`` and not by its suffix.

    A missing path, an unreadable folder, or a folder without a fitting file becomes an input with an error. Hidden
    files of folders are ignored.
    """
    inputs: dict[Path, Input] = {}  # by absolute path: two arguments may name the same file
    left_out: list[Path] = []
    for path in map(Path, paths):
        for each in _inputs_of(path, suffixes, recursive, array_tiffs, left_out):
            inputs.setdefault(each.source.absolute(), each)
    return Search(list(inputs.values()), left_out)


def _inputs_of(
    path: Path, suffixes: Collection[str], recursive: bool, array_tiffs: bool, left_out: list[Path]
) -> list[Input]:
    name = Path(path.name)
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            return [Input(path, name)]
    except (FileNotFoundError, NotADirectoryError):
        return [Input(path, name, InputMissingError(f"{path}: no such file or folder"))]
    except OSError as error:
        return [Input(path, name, FileAccessError.of(error, path, "read it"))]
    errors: list[OSError] = []
    files = sorted(_files(path, recursive, errors))
    below: list[Path] = []
    others: list[Path] = []
    for file in files:
        fits = file.suffix.lower() in suffixes
        if file.suffix.lower() in _SHARED and formats.is_array(file):
            fits = array_tiffs
        (below if fits else others).append(file)
    left_out += others
    result = [Input(file, file.relative_to(path)) for file in below]
    for refused in errors:
        folder = Path(refused.filename or path)
        reason = FileAccessError(f"{folder}: the folder cannot be read: {refused.strerror or refused}")
        result.append(Input(folder, folder.relative_to(path) if folder != path else name, reason))
    if not result:
        result.append(Input(path, name, _nothing_in(path, suffixes, recursive, bool(others))))
    return result


def _nothing_in(path: Path, suffixes: Collection[str], recursive: bool, has_others: bool) -> InputMissingError:
    """Return the error for a folder without a fitting file; advise -r if it has subfolders but no files."""
    some = f"{', '.join(list(suffixes)[:8])}{', …' if len(suffixes) > 8 else ''}"
    advise = not recursive and not has_others and any(entry.is_dir() for entry in os.scandir(path))
    hint = "; pass -r to search its subfolders" if advise else ""
    return InputMissingError(f"{path}: no file in this folder ends in {some}{hint}")


def _files(folder: Path, recursive: bool, errors: list[OSError]) -> Iterator[Path]:
    """Yield the files in a folder that are not hidden; collect the errors of folders that cannot be read.

    Confidence maps of earlier runs are left out.
    """
    maps = tuple(f"{CONFIDENCE}{suffix}" for suffix in formats.CONFIDENCE_SUFFIXES)
    for base, folders, names in os.walk(folder, onerror=errors.append):
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        yield from (Path(base) / name for name in names if not name.startswith(".") and not name.endswith(maps))


def assign(
    paths: Sequence[str | Path],
    inputs: Sequence[Input],
    output: str | Path | None,
    suffix: str | Callable[[Path], str] | None,
    direction: Direction,
    on_exists: OnExists,
    protected: Sequence[str | Path] = (),
    *,
    command: str | None = None,
    written: Sequence[str] = (),
    stem: str = "",
    in_patches: bool = False,
) -> list[Job]:
    """Give every input its output.

    ``paths`` are the arguments of `search`. ``suffix`` None means the suffix of ``output`` if it is a file, else .dng
    or .jpg; a function returns the suffix for each input, and its errors become the job's. ``protected`` are other
    files that the batch reads, such as the file of ``like``: no output replaces them.

    Raises ConfigError for an ``output`` that does not fit, OutputExistsError if two inputs share an output or an output
    is an input or a protected file. With ``in_patches`` a job's output names its patches (``patch_path``).

    ``written`` are the suffixes that a ``command`` other than a direction writes. ``stem`` is added to the names of
    outputs beside their inputs or in a folder.
    """
    output = None if output is None else Path(output)
    pictures = (".dng",) if suffix == ".dng" else formats.SRGB_WRITE_SUFFIXES
    allowed = tuple(written) or (formats.RAW_WRITE_SUFFIXES if direction == Direction.UNPROCESS else pictures)
    fixed = None if callable(suffix) else suffix
    is_file = output is not None and _is_output_file(paths, inputs, output, fixed, command or direction, allowed)
    default = fixed or (".dng" if direction == Direction.UNPROCESS else ".jpg")
    sources = {real_path(each.source) for each in inputs}
    guarded = {real_path(Path(path)): Path(path) for path in protected}
    jobs: list[Job] = []
    assigned: dict[Path, Path] = {}
    for each in inputs:
        if each.error is not None:
            jobs.append(Job(each.source, None, each.error))
            continue
        try:
            ending = suffix(each.source) if callable(suffix) else default
        except ParamispError as error:
            jobs.append(Job(each.source, None, error))
            continue
        if output is not None and is_file:
            target = output
        else:
            beside = output / each.name if output is not None else each.source
            target = beside.with_name(f"{beside.stem}{stem}{ending}")
        if on_exists == OnExists.RENAME:
            target = _free(target, in_patches, assigned, sources, guarded)
        real = real_path(target)
        if real in guarded:
            raise OutputExistsError(
                f"{target}: is read by this command (`like`); pass another -o or `on_exists` rename"
            )
        if real in sources and real != real_path(each.source):  # its own input: `run` reports it, after the file's kind
            raise OutputExistsError(f"{target}: is an input itself; pass another -o or `on_exists` rename")
        if real in assigned:
            raise OutputExistsError(
                f"{target}: both {assigned[real]} and {each.source} would be written to it; "
                "pass `on_exists` rename or convert them separately"
            )
        assigned[real] = each.source
        jobs.append(Job(each.source, target))
    return jobs


def without_outputs(paths: Sequence[str | Path], inputs: Sequence[Input], stem: str) -> list[Input]:
    """Leave out files of folders that are outputs of an earlier run: names that end in ``stem``, made by paramisp."""
    given = {Path(path) for path in paths}

    def is_output(path: Path) -> bool:
        return path not in given and path.stem.endswith(stem) and formats.is_own(path)

    return [each for each in inputs if each.error is not None or not is_output(each.source)]


CONFIDENCE = ".confidence"
"""Word between the name of an output and the suffix of its confidence map."""


def with_confidence(
    jobs: Sequence[Job], value: str, on_exists: OnExists, protected: Sequence[str | Path] = ()
) -> list[Job]:
    """Give every job a file for its confidence map.

    value      a kind of file, "png", "tif" or "tiff": beside each output, photo.dng gives photo.confidence.png; or the
               file itself, for a single job
    protected  other files that the batch reads, as for ``assign``

    Raises FormatError for another suffix, ConfigError for one file and several jobs, OutputExistsError if a map is an
    input, an output or a protected file.
    """
    kind = f".{value.lower()}" in formats.CONFIDENCE_SUFFIXES
    if not kind:
        formats.check_confidence(Path(value))
        if len(jobs) > 1:
            raise ConfigError(f"`confidence` {value}: is one file for {len(jobs)} inputs; pass png or tif instead")
    taken = {real_path(job.source) for job in jobs} | {real_path(Path(path)) for path in protected}
    targets = {real_path(job.target) for job in jobs if job.target is not None}
    named = []
    for job in jobs:
        if job.target is None:
            named.append(job)
            continue
        path = job.target.with_name(f"{job.target.stem}{CONFIDENCE}.{value.lower()}") if kind else Path(value)
        if on_exists == OnExists.RENAME:
            path = _free(path, False, taken, targets)
        real = real_path(path)
        if real in taken or real in targets:
            role = "an output" if real in targets else "read by this command"
            raise OutputExistsError(f"{path}: is {role} itself; pass another `confidence`")
        targets.add(real)
        named.append(replace(job, confidence=path))
    return named


def _is_output_file(
    paths: Sequence[str | Path],
    inputs: Sequence[Input],
    output: Path,
    suffix: str | None,
    command: str,
    allowed: Sequence[str],
) -> bool:
    """Tell whether ``output`` names a file rather than a folder. Raises ConfigError if it can be neither."""
    if os.path.isdir(output):  # noqa: PTH112 – False for a name too long, where Path raises
        return False
    names_a_file = output.suffix.lower() in allowed
    if len(inputs) != 1 or inputs[0].source != Path(paths[0]):  # several files, or a folder's files
        if names_a_file:
            raise ConfigError(f"-o {output}: must be a folder when there are several inputs or a folder")
    elif output.suffix and not names_a_file and not os.path.lexists(output):
        raise ConfigError(f"-o {output}: {command} writes {', '.join(allowed)}; a folder must exist already")
    if os.path.lexists(output) and not names_a_file:
        raise ConfigError(f"-o {output}: is a file, and must be a folder or end in {', '.join(allowed)}")
    if names_a_file and suffix is not None and formats.writer(suffix) is not formats.writer(output.suffix):
        raise ConfigError(f"-o {output} contradicts `format` {suffix[1:]}")
    return names_a_file


def real_path(path: Path) -> Path:
    """Resolve every link of the path, as far as the target exists: two names of one file give the same path."""
    return Path(os.path.realpath(path))


def patch_path(target: Path, number: int) -> Path:
    """Return the path of a patch (``number`` from 0): photo.npy gives photo_000.npy, as in the sets of NTIRE."""
    return target.with_name(f"{target.stem}_{number:03d}{target.suffix}")


def _free(target: Path, in_patches: bool, *excluded: Container[Path]) -> Path:
    """Return the path, or the first of its variants -1, -2, … that does not exist and is not ``excluded``."""
    candidate, number = target, 0

    def exists(path: Path) -> bool:
        return os.path.lexists(patch_path(path, 0) if in_patches else path)

    while exists(candidate) or any(real_path(candidate) in paths for paths in excluded):
        number += 1
        candidate = target.with_name(f"{target.stem}-{number}{target.suffix}")
    return candidate


def shard(jobs: Sequence[Job], inputs: Sequence[Input], share: tuple[int, int]) -> list[Job]:
    """Select the jobs of one worker: ``share`` (I, N) is worker I of N, I from 1.

    The choice depends only on an input's name below the given folder, so workers with different mount points agree:
    every file belongs to exactly one worker.
    """
    number, count = share

    def worker(name: Path) -> int:
        digest = hashlib.sha256(name.as_posix().encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % count

    return [job for job, each in zip(jobs, inputs, strict=True) if worker(each.name) == number - 1]
