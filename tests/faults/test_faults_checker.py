"""The checker itself: a history in which something was lost, doubled, invented or changed must not pass."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from faultlab import entry
from faultlab.checker import Found, Sent, Stored, check

PLACE = "andon/demo/assembly/line-2/cell-1"


def good() -> tuple[Sent, Found]:
    """Four events of one source, the third unreadable: all receipted, all there."""
    journal: list[dict[str, Any]] = []
    inbox = []
    for number in range(4):
        poison = number == 2
        identity = f"s-{number}"
        payload = b"{" if poison else json.dumps({"id": identity, "sequence": number}).encode()
        sha = hashlib.sha256(payload).hexdigest()
        journal.append({"e": "invoke", "id": identity, "event_class": "report", "sha": sha, "poison": poison})
        journal.append({"e": "receipt", "id": identity})
        inbox.append(Stored("s", identity, f"{PLACE}/report/s", payload, "quarantined" if poison else "done"))
    cases = [("report", 1), ("report", 2)]
    understood = Counter(row.event_id or "" for row in inbox if row.state == "done")
    return Sent.of("s", PLACE, journal), Found(inbox, understood, {"s": 1}, cases, list(cases))


def test_a_kept_promise_passes() -> None:
    sent, found = good()
    assert check([sent], found) == []


def test_what_was_asked_for_and_never_receipted_may_be_missing() -> None:
    sent, found = good()
    sent.invoked["s-4"] = {"event_class": "report", "sha": "", "poison": True}
    assert check([sent], found) == []


def _lose(sent: Sent, found: Found) -> None:
    del found.inbox[1]


def _lose_spooled(sent: Sent, found: Found) -> None:
    sent.kept.add("s-9")


def _never_receipt(sent: Sent, found: Found) -> None:
    sent.kept.add("s-1")
    sent.receipted.discard("s-1")


def _double(sent: Sent, found: Found) -> None:
    found.inbox.append(found.inbox[0])


def _invent(sent: Sent, found: Found) -> None:
    found.inbox.append(replace(found.inbox[0], event_id="s-77"))


def _change(sent: Sent, found: Found) -> None:
    found.inbox[0] = replace(found.inbox[0], payload=found.inbox[0].payload + b" ")


def _misplace(sent: Sent, found: Found) -> None:
    found.inbox[0] = replace(found.inbox[0], topic=f"{PLACE}/camera/s")


def _leave_pending(sent: Sent, found: Found) -> None:
    found.inbox[3] = replace(found.inbox[3], state="pending")


def _believe_poison(sent: Sent, found: Found) -> None:
    found.inbox[2] = replace(found.inbox[2], state="done")


def _skip_reading(sent: Sent, found: Found) -> None:
    del found.understood["s-0"]


def _miscount(sent: Sent, found: Found) -> None:
    found.gaps = {"s": 0}


def _fold_wrongly(sent: Sent, found: Found) -> None:
    found.cases = [("report", 1), ("report", 3)]


def _forget_in_index(sent: Sent, found: Found) -> None:
    found.missing = 1


def _leave_outbox(sent: Sent, found: Found) -> None:
    found.outbox = 1


@pytest.mark.parametrize(
    ("harm", "word"),
    [
        (_lose, "(lost)"), (_lose_spooled, "(lost)"), (_never_receipt, "never receipted"), (_double, "(twice)"),
        (_invent, "(invented)"), (_change, "(changed)"), (_misplace, "(changed)"), (_leave_pending, "(state)"),
        (_believe_poison, "(state)"), (_skip_reading, "(state)"), (_miscount, "(gap)"), (_fold_wrongly, "(order)"),
        (_forget_in_index, "(index)"), (_leave_outbox, "(index)"),
    ],
)  # fmt: skip
def test_a_broken_promise_is_seen(harm: Callable[[Sent, Found], None], word: str) -> None:
    sent, found = good()
    harm(sent, found)
    assert any(word in each for each in check([sent], found))


def test_every_point_lies_in_the_product() -> None:
    from edge.db.database import statements

    for point in entry.POINTS.values():
        entry.owner_of(point.target)
        assert not point.statement or point.statement in statements(), point
