"""A campaign as a person reads it: a line per case, and what they come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, median
from typing import Any

COLUMNS = (
    ("case", 46),
    ("layout", 11),
    ("engine", 6),
    ("data", 6),
    ("at", 3),
    ("lost", 5),
    ("next s", 6),
    ("weights", 7),
    ("once", 4),
    ("goodput", 7),
    ("model", 5),
    ("by", 5),
)
"""Names and widths. `lost` is steps, of how many it may lose; `next s` is the time from the fault to the first new
step; `by` who brought it back: the job itself, or a retry by hand."""


def text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table, its broken promises, and a summary."""
    head = "  ".join(f"{name:<{width}}" for name, width in COLUMNS).rstrip()
    body = [_line(row) for row in rows]
    broken = [f"BROKEN {row['case']}: {said}" for row in rows for said in row["broken"]]
    return "\n".join([head, *body, *broken, *_summary(rows)])


def _line(row: Mapping[str, Any]) -> str:
    values = (
        row["case"],
        row["layout"],
        row["engine"],
        row["data"],
        row["at"],
        f"{row['lost']}/{row['most']}",
        "-" if row["next_s"] is None else f"{row['next_s']:.1f}",
        row["weights"],
        "yes" if row["once"] else "NO",
        f"{row['measured']:.3f}",
        f"{row['predicted']:.3f}",
        "retry" if row["retries"] else "job",
    )
    return "  ".join(f"{value!s:<{width}}" for value, (_, width) in zip(values, COLUMNS, strict=True)).rstrip()


def _summary(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    kept = sum(not row["broken"] for row in rows)
    said = [f"{kept} of {len(rows)} cases kept every promise"]
    for launcher in ("local", "slurm"):
        for graceful in (True, False):
            some = [
                r for r in rows if (r["launcher"], r["graceful"]) == (launcher, graceful) and r["next_s"] is not None
            ]
            if some:
                back = [row["next_s"] for row in some]
                off = [row["measured"] - row["predicted"] for row in some]
                said.append(
                    f"{launcher}, {'told' if graceful else 'not told'}, {len(some)} cases: steps lost at most "
                    f"{max(row['lost'] for row in some)}, median {median(row['lost'] for row in some):g}; seconds to "
                    f"the next new step: median {median(back):.1f}, at most {max(back):.1f}; goodput measured less "
                    f"predicted: mean {100 * mean(off):+.1f} points"
                )
    return said
