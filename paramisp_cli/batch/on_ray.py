"""Run a batch on the machines of a Ray cluster, through Ray Data. Ray is imported only for a cluster.

All machines must see the files at the same paths: workers read and write them there, and only paths, settings and
reports travel. A worker does one task after the other, with the rules of ``run``.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import pickle
import re
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TextIO, TypeVar

from paramisp_cli import __version__, atomic, memory
from paramisp_cli.batch import run as batch_run
from paramisp_cli.batch.find import Job, OnExists, patch_path
from paramisp_cli.batch.outputs import Policy
from paramisp_cli.batch.run import Outcome
from paramisp_cli.errors import ConfigError, FileAccessError, ParamispError
from paramisp_cli.formats import WriteOptions
from paramisp_cli.parameters import Settings
from paramisp_cli.patches import Grid
from paramisp_cli.rendition.pool import Pool, Shots
from paramisp_cli.types import Direction, Output

LOCAL, AUTO = "local", "auto"
"""Addresses of a cluster on this machine for one command, and of the cluster that this machine belongs to."""
_MOST_FILES, _MOST_TASKS = 8, 20_000
"""Most files in a task, so that reading and writing overlap conversions; tasks from which a task gets more files."""
_TASKS = 16
"""Tasks for each worker before a task gets a second file: small tasks end at about the same time."""
_REACHED = 5.0
"""Seconds in which a machine must accept a connection: Ray itself tries for minutes."""
_STORE = 256 << 20
"""Bytes of Ray's object store on this machine: rows are short. By default it takes a third of the memory."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster in use: the number of workers, the resources that each reserves, and the workers that share a memory.

    ``folders`` are those of outputs: they are swept when the workers have ended.
    """

    workers: int
    needs: dict[str, float]
    beside: int
    folders: set[Path]


def check(address: str, cpus: int) -> None:
    """Raise ConfigError for an address of another form, a wrong number of CPUs, or without Ray."""
    if address not in (LOCAL, AUTO) and not re.fullmatch(r"[\w.-]+:\d{1,5}|\[[0-9A-Fa-f:.]+\]:\d{1,5}", address):
        more = "; run paramisp on a machine of the cluster, with auto" if address.startswith("ray://") else ""
        raise ConfigError(f"`ray` {address}: give local, auto, or HOST:PORT of a cluster's head{more}")
    if cpus < 1:
        raise ConfigError(f"`ray_cpus` must be at least 1, got {cpus}")
    if importlib.util.find_spec("ray") is None or importlib.util.find_spec("pyarrow") is None:
        raise ConfigError("`ray` needs Ray Data: `pip install 'paramisp[ray]'` on every machine of the cluster")


@contextmanager
def connected(address: str, cpus: int, *, gpus: bool = False, verbose: bool = False) -> Iterator[Cluster]:
    """Connect to a cluster, and disconnect at the end; a program that has connected to Ray itself stays connected.

    address   "local": a cluster on this machine, for this context; "auto": the cluster that this machine belongs to,
              or that of $RAY_ADDRESS; or HOST:PORT of the head
    cpus      CPUs that a worker reserves; with ``gpus``, a worker has one GPU instead if the cluster has any
    verbose   show Ray's messages and the workers' output on stderr

    Raises ConfigError without Ray, for a cluster that cannot be reached, and if no machine has ``cpus`` CPUs.
    """
    check(address, cpus)
    _reach(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would send statistics of its use over the network
    import ray

    is_own = not ray.is_initialized()
    folders: set[Path] = set()
    with _only_results_on_stdout(verbose), _without_native_messages(verbose):
        try:
            if is_own:
                _connect(ray, address, verbose)
            yield _planned(ray, cpus, gpus, folders)
        finally:
            if is_own:
                ray.shutdown()
            for folder in folders:  # workers that an interrupt ended leave temporary files
                atomic.sweep(folder)


def _reach(address: str) -> None:
    """Raise ConfigError if no program accepts connections at the head's address."""
    head = os.environ.get("RAY_ADDRESS", "") if address == AUTO else address
    if ":" in head and "://" not in head:
        host, _, port = head.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _REACHED).close()
        except (OSError, OverflowError, ValueError) as error:
            raise ConfigError(f"`ray` {head}: no cluster answers there: {error}") from error


