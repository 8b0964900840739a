"""Work on a picture in bands of rows, on a few threads: a band's arrays stay in a core's cache."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Progress = Callable[[float], None]
Item = TypeVar("Item")
Result = TypeVar("Result")

_THREADS = min(os.cpu_count() or 1, 4)


def in_threads(work: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None) -> list[Result]:
    """Return the results of ``work`` for each item, in order; ``threads`` None takes one for each of up to 4 cores."""
    with ThreadPoolExecutor(threads or _THREADS) as pool:
        return list(pool.map(work, items))


def in_bands(
    work: Callable[[int, int], None],
    rows: int,
    band: int,
    threads: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Call ``work`` with the first and the end row of each ``band`` rows; ``progress`` takes the finished share."""

    def one(first: int) -> float:
        last = min(first + band, rows)
        work(first, last)
        return last / rows

    band = max(band, 1)
    with ThreadPoolExecutor(threads or _THREADS) as pool:
        for share in pool.map(one, range(0, rows, band)):  # in order: the share never falls
            if progress is not None:
                progress(share)
