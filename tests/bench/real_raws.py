"""Find the real RAW files at hand: in ../shared/data beside the checkout, and in $PARAMISP_SAMPLES."""

from __future__ import annotations

import os
import sys
from pathlib import Path

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SUFFIXES = (".arw", ".cr2", ".crw", ".dng")


def chosen(given: list[Path]) -> list[Path]:
    """Return the files that were given, else all real RAW files; a notice if there are none."""
    samples = os.environ.get("PARAMISP_SAMPLES")
    places = [SHARED.glob("*/*"), *([Path(samples).glob("*")] if samples else [])]
    found = given or [path for place in places for path in sorted(place) if path.suffix.lower() in SUFFIXES]
    if not found:
        print(f"no RAW files in {SHARED} or $PARAMISP_SAMPLES: name some", file=sys.stderr)
    return found
