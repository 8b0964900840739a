"""A progress display on a terminal: a bar with the file's name and the time left."""

from __future__ import annotations

import sys
from typing import Any

from paramisp_cli.cli.console import escaped, result, result_path, say, terminal


class Progress:
    """A context that shows progress if stderr is a terminal, and prints lines around the display."""

    def __init__(self, total: int, *, quiet: bool) -> None:
        self.bar: Any = None
        self.files = 0
        if total and not quiet and sys.stderr is not None and sys.stderr.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            name: ProgressColumn = TextColumn("{task.description}", markup=False)
            done = (MofNCompleteColumn(),) if total > 1 else ()
            columns = (name, BarColumn(), *done, TimeRemainingColumn(elapsed_when_finished=True))
            self.bar = Bar(*columns, console=terminal(), transient=True, redirect_stdout=False, redirect_stderr=False)
            self.task = self.bar.add_task("", total=total)

    def __enter__(self) -> Progress:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Remove the display."""
        if self.bar:
            self.bar.stop()

    def started(self, job: Any) -> None:
        """Show the name of the current file."""
        if self.bar:
            self.bar.update(self.task, description=escaped(job.source.name))

    def share(self, share: float) -> None:
        """Show the share of the current file's work that is done, 0 to 1."""
        if self.bar:
            self.bar.update(self.task, completed=self.files + min(share, 0.99))

    def finished(self) -> None:
        """Count a finished file."""
        self.files += 1
        if self.bar:
            self.bar.update(self.task, completed=self.files)

    def result(self, text: str) -> None:
        """Print a line on stdout; above the bar if stdout is the same terminal."""
        if self.bar and sys.stdout is not None and sys.stdout.isatty():
            self.say(text)
        else:
            result(text)

    def result_path(self, path: object) -> None:
        """Print a path on stdout; above the bar if stdout is the same terminal."""
        if self.bar and sys.stdout is not None and sys.stdout.isatty():
            self.say(str(path))
        else:
            result_path(path)

    def say(self, text: str) -> None:
        """Print a message on stderr, above the bar if there is one."""
        if self.bar:
            self.bar.console.print(escaped(text), markup=False)
        else:
            say(text)
