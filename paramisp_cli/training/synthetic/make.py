"""Make a data set of RAW from folders of pictures: shards by several processes, an index, a card.

Every RAW follows from the options, the seed and the name of its picture. A second run makes the missing shards, with
the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import re
from collections import Counter
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

from paramisp_cli import atomic
from paramisp_cli.batch import find
from paramisp_cli.batch.cluster import Cluster, mapped
from paramisp_cli.errors import ConfigError, FileAccessError, FormatError, InputMissingError, ParamispError
from paramisp_cli.formats import SRGB_SUFFIXES
from paramisp_cli.training.dataset import INDEX, locked
from paramisp_cli.training.synthetic import shard
from paramisp_cli.training.synthetic.series import BLACK, WHITE, Series
from paramisp_cli.training.synthetic.shard import Line, Task

OPTIONS, CARD = "synth.json", "README.md"
_WAITING = 2
"""Shards for each process that wait in the queue: the queue's memory does not grow with the data set."""


def make(
    paths: Sequence[Path | str],
    dataset: Path | str,
    series: Series,
    *,
    recursive: bool = True,
    workers: int = 1,
    cluster: Cluster | None = None,
) -> Generator[list[Line], None, None]:
    """Make the shards that ``dataset`` lacks; yield the lines of each shard, those of finished ones too.

    Shards are made by ``workers`` processes, or by the workers of a Ray ``cluster`` whose machines see the same files.
    The data set is locked until the end. A refused picture has a line with its reason. Raises ConfigError if the data
    set was made with other options, InputMissingError, FormatError, FileAccessError.
    """
    dataset = Path(dataset)
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}")
    tasks = shard.divided(pictures(paths, recursive=recursive), dataset, series)
    with locked(dataset):
        _check_options(dataset, series)
        missing, lines = [], []
        for task in tasks:
            if task.index().exists():
                finished = _read(task.index())
                lines += finished
                yield finished
            else:
                missing.append(task)
        if cluster is not None:
            cluster.folders.update(_folders(dataset, series))
        for finished in _run(missing, workers) if cluster is None else _on_ray(missing, cluster):
            lines += finished
            yield finished
        lines.sort(key=lambda line: str(line["name"]))
        text = "".join(json.dumps(line) + "\n" for line in lines)
        atomic.write_bytes(dataset / INDEX, text.encode())
        atomic.write_bytes(dataset / CARD, card(lines, series).encode())


def pictures(paths: Sequence[Path | str], *, recursive: bool) -> list[tuple[str, str]]:
    """Return each picture's path and the name of its RAWs: of letters, digits, "_" and "-", with a hash.

    Raises InputMissingError for a path that is not there, and for folders without pictures.
    """
    found: dict[str, str] = {}
    for each in find.search(paths, SRGB_SUFFIXES, recursive=recursive).inputs:
        if each.error is not None:
            raise each.error
        name = each.name.as_posix()
        stem = re.sub(r"[^A-Za-z0-9_-]+", "_", str(Path(name).with_suffix("").as_posix()))[-80:]
        own = f"{stem}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        if own in found.values():
            raise ConfigError(f"{each.source}: another input has the same name below its folder; give the folder above")
        found[str(each.source)] = own
    if not found:
        raise InputMissingError("no pictures to work on")
    return list(found.items())


def _check_options(dataset: Path, series: Series) -> None:
    """Write the options of a new data set, or compare them; ConfigError for others, which would mix two data sets."""
    path, own = dataset / OPTIONS, series.decisive()
    if path.exists():
        try:
            other = json.loads(path.read_bytes())
        except ValueError as error:
            raise FormatError(f"{path}: damaged; remove the data set or choose another -o") from error
        own = json.loads(json.dumps(own))
        different = [name for name in own if other.get(name) != own[name]]
        if different:
            raise ConfigError(f"{dataset} was made with another {different[0]}; choose another -o")
    else:
        atomic.write_bytes(path, (json.dumps(own, indent=1) + "\n").encode())


def _read(path: Path) -> list[Line]:
    try:
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    except ValueError as error:
        raise FormatError(f"{path}: damaged; remove this file, and the shard is made again") from error


def _run(tasks: Sequence[Task], workers: int) -> Generator[list[Line], None, None]:
    """Make shards in this process, or in several; yield the lines of each as it ends."""
    if workers == 1 or len(tasks) < 2:
        yield from map(shard.make, tasks)
        return
    waiting, running = list(reversed(tasks)), set[Future[list[Line]]]()
    # Not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(tasks)), context, shard.start_worker) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < _WAITING * workers:
                    running.add(pool.submit(shard.make, waiting.pop()))
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for each in done:
                    yield each.result()
        except BrokenProcessPool as error:
            raise ParamispError("a process ended: out of memory? Use fewer --workers, and run it again") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _on_ray(tasks: Sequence[Task], cluster: Cluster) -> Generator[list[Line], None, None]:
    """Make shards on a Ray cluster; one whose worker ended is tried once more."""
    lost: list[Task] = []
    for number, lines in mapped(cluster, _make_alone, tasks):
        if lines is None:
            lost.append(tasks[number])
        else:
            yield lines
    for _, lines in mapped(cluster, _make_alone, lost):
        if lines is None:
            raise FileAccessError("a Ray worker ended twice: out of memory? Use a smaller --shard, and run it again")
        yield lines


def _folders(dataset: Path, series: Series) -> list[Path]:
    """Return the folders that shards are written to."""
    splits = [dataset / "train", dataset / "test"]
    kinds = [split / kind for split in splits for kind in ("clean", "noisy")] if series.kind == "npy" else []
    return [dataset / shard.SHARDS, *splits, *kinds]


def _make_alone(task: Task) -> list[Line]:
    """Make a shard in a worker of Ray, with one thread as in a process of our own."""
    torch.set_num_threads(1)
    return shard.make(task)


def card(lines: Sequence[Line], series: Series) -> str:
    """Return the card of the data set, as Markdown."""
    made = [line for line in lines if line["status"] == "made"]
    splits = Counter(line["split"] for line in made)
    sources = len({line["source"] for line in made})
    cameras = Counter(line["camera"] for line in made)
    levels = f"black {BLACK}, white {WHITE}" if series.dtype == "uint16" else "black 0, white 1"
    axes = "(H/2, W/2, 4), planes R, Gr, Gb, B" if series.layout == "packed" else f"(H, W), CFA {series.cfa}"
    kinds = "clean and noisy" if series.noise else "clean"
    few = [f"{name} ({count})" for name, count in cameras.most_common(20)]
    more = f", and {len(cameras) - 20} more" if len(cameras) > 20 else ""
    refused = len(lines) - len(made)
    return f"""# RAW made from pictures

**Not sensor data.** `paramisp synth` computed these RAWs from finished pictures, with the model `{series.model}`.

* {len(made)} RAWs of {sources} pictures: {splits["train"]} for training, {splits["test"]} for tests; a picture lies on
  one side. Refused pictures: {refused}.
* Each is {kinds}, an array {axes}, {series.dtype}, {levels}; linear, without white balance.
* Cameras: {", ".join(few)}{more}.
* Licence of the pictures: {series.licence or "not stated"}.
* `{INDEX}` has a line for each RAW: source with its SHA-256, camera, settings, white balance, colour matrix, noise.
* `{OPTIONS}` has the options; with them, the seed and the pictures, `paramisp synth` makes the same bytes.
"""
