"""The result of a file in a batch, the count of all results, and errors that name their file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paramisp_cli.batch.find import Job
from paramisp_cli.errors import FileAccessError, ParamispError
from paramisp_cli.parameters import Conversion, Settings


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a job: status "done", "planned" (dry run), "skipped" or "failed"; "deferred" of ``once``.

    ``files`` are the arrays or patches of a job: for each its path, its SHA-256 if it is an array, its place if it is a
    patch. They are empty for other outputs. ``confidence`` describes the confidence map.
    """

    job: Job
    status: str
    target: Path | None = None
    error: ParamispError | None = None
    seconds: float = 0.0
    conversion: Conversion | None = None
    notices: tuple[str, ...] = ()
    files: tuple[dict[str, Any], ...] = ()
    confidence: dict[str, Any] | None = None

    def record(self) -> dict[str, Any]:
        """Return plain values: one line of ``--json``."""
        record: dict[str, Any] = {
            "input": str(self.job.source),
            "output": str(self.target) if self.target else None,
            "status": self.status,
            "seconds": round(self.seconds, 3),
        }
        if self.conversion is not None:
            record |= self.conversion.describe() | {"notices": list(self.all_notices)}
        if self.files:
            record["files"] = list(self.files)
        if self.job.confidence is not None:
            record["confidence"] = {"file": str(self.job.confidence), **(self.confidence or {})}
        if self.error is not None:
            record |= {"error": str(self.error), "error_kind": type(self.error).__name__}
        return record

    @property
    def all_notices(self) -> tuple[str, ...]:
        """Notices of the result, or of the conversion if there is no result."""
        return self.notices or (self.conversion.notices if self.conversion else ())


@dataclass(slots=True)
class Tally:
    """Counts and failures, for the last line and the exit code."""

    done: int = 0
    skipped: int = 0
    failures: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        if outcome.status == "failed":
            self.failures.append(outcome)
        elif outcome.status == "skipped":
            self.skipped += 1
        else:
            self.done += 1

    @property
    def count(self) -> int:
        """Number of outcomes counted."""
        return self.done + self.skipped + len(self.failures)

    def exit_code(self, single: bool) -> int:
        """Return 0 without failures, a single file's own code, or 1 if any of several files failed."""
        if not self.failures:
            return 0
        error = self.failures[0].error
        return error.exit_code if single and error is not None else 1


@contextmanager
def naming(source: Path, settings: Settings) -> Iterator[None]:
    """Begin every error with the file's name, and turn lack of memory into a FileAccessError with a remedy."""
    try:
        yield
    except ParamispError as error:
        raise error.named(source) from error
    except (MemoryError, RuntimeError) as error:
        from paramisp_cli import devices

        if not devices.is_out_of_memory(error):
            raise
        remedy = "" if settings.model == "parametric" else "pass `model` parametric, or "
        raise FileAccessError(f"{source}: not enough memory; {remedy}use a smaller picture") from error
