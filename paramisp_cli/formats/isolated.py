"""Read a RAW file in a process of its own: a decoder's crash or hang on a hostile file affects only this file.

The parent starts ``python -I`` with its own search path and passes the path of the file. The child limits its memory
and its processor time, reads the file as ``formats.read`` does, and writes the image to its standard output, an
unnamed temporary file: a line with the length of the description, the description (JSON), and the bytes of all arrays
and metadata blocks. Nothing is pickled; the parent builds a new image, and every check of ``types`` runs again.

The child has the user's rights: it contains crashes and hangs, but it is no sandbox against code injected through a
fault of the decoder.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from paramisp_cli import errors, types
from paramisp_cli.errors import FileAccessError, FormatError, ParamispError
from paramisp_cli.types import RawImage, SrgbImage

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_MEMORY, _MEMORY_PER_BYTE = 3 << 30, 4
"""Memory [bytes] for the decoder beyond Python and its modules: a base, and a multiple of the file's size."""
_SECONDS, _BYTES_PER_SECOND = 60, 1 << 20
"""Processor time for the decoder: a base [s], and time for the file's bytes. Real files need less than 5 s."""
_PATIENCE = 4
"""Multiple of the processor time, by the clock, after which the child is ended even if it sleeps."""

_CLASSES = {
    kind.__name__: kind
    for kind in (
        types.Camera, types.CanonicalParams, types.Crop, types.Metadata, types.OpticalParams, types.Patch, RawImage,
        SrgbImage,
    )
}  # fmt: skip
_DTYPES = ("uint8", "uint16", "float32", "float64")
_ERRORS = {
    kind.__name__: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, ParamispError)
}  # fmt: skip


def read(path: Path, max_pixels: int) -> SrgbImage | RawImage:
    """Read a file as ``formats.read`` does, in a process of its own.

    Raises the errors of ``formats.read``, and FormatError if the decoder crashed, hung, or used more memory than a file
    of this size needs.
    """
    seconds = _SECONDS + path.stat().st_size // _BYTES_PER_SECOND
    # The child passes ``formats.read`` to ``serve``: a module must not import its own package.
    start = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from paramisp_cli import formats"
    serving = "formats.isolated.serve(formats.read, *sys.argv[2:])"
    search = json.dumps([place for place in sys.path if place])
    words = [sys.executable, "-I", "-c", f"{start}; {serving}", search, str(path), str(seconds), str(max_pixels)]
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as printed:
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=answer, stderr=printed) as child:
            try:
                code = child.wait(_PATIENCE * seconds)
            except subprocess.TimeoutExpired as error:
                raise _stopped(path, seconds * _PATIENCE) from error
            finally:
                child.kill()
        if code != 0:
            printed.seek(0)
            raise _failure(path, code, seconds, printed.read().decode(errors="replace"))
        answer.seek(0)
        try:
            image = _received(answer)
        except ParamispError:
            raise
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
            raise FormatError(
                f"{path}: the RAW decoder gave an invalid answer ({error}); the file is damaged or hostile"
            ) from error
    if not isinstance(image, (RawImage, SrgbImage)):
        raise FormatError(f"{path}: the RAW decoder gave an invalid answer; the file is damaged or hostile")
    return image


def _stopped(path: Path, seconds: int) -> FormatError:
    return FormatError(f"{path}: the RAW decoder did not finish in {seconds} s; the file is damaged or hostile")


def _failure(path: Path, code: int, seconds: int, printed: str) -> Exception:
    """Return the error for a child that did not answer."""
    if code == -getattr(signal, "SIGXCPU", 0):
        return _stopped(path, seconds)
    if code == -getattr(signal, "SIGKILL", 0):
        return FileAccessError(f"{path}: the RAW decoder was killed, probably for lack of memory; free some and retry")
    if code < 0 or code > 255:  # on Windows the code is the fault's number, such as 0xC0000005
        number = f"signal {-code}" if code < 0 else f"code {code:#x}"
        return FormatError(f"{path}: the RAW decoder crashed on it ({number}); the file is damaged or hostile")
    last = printed.strip().splitlines()[-1:] or [f"exit code {code}"]
    return RuntimeError(f"{path}: the process that reads it failed: {last[0]}")


# --- in the child -----------------------------------------------------------------------------------------------------


