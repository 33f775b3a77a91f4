"""What a card shows at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from dashboard_parts import live_case, past_case

from edge.cases import Case, Casebook, LiveCase, Match
from edge.dashboard.board import _card
from edge.db import Database
from edge.search.calibration import GENERIC


@pytest.fixture
def cases(db: Database, casebook: Casebook) -> tuple[Case, Case, Case]:
    """One that is live, one whose fix did not hold, one whose fix did."""
    past_case(db, "CAME-BACK", outcome="recurred")
    past_case(db, "HELD", outcome="held")
    back, held = casebook.get("CAME-BACK"), casebook.get("HELD")
    assert back is not None
    assert held is not None
    return live_case(casebook), back, held


def test_the_nearest_case_stands_alone_when_its_fix_held(cases: tuple[Case, Case, Case]) -> None:
    live, back, held = cases
    card = _card(LiveCase(live, (Match(held, 0.9), Match(back, 0.8)), True), GENERIC)
    assert [found.case.record_id for found in card.best] == ["HELD"]
    assert [found.case.record_id for found in card.more] == ["CAME-BACK"]


def test_beside_a_fix_that_did_not_hold_stands_one_that_did(cases: tuple[Case, Case, Case]) -> None:
    live, back, held = cases
    card = _card(
        LiveCase(live, (Match(back, 0.95), Match(replace(back, record_id="AGAIN"), 0.9), Match(held, 0.8)), True),
        GENERIC,
    )
    assert [found.case.record_id for found in card.best] == ["CAME-BACK", "HELD"]
    assert [found.case.record_id for found in card.more] == ["AGAIN"]


def test_what_is_hardly_alike_is_not_offered_as_an_answer(cases: tuple[Case, Case, Case]) -> None:
    live, back, held = cases
    card = _card(LiveCase(live, (Match(held, 0.1), Match(back, 0.05)), True), GENERIC)
    assert not card.best
    assert len(card.more) == 2
