"""A Ray cluster: the connection, and tasks done by its workers through Ray Data. Ray is imported only for a cluster.

All machines must see the files at the same paths: workers read and write them there, and only paths, settings and
reports travel.
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
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TextIO, TypeVar

from paramisp_cli import __version__, atomic
from paramisp_cli.errors import ConfigError, ParamispError

LOCAL, AUTO = "local", "auto"
"""Addresses of a cluster on this machine for one command, and of the cluster that this machine belongs to."""
_REACHED = 5.0
"""Seconds in which a machine must accept a connection: Ray itself tries for minutes."""
_CURRENT = "ray/ray_current_cluster"
"""File below Ray's folder that has the address of this machine's cluster."""
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
            yield planned(ray, cpus, gpus, folders)
        finally:
            if is_own:
                ray.shutdown()
            for folder in folders:  # workers that an interrupt ended leave temporary files
                atomic.sweep(folder)


def _reach(address: str) -> None:
    """Raise ConfigError if no program accepts connections at the head's address."""
    head = address
    if address == AUTO:
        head = os.environ.get("RAY_ADDRESS", "")
        with suppress(OSError, UnicodeError):  # a cluster that was killed leaves its address
            head = (
                head or Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), _CURRENT).read_text("utf-8").strip()
            )
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


def planned(ray: Any, cpus: int, gpus: bool, folders: set[Path]) -> Cluster:
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
class Start(Generic[T, R]):
    """The start of a worker: its work, and the folder, version and environment of this process."""

    work: Callable[[T], R]
    folder: str
    version: str
    environment: dict[str, str]


class Worker(Generic[T, R]):
    """An actor of Ray: takes a row with a pickled task, and returns one with its pickled result or error."""

    def __init__(self, start: bytes) -> None:
        told: Start[T, R] = pickle.loads(start)
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
        """Do the task of a row."""
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
    start = Start(work, str(Path.cwd()), __version__, environment)
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
        return data.map(Worker, fn_constructor_args=(start,), compute=pool, **cluster.needs, **retries)
