"""Write the outputs of a batch: rules for existing files, folders that are made, arrays and patches."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from paramisp_cli import formats, patches
from paramisp_cli.batch.find import Job, OnExists, patch_path
from paramisp_cli.errors import FileAccessError, FormatError, OutputExistsError
from paramisp_cli.formats import WriteOptions, dng
from paramisp_cli.patches import Grid
from paramisp_cli.types import Notice, RawImage


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules for existing outputs, and for a dry run.

    on_exists          error, skip, overwrite or rename (see `find.OnExists`)
    overwrite_foreign  let "overwrite" replace files that paramisp did not make, such as a camera's own RAW
    dry_run            plan without writing
    """

    on_exists: OnExists = OnExists.ERROR
    overwrite_foreign: bool = False
    dry_run: bool = False


def skips(target: Path, policy: Policy) -> bool:
    """Tell whether to skip an output that exists. Raises OutputExistsError if it must not be replaced."""
    if policy.on_exists == OnExists.ERROR:
        raise OutputExistsError(f"{target}: exists already; pass `on_exists` skip, overwrite or rename")
    if policy.on_exists == OnExists.OVERWRITE and not policy.overwrite_foreign and not formats.is_own(target):
        raise OutputExistsError(
            f"{target}: was not made by paramisp (it may be the camera's own file) and is not overwritten; "
            "pass another -o, `on_exists` rename, or `overwrite_foreign`"
        )
    return policy.on_exists == OnExists.SKIP


def check_confidence(path: Path, policy: Policy) -> None:
    """Raise OutputExistsError if the file of a confidence map exists and must not be replaced.

    With "skip" a map of an interrupted run is written again: the map comes before its output.
    """
    if os.path.lexists(path) and policy.on_exists not in (OnExists.SKIP, OnExists.RENAME):
        skips(path, policy)
    elif os.path.lexists(path) and not policy.overwrite_foreign and not formats.is_own(path):
        raise OutputExistsError(f"{path}: was not made by paramisp and is not overwritten; pass another `confidence`")


@contextmanager
def confidence_written(raw: RawImage, job: Job, policy: Policy) -> Iterator[None]:
    """Write the confidence map of a job, if it has one, before its output; remove a new map if the output fails."""
    path, confidence = job.confidence, raw.confidence
    if path is None or confidence is None:
        yield
        return
    replaces = policy.on_exists in (OnExists.SKIP, OnExists.OVERWRITE)
    is_new = not os.path.lexists(path)
    with created(path.parent):
        formats.write(confidence, path, overwrite=replaces)
        try:
            yield
        except BaseException:
            if is_new:
                _remove(path)
            raise


@contextmanager
def created(folder: Path, earlier: Sequence[Path] = ()) -> Iterator[Sequence[Path]]:
    """Create a folder with its parents and yield the new folders; on failure remove them and the ``earlier`` ones."""
    created = [*earlier, *(above for above in (folder, *folder.parents) if not os.path.lexists(above))]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise FileAccessError(f"{folder}: cannot make the folder: a file is in its place") from error
        except OSError as error:
            raise FileAccessError.of(error, folder, "make the folder") from error
        yield created
    except BaseException:
        with suppress(OSError):
            for each in created:
                each.rmdir()
        raise


# --- arrays and patches -----------------------------------------------------------------------------------------------


def is_array(target: Path) -> bool:
    """Tell whether a RAW is written to ``target`` as an array."""
    return target.suffix.lower() not in dng.FORMAT.suffixes


def write_samples(
    raw: RawImage, job: Job, options: WriteOptions, policy: Policy, grid: Grid | None
) -> tuple[tuple[dict[str, Any], ...], tuple[str, ...]]:
    """Write a RAW as an array, or as patches with a ``grid`` → (facts of each file for ``--json``, notices).

    Patches are written from the last to the first: once the first exists, all do. Raises the errors of
    ``formats.write``, and FormatError for a picture that holds no patch.
    """
    assert job.target is not None
    raw = _with_source(raw, job.source)
    if grid is None:
        formats.write(raw, job.target, options, overwrite=policy.on_exists == OnExists.OVERWRITE)
        return (_facts(raw, job.target, options),), ()
    height, width = patches.size_of(raw)
    try:
        grid.check(height, width)
    except FormatError as error:
        raise error.named(job.source) from error
    _remove_patches(job.target, job.source.name, len(grid.corners(height, width)), policy)
    files = []
    for patch in patches.cut(raw, grid):
        assert patch.patch is not None  # cut sets it
        path = patch_path(job.target, patch.patch.number)
        formats.write(patch, path, options)
        files.append(_facts(patch, path, options))
    rows, columns = grid.unused(height, width)
    noun = "patch" if len(files) == 1 else "patches"
    text = f"{len(files)} {noun}; dropped {columns} columns at the right and {rows} rows at the bottom"
    return tuple(files[::-1]), (Notice(text, "cut into patches; dropped the edges that fill none"),)


def _with_source(raw: RawImage, source: Path) -> RawImage:
    """Return a RAW with the name and the SHA-256 of the file that it was made of."""
    try:
        with source.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FileAccessError.of(error, source, "read it again") from error
    return replace(raw, metadata=replace(raw.metadata, source_name=source.name, source_sha256=sha256))


def _facts(raw: RawImage, path: Path, options: WriteOptions) -> dict[str, Any]:
    """Return the facts of a written file in which an array differs from the next."""
    facts: dict[str, Any] = {"file": str(path)}
    if is_array(path):
        record = formats.record_of(raw, options)
        facts |= {key: record[key] for key in ("layout", "shape", "dtype", "sha256", "source", "source_sha256")}
    if raw.patch is not None:
        facts["patch"] = asdict(raw.patch)
    return facts


def _remove_patches(target: Path, source: str, count: int, policy: Policy) -> None:
    """Remove patches of an earlier or interrupted run, the first one first, before ``count`` new ones are written.

    Another grid may have made more of them: patches beyond the new ones go, too, if their records name the source.
    Raises OutputExistsError for a file in the way that the rules do not let replace.
    """
    pattern = re.compile(rf"{re.escape(target.stem)}_(\d{{3,}}){re.escape(target.suffix)}")
    found = [(int(match[1]), path) for path in target.parent.iterdir() if (match := pattern.fullmatch(path.name))]
    for number, path in sorted(found):
        if path != patch_path(target, number):  # more zeros than a patch's name has
            continue
        if not formats.is_patch_of(path, source):
            if number >= count:
                continue  # the output of another input
            if policy.on_exists in (OnExists.OVERWRITE, OnExists.SKIP) and not policy.overwrite_foreign:
                _check_own(path)
        if policy.on_exists not in (OnExists.OVERWRITE, OnExists.SKIP):
            raise OutputExistsError(f"{path}: exists already; pass `on_exists` skip or overwrite")
        for each in (path, formats.beside(path)):
            if each is not None:
                _remove(each)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise FileAccessError.of(error, path, "remove it") from error


def _check_own(path: Path) -> None:
    if not formats.is_own(path):
        raise OutputExistsError(f"{path}: was not made by paramisp and is not overwritten; pass another -o")
