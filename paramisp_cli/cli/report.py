"""Report a batch: paths or JSON on stdout, messages on stderr, notices summed up."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paramisp_cli.cli.console import hint, in_flags, interruptible, say, with_flags, worded
from paramisp_cli.cli.options import BatchOptions
from paramisp_cli.cli.progress import Progress

if TYPE_CHECKING:
    from paramisp_cli.batch.cluster import Cluster
    from paramisp_cli.batch.outcome import Outcome
    from paramisp_cli.batch.outputs import Policy
    from paramisp_cli.directions import Direction
    from paramisp_cli.formats import WriteOptions
    from paramisp_cli.pages.batch import Page
    from paramisp_cli.parameters import Settings
    from paramisp_cli.patches import Grid

REPLACES = ("overwrite", "skip")
"""Values of --on-exists that replace an older page about the batch: a resumed batch has the same command line."""
LONG, VERY_LONG = 3, 20
"""Seconds from which the expected time is announced, and from which a faster model is named."""


def _suffix_of(path: Path) -> str:
    """Return the suffix that tells the kind of a file: that of an array for a TIFF or OpenEXR of RAW samples."""
    from paramisp_cli import formats

    suffix = path.suffix.lower()
    return formats.ARRAY_SUFFIXES[0] if suffix in (".tif", ".tiff", ".exr") and formats.is_array(path) else suffix


def left_out(files: Sequence[Path]) -> str:
    """Return one line with the number of files, by kind, that the search left out of folders."""
    from paramisp_cli import formats

    kinds: Counter[str] = Counter()
    others: Counter[str] = Counter()
    for suffix, count in Counter(_suffix_of(path) for path in files).items():
        if suffix in formats.KNOWN_UNREADABLE:
            kinds[f"{formats.KNOWN_UNREADABLE[suffix]} (cannot be read)"] += count
        elif suffix in (*formats.RAW_SUFFIXES, *formats.ARRAY_SUFFIXES):
            kinds["RAW (`paramisp render` converts them)"] += count
        elif suffix in formats.SRGB_SUFFIXES:
            kinds["pictures (`paramisp unprocess` converts them)"] += count
        else:
            others[suffix or "no suffix"] += count
    shown = [f"{count} {kind}" for kind, count in sorted(kinds.items())]
    if others:
        names = sorted(others)
        shown.append(f"{others.total()} other ({', '.join(names[:6])}{', …' if len(names) > 6 else ''})")
    return f"left out {len(files)} {'file' if len(files) == 1 else 'files'}: {', '.join(shown)}"


def starting(progress: Progress, check: Callable[[], None]) -> Callable[[Any], None]:
    """Return a function that shows a job as the current one, unless ``check`` raises."""

    def started(job: Any) -> None:
        check()
        progress.started(job)

    return started


def _checked(outcomes: Iterator[Outcome], check: Callable[[], None]) -> Iterator[Outcome]:
    """Give outcomes, and call ``check`` after each."""
    for outcome in outcomes:
        yield outcome
        check()


@dataclass(slots=True)
class Report:
    """Report of a batch: paths or JSON on stdout, messages on stderr, each notice once for all its files.

    ``file`` takes an HTML page about the batch.
    """

    batch: BatchOptions
    single: bool
    total: int
    grid: Grid | None = None
    file: Path | None = None
    page: Page | None = field(default=None, init=False)
    notices: dict[str, list[tuple[Path, str]]] = field(default_factory=dict)
    """Summary of a notice → its files, with its full text for each."""

    def run(
        self, jobs: Any, direction: Direction, settings: Settings, options: WriteOptions, cluster: Cluster | None = None
    ) -> int:
        """Run the jobs, here or on a cluster, and return the exit code."""
        from paramisp_cli.batch import outputs, run
        from paramisp_cli.batch.find import OnExists

        if self.file is not None:
            from paramisp_cli.pages.batch import Page

            self.page = Page(direction, with_flags)
        converted = {} if self.page is None else {"converted": self.page.taken}
        policy = outputs.Policy(OnExists(self.batch.on_exists), self.batch.overwrite_foreign, self.batch.dry_run)

        def outcomes(progress: Progress, check: Callable[[], None]) -> Iterator[Outcome]:
            if cluster is not None:
                return _checked(self._on_ray(cluster, jobs, direction, settings, options, policy), check)
            return run.run(
                jobs,
                direction,
                settings,
                options,
                policy,
                grid=self.grid,
                started=starting(progress, check),
                progress=progress.share,
                prepared=self._announcer(settings, progress),
                **converted,
            )

        return self.follow(outcomes, lambda: self._hint(direction, jobs))

    def _on_ray(
        self, cluster: Cluster, jobs: Any, direction: Direction, settings: Settings, options: WriteOptions,
        policy: Policy,
    ) -> Iterator[Outcome]:  # fmt: skip
        from paramisp_cli.batch import on_ray

        seen: dict[str, Any] = {}
        if self.page is not None:
            from paramisp_cli.pages import batch as page

            seen = {"seen": page.thumbnails, "shown": self.page.put, "most_shown": page.MOST_PICTURES}
        return on_ray.run(
            cluster, jobs, direction, settings, options, policy,
            grid=self.grid, one_by_one=self.batch.fail_fast, **seen,
        )  # fmt: skip

    def follow(
        self, outcomes: Callable[[Progress, Callable[[], None]], Iterator[Outcome]], hint: Callable[[], None]
    ) -> int:
        """Report outcomes as they come, ``hint`` after the last, and return the exit code.

        An interrupt during a report waits until ``outcomes`` calls its second argument, between two files: there it
        can still give the files that are being written.
        """
        from paramisp_cli.batch.outcome import Tally

        batch, tally = self.batch, Tally()
        with Progress(self.total, quiet=batch.quiet) as progress:
            try:
                with interruptible() as interrupts:
                    for outcome in outcomes(progress, interrupts):
                        with interrupts.held():
                            tally.add(outcome)
                            if self.page is not None:
                                self.page.add(outcome)
                            progress.finished()
                            self._show(outcome, progress, "" if self.single else f"[{tally.count}/{self.total}] ")
                        if outcome.status == "failed" and batch.fail_fast:
                            break
                    interrupts()
            except KeyboardInterrupt:
                progress.stop()
                say(f"interrupted: {tally.done} done, {self.total - tally.count} left; resume with --on-exists skip")
                self._write_page(self.total - tally.count)
                return 130
        self._show_notices()
        if tally.done and not batch.quiet and not batch.json_lines:
            hint()
        if not self.single and not batch.quiet:
            verb = "planned" if batch.dry_run else "done"
            untried = f", {self.total - tally.count} not tried" if tally.count < self.total else ""
            say(f"{tally.done} {verb}, {tally.skipped} skipped, {len(tally.failures)} failed{untried}")
            if tally.failures:
                say("failed: " + ", ".join(str(failure.job.source) for failure in tally.failures))
        self._write_page(self.total - tally.count)
        return tally.exit_code(self.single)

    def _write_page(self, untried: int) -> None:
        """Write the page about the batch, if there is to be one; raises OutputExistsError, FileAccessError."""
        if self.page is None or self.file is None:
            return
        from paramisp_cli.pages import make

        make.write(self.file, self.page.document(untried), overwrite=self.batch.on_exists in REPLACES)
        if not self.batch.quiet:
            say(f"report: {self.file}")

    def _show(self, outcome: Outcome, progress: Progress, count: str) -> None:
        """Report one file."""
        name, batch = outcome.job.source, self.batch
        if batch.json_lines:
            progress.result(json.dumps(in_flags(outcome.record()), allow_nan=False))
        elif outcome.status in ("done", "planned"):
            for path in [each["file"] for each in outcome.files] or [outcome.target]:
                progress.result_path(path)
        if outcome.status == "failed":
            progress.say(worded(outcome.error))
            return
        if batch.quiet:
            return
        for notice in outcome.all_notices:
            if self.single or batch.verbose:
                progress.say(f"{name}: {with_flags(notice)}")
            else:
                self.notices.setdefault(with_flags(getattr(notice, "summary", notice)), []).append(
                    (name, with_flags(notice))
                )
        if outcome.conversion is not None and batch.verbose:
            for key, value in outcome.conversion.describe().items():
                if key not in ("origin", "notices", "made_by"):
                    source = outcome.conversion.origin.get({"wb_gains": "wb"}.get(key, key))
                    progress.say(f"  {key}: {value}" + (f"  [{source}]" if source else ""))
        if outcome.status == "skipped" and not count:
            progress.say(f"{outcome.target}: exists already, skipped")
        if progress.bar is None and count:
            progress.say(f"{count}{name}: {outcome.status} ({outcome.seconds:.1f} s)")

    def _announcer(self, settings: Settings, progress: Progress) -> Callable[[Any, Any, Any], None]:
        """Return a function that tells, on a terminal, the model of a single file and the time that it may take."""

        def announce(job: Any, conversion: Any, image: Any) -> None:
            if not self.single or progress.bar is None:
                return
            from paramisp_cli import convert

            seconds = convert.expected_seconds(conversion, settings, image.size)
            if seconds < LONG:
                return
            chosen = f"{conversion.architecture} ({conversion.checkpoint.name.split('.')[0]})"
            megapixels = image.size[0] * image.size[1] / 1e6
            faster = "fast" if conversion.architecture != "fast" and conversion.stop_at is None else "parametric"
            hint = f"; --model {faster} takes less" if seconds > VERY_LONG else ""
            progress.say(f"{job.source.name}: {chosen}, {megapixels:.1f} megapixels, about {seconds:.0f} s{hint}")

        return announce

    def _hint(self, direction: Direction, jobs: Any) -> None:
        """Suggest the next command for the first file."""
        target = next((job.target for job in jobs if job.target is not None and job.target.exists()), None)
        if self.batch.dry_run or target is None:
            return
        if direction == "transfer":
            return
        if direction == "unprocess":
            hint("paramisp", "render", target, "-o", target.with_name(f"{target.stem}-again.jpg"))
        elif target.suffix.lower() in (".jpg", ".jpeg"):
            hint("paramisp", "render", jobs[0].source, "-o", target.with_suffix(".tif"))  # 16 bits a channel

    def _show_notices(self) -> None:
        """Print each notice of a batch once, with the number of its files."""
        for summary, files in self.notices.items():
            if len(files) == 1:
                say(f"{files[0][0]}: {files[0][1]}")
            else:
                say(f"{len(files)} files: {summary}")