def _connect(ray: Any, address: str, verbose: bool) -> None:
    """Connect to a cluster without a trace in the streams and the signals; raises ConfigError."""
    more = {"include_dashboard": False, "object_store_memory": _STORE} if address == LOCAL else {}
    level = logging.INFO if verbose else logging.CRITICAL
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=verbose, logging_level=level, **more)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        text = " ".join(str(error).split()).rstrip(".")
        remedy = {
            AUTO: "; start one with `ray start --head`, or pass `ray` local",
            LOCAL: "",
        }.get(address, "; if the cluster asks for a token, set RAY_AUTH_MODE=token")
        raise ConfigError(f"`ray` {address}: cannot use the cluster: {text}{remedy}") from error
    except SystemExit as end:  # Ray's handler of SIGTERM
        raise KeyboardInterrupt from end
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray's own ends the program with another exit code


def _planned(ray: Any, cpus: int, gpus: bool, folders: set[Path]) -> Cluster:
    """Divide the machines of the cluster among workers."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    name, each, needs = "CPU", cpus, {"num_cpus": float(cpus)}
    if gpus and any(machine.get("GPU", 0) >= 1 for machine in machines):
        name, each, needs = "GPU", 1, {"num_gpus": 1.0}
    fitting = [int(machine.get(name, 0) // each) for machine in machines]
    if not any(fitting):
        most = max((machine.get(name, 0) for machine in machines), default=0)
        raise ConfigError(f"`ray_cpus` {cpus}: no machine of the cluster has so many CPUs; the largest has {most:g}")
    # Workers on GPUs plan with the memory of their GPU, which they do not share.
    return Cluster(sum(fitting), needs, max(fitting) if name == "CPU" else 1, folders)


class _MainThread:
    """A text stream that writes the main thread's text alone; other threads' text goes to ``others``, if given."""

    def __init__(self, stream: TextIO, others: TextIO | None) -> None:
        self._stream, self._others = stream, others

    def write(self, text: str) -> int:
        if threading.current_thread() is threading.main_thread():
            return self._stream.write(text)
        if self._others is not None:
            self._others.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _only_results_on_stdout(verbose: bool) -> Iterator[None]:
    """Prevent lines on stdout that a thread of Ray prints, about workers that ended."""
    stdout = sys.stdout
    if stdout is None:  # it was closed from the start
        yield
        return
    filtered: Any = _MainThread(stdout, sys.stderr if verbose else None)
    sys.stdout = filtered
    try:
        yield
    finally:
        if sys.stdout is filtered:
            sys.stdout = stdout


@contextmanager
def _without_native_messages(verbose: bool) -> Iterator[None]:
    """Hide lines that Ray's C++ core writes to the stream of number 2, past ``sys.stderr``; its log files have them."""
    if verbose:
        yield
        return
    stderr, saved = sys.stderr, os.dup(2)
    is_two = False
    with suppress(AttributeError, OSError, ValueError):  # no stream, or one of another program
        is_two = stderr.fileno() == 2
    if is_two:
        stderr.flush()
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding=stderr.encoding, errors=stderr.errors)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        if is_two:
            sys.stderr.close()
            sys.stderr = stderr


# --- tasks ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Start(Generic[T, R]):
    """The start of a worker: its work, and the folder, version and environment of this process."""

    work: Callable[[T], R]
    folder: str
    version: str
    environment: dict[str, str]


class _Worker(Generic[T, R]):
    """An actor of Ray: takes a row with a pickled task, and returns one with its pickled result or error."""

    def __init__(self, start: bytes) -> None:
        told: _Start[T, R] = pickle.loads(start)
        machine = machine_name()
        if told.version != __version__:
            raise ConfigError(f"`ray`: {machine} has paramisp {__version__}, this machine {told.version}")
        os.environ.update(told.environment)
        try:
            os.chdir(told.folder)
        except OSError as error:
            raise ConfigError(
                f"`ray`: {machine} does not see the folder {told.folder}: {error.strerror or error}; run the command "
                "in a folder that all machines of the cluster see"
            ) from error
        self.work = told.work

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            result: Any = self.work(pickle.loads(row["task"]))
        except Exception as error:  # raised again where the command runs
            result = error if isinstance(error, ParamispError | OSError) else _internal(error)
        return {"number": row["number"], "result": pickle.dumps(result)}


def machine_name() -> str:
    """Return the name of this machine."""
    return socket.gethostname() or "a machine"


def _internal(error: Exception) -> ParamispError:
    return ParamispError(f"internal error on {machine_name()}: {type(error).__name__}: {' '.join(str(error).split())}")