def serve(read_file: Callable[..., SrgbImage | RawImage], name: str, seconds: str, max_pixels: str) -> None:
    """Read the file with ``read_file``, which is ``formats.read``, and write the image or the error to stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # text printed by a library must not mix with the answer
    path = Path(name)
    try:
        _limit(path.stat().st_size, int(seconds))
        image: Any = read_file(path, max_pixels=int(max_pixels))
    except ParamispError as error:
        image = error
    except MemoryError:
        image = FormatError(f"{path}: the RAW decoder uses more memory than a file of this size needs; it is damaged")
    _send(image, channel)
    channel.close()


def _limit(size: int, seconds: int) -> None:
    """Limit memory and processor time, on systems with such limits, and disable core dumps."""
    if resource is None:
        return
    pages = Path("/proc/self/statm")
    if pages.exists():
        held = int(pages.read_text().split()[0]) * resource.getpagesize()
        _lower(resource.RLIMIT_AS, held + _MEMORY + _MEMORY_PER_BYTE * size)
    _lower(resource.RLIMIT_CPU, seconds)
    _lower(resource.RLIMIT_CORE, 0)


def _lower(kind: int, value: int) -> None:
    """Set a soft limit unless a lower limit is in force."""
    soft, hard = resource.getrlimit(kind)
    lowest = min((limit for limit in (soft, hard, value) if limit != resource.RLIM_INFINITY), default=value)
    resource.setrlimit(kind, (lowest, hard))


def _send(image: object, channel: IO[bytes]) -> None:
    """Write the description of an image or an error, and its bytes."""
    blobs: list[Any] = []
    if isinstance(image, ParamispError):
        description: Any = {"error": [type(image).__name__, str(image), image.field]}
    else:
        description = _described(image, blobs)
    raw = json.dumps(description).encode()
    channel.write(b"%d\n" % len(raw) + raw)
    for blob in blobs:
        channel.write(blob)


def _described(value: object, blobs: list[Any]) -> Any:
    """Return the value for JSON; bytes and arrays go to ``blobs`` and are described by length, type and shape."""
    if isinstance(value, np.ndarray):
        blobs.append(np.ascontiguousarray(value).data.cast("B"))
        return {"array": [value.dtype.name, list(value.shape)]}
    if isinstance(value, bytes):
        blobs.append(value)
        return {"bytes": len(value)}
    if is_dataclass(value):
        return {type(value).__name__: {f.name: _described(getattr(value, f.name), blobs) for f in fields(value)}}
    if isinstance(value, Mapping):
        return {"table": dict(value)}
    if isinstance(value, tuple):
        return {"tuple": [_described(each, blobs) for each in value]}
    return value.item() if isinstance(value, np.generic) else value


# --- in the parent ----------------------------------------------------------------------------------------------------


def _received(answer: IO[bytes]) -> object:
    """Return the image that the child wrote, or raise its error. The answer is untrusted."""
    length = int(answer.readline(20))
    _check_rest(answer, length)
    description = json.loads(answer.read(length))
    if isinstance(description, dict) and "error" in description:
        name, message, field = description["error"]
        raise _ERRORS[name](str(message), str(field))
    return _built(description, answer)


def _built(value: Any, answer: IO[bytes]) -> Any:
    """Return the value of a description; its bytes come from ``answer`` in the order of ``_described``."""
    if not isinstance(value, dict):
        return value
    ((kind, inside),) = value.items()
    if kind == "array":
        name, shape = inside
        if name not in _DTYPES:
            raise ValueError(f"an array of {name}")
        count = math.prod(shape)
        _check_rest(answer, count * np.dtype(name).itemsize)
        return np.fromfile(answer, name, count).reshape(shape)
    if kind == "bytes":
        _check_rest(answer, inside)
        return answer.read(inside)
    if kind == "table":
        return dict(inside)
    if kind == "tuple":
        return tuple(_built(each, answer) for each in inside)
    return _CLASSES[kind](**{name: _built(each, answer) for name, each in inside.items()})


def _check_rest(answer: IO[bytes], wanted: int) -> None:
    """Raise ValueError if fewer bytes are left than wanted, before a read allocates memory for them."""
    available = os.fstat(answer.fileno()).st_size - answer.tell()
    if not 0 <= wanted <= available:
        raise ValueError(f"{available} of {wanted} bytes")
