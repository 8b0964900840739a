"""Tables of scores: a row for each photograph and model, as ``evaluate --json`` and checkpoints' headers have them."""

from __future__ import annotations

from collections.abc import Sequence

from paramisp_cli.pages import lines
from paramisp_cli.pages.document import Markup, number, table
from paramisp_cli.pages.lines import Record

METRICS = {
    "psnr": ("PSNR [dB]", 2, max),
    "psnr_crops": ("PSNR, 5 crops [dB]", 2, max),
    "ssim": ("SSIM", 4, max),
    "delta_e": ("ΔE2000", 2, min),
    "delta_e_chart": ("ΔE2000, chart", 2, min),
}
"""Key of a metric → its name, its digits after the point, and the function that picks the better of values."""


def plain_table(caption: str, records: Sequence[Record]) -> Markup:
    """Make a table with a row for each score."""
    head = ["photograph", "camera", "direction", "model", *(name for name, _, _ in METRICS.values())]
    rows = [
        [*(each.get(key) or "–" for key in ("photo", "camera", "direction", "model")),
         *(number(lines.real(each, key), digits) for key, (_, digits, _) in METRICS.items())]
        for each in records
    ]  # fmt: skip
    return table(caption[:1].upper() + caption[1:], head, rows, numbers_from=4)