def mapped(cluster: Cluster, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[int, R | None]]:
    """Do tasks on the workers of a cluster; yield the number and the result of each as it ends, in any order.

    ``work`` is pickled, and each worker has a copy for all its tasks. The result is None for a task whose worker ended,
    of lack of memory or of a crash. An error of ``work`` is raised here. Raises ConfigError if workers cannot start.
    """
    if not tasks:
        return
    import ray

    environment = {name: value for name, value in os.environ.items() if name.startswith("PARAMISP_")}
    start = _Start(work, str(Path.cwd()), __version__, environment)
    missing = set(range(len(tasks)))
    try:
        for batch in _dataset(cluster, pickle.dumps(start), tasks).iter_batches(
            batch_size=None, batch_format="numpy", prefetch_batches=0
        ):
            for number, pickled in zip(batch["number"].tolist(), batch["result"].tolist(), strict=True):
                result = pickle.loads(pickled)
                if isinstance(result, Exception):
                    raise result
                missing.discard(number)
                yield number, result
    except ray.exceptions.RayError as error:
        if os.environ.get("PARAMISP_DEBUG"):
            raise
        last = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
        raise ConfigError(f"`ray`: a worker cannot start: {last.strip()}".replace(_RAISED, "")) from error
    for number in sorted(missing):
        yield number, None


_RAISED = "a worker cannot start: paramisp_cli.errors.ConfigError: `ray`: "


