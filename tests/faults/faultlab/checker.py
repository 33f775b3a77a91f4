"""Holds what the senders were promised against what is there. Pure: two records in, sentences out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Sent:
    """What one source asked for, and what it was promised."""

    source: str
    place: str
    invoked: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    receipted: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, source: str, place: str, journal: Iterable[Mapping[str, Any]]) -> Sent:
        made = cls(source, place)
        for entry in journal:
            if entry["e"] == "invoke":
                made.invoked[entry["id"]] = entry
            elif entry["e"] == "kept":
                made.kept.add(entry["id"])
            else:
                made.receipted.add(entry["id"])
        return made

    def unread(self) -> int:
        """How many of its sequence numbers lie in quarantine, between two that do not."""
        numbers = [
            int(identity.rpartition("-")[2]) for identity, entry in self.invoked.items() if not entry.get("poison")
        ]
        return max(numbers) - min(numbers) + 1 - len(numbers) if numbers else 0


@dataclass(frozen=True)
class Stored:
    """One row of the inbox."""

    source: str | None
    event_id: str | None
    topic: str
    payload: bytes
    state: str


@dataclass
class Found:
    """What the appliance holds once it has settled. `cases` and `expected` are made alike, see `lab.state`."""

    inbox: list[Stored]
    understood: Counter[str]
    gaps: Mapping[str, int]
    cases: Any
    expected: Any
    missing: int = 0
    orphaned: int = 0
    stale: int = 0
    outbox: int = 0


def check(history: Iterable[Sent], found: Found) -> list[str]:
    """Every way in which the promise was broken; empty when it was kept."""
    history = list(history)
    wrong: list[str] = []
    rows: dict[str, list[Stored]] = {}
    for row in found.inbox:
        rows.setdefault(row.event_id or "", []).append(row)
    known = {identity for sent in history for identity in sent.invoked}

    def say(words: str, ids: Iterable[str]) -> None:
        if some := sorted(ids):
            wrong.append(f"{len(some)} {words}: {', '.join(some[:3])}")

    for sent in history:
        say(f"events of {sent.source} receipted and not there (lost)", sent.receipted - rows.keys())
        say(f"events of {sent.source} in its spool and not there (lost)", sent.kept - sent.receipted - rows.keys())
        say(f"events of {sent.source} there and never receipted", (sent.kept - sent.receipted) & rows.keys())
        say(
            f"events of {sent.source} there with other bytes than were sent (changed)",
            (
                identity
                for identity, entry in sent.invoked.items()
                for row in rows.get(identity, ())
                if not _same(entry, row, sent)
            ),
        )
        if found.gaps.get(sent.source, 0) != (unread := sent.unread()):
            wrong.append(f"{found.gaps.get(sent.source, 0)} numbers of {sent.source} missing, not {unread} (gap)")
    say("events there more than once (twice)", (identity for identity, all_ in rows.items() if len(all_) > 1))
    say("events there that nobody sent (invented)", rows.keys() - known)
    poison = {identity for sent in history for identity, entry in sent.invoked.items() if entry.get("poison")}
    for state, ids in (("quarantined", poison), ("done", known - poison)):
        say(
            f"events that should be {state} and are not (state)",
            (identity for identity in ids for row in rows.get(identity, ()) if row.state != state),
        )
    done = Counter(row.event_id or "" for row in found.inbox if row.state == "done")
    if done != found.understood:
        wrong.append(f"{sum((done - found.understood).values())} events done and without their reading (state)")
    if found.cases != found.expected:
        differing = [pair for pair in zip(found.cases, found.expected, strict=False) if pair[0] != pair[1]]
        sizes = f"{len(found.cases)} rows, {len(found.expected)} expected"
        wrong.append(
            f"the cases differ from those of the same events in order (order): {sizes}; {differing[:1]!s:.300}"
        )
    if found.outbox:
        wrong.append(f"{found.outbox} changes the index was never told (index)")
    if found.missing or found.orphaned or found.stale:
        wrong.append(
            f"Postgres and the index disagree (index): {found.missing} missing, {found.orphaned} orphaned, "
            f"{found.stale} stale"
        )
    return wrong


def _same(entry: Mapping[str, Any], row: Stored, sent: Sent) -> bool:
    if row.source != sent.source or row.topic != f"{sent.place}/{entry['event_class']}/{sent.source}":
        return False
    if "sha" in entry:
        return hashlib.sha256(row.payload).hexdigest() == entry["sha"]
    # The client for integrators writes the bytes itself: what it was given must be in them, and only what it adds.
    body = json.loads(row.payload)
    return {key: value for key, value in body.items() if key not in ("schema", "sequence")} == entry["body"]
