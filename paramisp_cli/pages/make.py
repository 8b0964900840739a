"""Make the page of a training, a data set or an evaluation, distinguished by their files, and write pages."""

from __future__ import annotations

import os
from pathlib import Path

from paramisp_cli import atomic, formats
from paramisp_cli.errors import ConfigError, FileAccessError, FormatError, InputMissingError, OutputExistsError
from paramisp_cli.pages import dataset, evaluation, lines, training
from paramisp_cli.pages.document import GENERATOR

SUFFIXES = (".html", ".htm")
_HEAD = 2000
"""Bytes of a page that hold its generator."""


def document(path: Path | str, pictures: Path | None = None) -> str:
    """Return the page of a training folder, a data set, or scores of ``evaluate --json``.

    ``pictures`` is the folder of ``evaluate --pictures``; by default the scores' own. Raises InputMissingError,
    FileAccessError, FormatError, WeightsError, and ConfigError for pictures beside something else than scores.
    """
    path = Path(path)
    if path.is_dir():
        for is_it, page in ((training.is_training, training.document), (dataset.is_dataset, dataset.document)):
            if is_it(path):
                if pictures is not None:
                    raise ConfigError("`pictures`: is for scores of `paramisp evaluate --json`; leave it out")
                return page(path)
        path = evaluation.find(path)
    if not os.path.lexists(path):
        raise InputMissingError(f"{path}: no such file or folder")
    records = lines.read(path)
    if not evaluation.is_evaluation(records):
        reason = "is empty" if not records else "has no scores"
        raise FormatError(f"{path}: {reason}; give a file of `paramisp evaluate --json`, a training or a data set")
    if pictures is not None and not pictures.is_dir():
        raise InputMissingError(f"{pictures}: no such folder of pictures")
    return evaluation.document(path, records, pictures or path.parent)


def check(target: Path, *, overwrite: bool) -> None:
    """Check a page's file before the work.

    Raises ConfigError for another suffix than .html, OutputExistsError for a file that must not be replaced: one that
    exists, or with ``overwrite`` one that is no page of paramisp; FileAccessError for a folder, or without one.
    """
    if target.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{target}: a report is written as .html; name it so")
    if not target.parent.is_dir():
        raise FileAccessError(f"{target}: cannot write it: there is no folder {target.parent}")
    if not os.path.lexists(target):
        return
    if target.is_dir():
        raise FileAccessError(f"{target}: is a folder, not a file; give another name")
    if not overwrite:
        raise OutputExistsError(f"{target}: exists already; pass `on_exists` overwrite, or another name")
    if not is_own(target):
        raise OutputExistsError(f"{target}: is no report by paramisp and is not overwritten; give another name")


def is_own(path: Path) -> bool:
    """Tell whether a file is a page of paramisp."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    return f'name="generator" content="{GENERATOR} '.encode() in head


def write(target: Path, content: str, *, overwrite: bool) -> None:
    """Write a page atomically; raises as ``check``, and FileAccessError."""
    check(target, overwrite=overwrite)
    atomic.sweep(target.parent)
    formats.write_bytes(content.encode(), target, overwrite=overwrite)
