"""How good the detectors are on the labelled month: precision, recall and delay of each. Writes docs/analytics.md's table.

python bench/month.py [--days 30] [--seed 1] [--write]
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from statistics import median

from edge.analytics.detectors import read_tunings
from edge.analytics.watch import replay
from edge.simulation.month import Label, Month, observed

MARKS = ("<!-- detectors: begin -->", "<!-- detectors: end -->")
FILE = Path(__file__).parent.parent / "docs/analytics.md"
FIRST = date(2026, 10, 1)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--days", type=int, default=30)
    asked.add_argument("--seed", type=int, default=1)
    asked.add_argument("--write", action="store_true", help="write the table into docs/analytics.md")
    given = asked.parse_args()
    month = Month(FIRST, given.days, given.seed)
    seen = (observed(event, number) for number, event in enumerate(month, 1))
    found = [
        (one.zone_id, finding.type, finding.at)
        for one, finding in replay(seen, read_tunings(None), month.standards, month.cameras)
    ]
    lines = [
        f"{len(month):,} events, {given.days} days, seed {given.seed}, {len(month.labels)} disturbances.",
        "",
        *compared(month, found),
    ]
    print("\n".join(lines))
    if given.write:
        write(lines, MARKS)


def compared(month: Month, found: Sequence[tuple[str | None, str, datetime]]) -> list[str]:
    """The table: `found` holds zone, type and time of each finding."""
    waiting: dict[tuple[str, str], list[Label]] = defaultdict(list)
    for label in month.labels:
        waiting[label.type, label.zone_id].append(label)
    true: dict[str, int] = defaultdict(int)
    other: dict[str, int] = defaultdict(int)
    said: dict[str, int] = defaultdict(int)
    delays: dict[str, list[float]] = defaultdict(list)
    first: set[Label] = set()
    for zone_id, kind, at in found:
        said[kind] += 1
        hit = [one for one in waiting[kind, zone_id or ""] if one.start <= at <= one.end + SLACK]
        true[kind] += bool(hit)
        # A slow step makes a slow cycle, too: true, but of a disturbance that has another name.
        other[kind] += not hit and any(
            one.zone_id == zone_id and one.start <= at <= one.end + SLACK for one in month.labels
        )
        for label in hit:
            if label not in first:
                first.add(label)
                delays[kind].append((at - label.start).total_seconds())
    lines = [
        "| finding | disturbances | found | recall | findings | true | of another disturbance there | precision | median delay |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in sorted({*said, *(label.type for label in month.labels)}):
        labels = sum(label.type == kind for label in month.labels)
        hits = sum(label.type == kind for label in first)
        recall = f"{hits / labels:.2f}" if labels else "-"
        precision = f"{true[kind] / said[kind]:.2f}" if said[kind] else "-"
        delay = f"{median(delays[kind]) / 60:.1f} min" if delays[kind] else "-"
        lines.append(
            f"| {kind} | {labels} | {hits} | {recall} | {said[kind]} | {true[kind]} | {other[kind]} | {precision} | {delay} |"
        )
    return lines


def write(lines: Sequence[str], marks: tuple[str, str]) -> None:
    """Put the lines between the two marks of docs/analytics.md."""
    before, begin, rest = FILE.read_text("utf-8").partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not (begin and end):
        raise SystemExit(f"{FILE} has no place for the table: put {marks[0]} and {marks[1]} into it.")
    FILE.write_text(f"{before}{begin}\n" + "\n".join(lines) + f"\n{end}{after}", "utf-8")


#: A finding may come a moment after what it speaks of has passed.
SLACK = timedelta(minutes=2)

if __name__ == "__main__":
    main()