def _dataset(cluster: Cluster, start: bytes, tasks: Sequence[Any]) -> Any:
    """Return the lazy data set of Ray whose rows are the results."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.getLogger("ray").level)  # it has a handler of its own
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # A task whose worker ended is missing from the results; the others continue.
    context.max_errored_blocks = 0 if os.environ.get("PARAMISP_DEBUG") else -1
    rows = [{"number": number, "task": pickle.dumps(task)} for number, task in enumerate(tasks)]
    pool = ray.data.ActorPoolStrategy(size=min(cluster.workers, len(rows)), max_tasks_in_flight_per_actor=1)
    # Ray would repeat a task for ever that ends its worker, such as a file that crashes a decoder.
    retries = {"max_restarts": -1, "max_task_retries": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these options end with Ray 2.64, which pyproject.toml excludes
        data = ray.data.from_items(rows, override_num_blocks=len(rows))
        return data.map(_Worker, fn_constructor_args=(start,), compute=pool, **cluster.needs, **retries)


# --- files ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Files:
    """A task: files to convert, or with ``is_skipped`` files whose looks are to be collected."""

    jobs: tuple[Job, ...]
    is_shown: bool = False
    is_skipped: bool = False


@dataclass(frozen=True, slots=True)
class _Done:
    """The result of ``_Files``: an outcome for each job; extras by position of the job; new looks for other files."""

    outcomes: list[Outcome]
    extras: dict[Path, Any]
    shots: Shots


@dataclass
class _Conversions:
    """The work of a worker on files. ``looks`` are those of the other files: the pool is closed if they are given."""

    direction: Direction
    settings: Settings
    options: WriteOptions
    policy: Policy
    grid: Grid | None
    seen: Callable[[Output, Output], Any] | None
    pools: bool
    looks: Shots | None
    beside: int

    @cached_property
    def pool(self) -> Pool | None:
        """The pool of this worker's looks."""
        pool = Pool(closed=self.looks is not None) if self.pools else None
        if pool is not None and self.looks is not None:
            pool.merge(self.looks)
        return pool

    @cached_property
    def limited(self) -> Settings:
        """The settings with this worker's share of the memory of its machine."""
        if self.settings.max_memory is not None or self.beside < 2:
            return self.settings
        return replace(self.settings, max_memory=max(memory.free() // self.beside, 1))

    def __call__(self, task: _Files) -> _Done:
        """Convert the files of a task."""
        known = {key for shots in self.pool.shots().values() for key in shots} if self.pool is not None else set()
        extras: dict[Path, Any] = {}

        def converted(job: Job, image: Output, result: Output) -> None:
            if self.seen is not None and task.is_shown:
                extras[job.source] = self.seen(image, result)

        outcomes: list[Outcome] = []
        if task.is_skipped:
            assert self.pool is not None
            batch_run.collect(self.pool, task.jobs, self.limited)
        else:
            outcomes += batch_run.once(
                task.jobs, self.direction, self.limited, self.options, self.policy, self.pool,
                grid=self.grid, converted=converted,
            )  # fmt: skip
        shots: Shots = {}
        if self.pool is not None and not self.pool.closed:
            for name, collected in self.pool.shots().items():
                shots[name] = {key: cells for key, cells in collected.items() if key not in known}
        return _Done(outcomes, extras, shots)


def run(
    cluster: Cluster,
    jobs: Sequence[Job],
    direction: Direction,
    settings: Settings,
    options: WriteOptions,
    policy: Policy,
    *,
    grid: Grid | None = None,
    one_by_one: bool = False,
    seen: Callable[[Output, Output], Any] | None = None,
    shown: Callable[[Job, Any], None] = lambda job, extra: None,
    most_shown: int = 0,
) -> Iterator[Outcome]:
    """Yield the outcome of every job as it ends, in any order, with the rules and the results of ``run.run``.

    With ``one_by_one`` no worker has a second file in hand when a file fails. ``seen`` makes something of input and
    result on the worker, for the first ``most_shown`` jobs; ``shown`` receives it here.

    The file of a worker that ends is tried once more, alone, and then failed. Raises ConfigError if no worker starts.
    """
    pools = direction == Direction.RENDER and len(jobs) > 1 and not policy.dry_run
    work = _Conversions(direction, settings, options, policy, grid, seen, pools, None, cluster.beside)
    cluster.folders.update(job.target.parent for job in jobs if job.target is not None)
    before = {job.source for job in jobs if _exists(job, grid)}
    collected, deferred, skipped = Pool(), list[Job](), list[Job]()
    places = {job.source: number for number, job in enumerate(jobs)}

    def tasks_of(jobs: Sequence[Job]) -> list[_Files]:
        size = 1 if one_by_one else _size(len(jobs), cluster.workers)
        return [
            _Files(tuple(jobs[at : at + size]), is_shown=places[jobs[at].source] < most_shown)
            for at in range(0, len(jobs), size)
        ]

    def outcomes(work: _Conversions, jobs: Sequence[Job]) -> Iterator[Outcome]:
        lost: list[Job] = []
        tasks = tasks_of(jobs)
        for number, done in mapped(cluster, work, tasks):
            if done is None:
                lost += tasks[number].jobs
                continue
            yield from reported(done)
        again = []
        for job in lost:
            if (
                policy.on_exists in (OnExists.ERROR, OnExists.RENAME)
                and job.source not in before
                and _exists(job, grid)
            ):
                skipped.append(job)  # the worker ended after this file: its look is not known yet
                yield Outcome(job, "done", target=_first(job, grid))
            else:
                again.append(_Files((job,), is_shown=places[job.source] < most_shown))
        for number, done in mapped(cluster, work, again):
            if done is None:
                (job,) = again[number].jobs
                text = "the Ray worker that converted it ended twice, of lack of memory or of a damaged file"
                remedy = "pass `isolate`, or `ray_cpus` for fewer workers on a machine"
                yield Outcome(job, "failed", error=FileAccessError(f"{job.source}: {text}; {remedy}"))
                continue
            yield from reported(done)

    def reported(done: _Done) -> Iterator[Outcome]:
        collected.merge(done.shots)
        for outcome in done.outcomes:
            if outcome.status == "deferred":
                deferred.append(outcome.job)
                continue
            if outcome.status == "skipped":
                skipped.append(outcome.job)
            if outcome.job.source in done.extras:
                shown(outcome.job, done.extras[outcome.job.source])
            yield outcome

    yield from outcomes(work, jobs)
    if deferred:
        waiting, deferred = deferred, []
        looks = [replace(task, is_skipped=True) for task in tasks_of(skipped)]
        for _, done in mapped(cluster, work, looks):
            if done is not None:
                collected.merge(done.shots)
        yield from outcomes(replace(work, looks=collected.shots()), waiting)


def _size(count: int, workers: int) -> int:
    """Return the number of files in a task."""
    return max(min(count // (_TASKS * workers), _MOST_FILES), -(-count // _MOST_TASKS), 1)


def _first(job: Job, grid: Grid | None) -> Path | None:
    """Return the output of a job that is written last: the first of its patches with a ``grid``."""
    return job.target if grid is None or job.target is None else patch_path(job.target, 0)


def _exists(job: Job, grid: Grid | None) -> bool:
    first = _first(job, grid)
    with suppress(OSError):
        return first is not None and os.path.lexists(first)
    return False
