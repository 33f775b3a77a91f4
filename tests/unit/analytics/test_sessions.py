"""Sessions, cycles and time logs: the rules one by one, and that order and repeats change nothing."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.analytics.model import Observation
from edge.analytics.sessions import Rules, sessionize

BANGKOK = Rules(ZoneInfo("Asia/Bangkok"))
NINE = datetime(2026, 3, 2, 2, 0, tzinfo=UTC)  # 09:00 in Bangkok, in the shift of 06:00
LATER = NINE + timedelta(days=3)


def event(minute: float, kind: str, zone: str = "ASM-1", worker: str | None = "W-1", **body: Any) -> Observation:
    at = NINE + timedelta(minutes=minute)
    source = worker or "cam-1"
    return Observation(
        at, kind if "/" in kind else f"worker/{kind}", source, f"{source}-{kind}-{zone}-{minute}-{body}", zone, None, worker,
        body, int(minute * 10) + 1,
    )  # fmt: skip


def test_a_session_from_start_to_end_with_its_cycles() -> None:
    made = sessionize(
        "W-1",
        [
            event(0, "session_start", product_type="pump"),
            event(1, "step", step="pick", seconds=20),
            event(2, "step", step="fit"),
            event(2.5, "index", index_number=7),
            event(4, "step", step="pick", seconds=15),
            event(5, "index", index_number=8, seconds=140),
            event(6, "session_end"),
        ],
        BANGKOK,
        now=LATER,
    )
    [session] = made
    assert (session.start_seen, session.end_seen, session.ended, session.product_type) == (True, True, True, "pump")
    assert session.seconds == 360
    first, second = session.cycles
    assert [(step.name, step.seconds) for step in first.steps] == [("pick", 20), ("fit", 60)]
    assert (first.index_number, first.seconds) == (7, 110)  # from 40 s, where its first step began
    assert (second.index_number, second.seconds) == (8, 140)


def test_a_missing_end_ends_with_the_last_event() -> None:
    made = sessionize("W-1", [event(0, "step", step="a"), event(50, "step", step="b")], BANGKOK, now=LATER)
    assert [(one.seconds, one.ended, one.start_seen, one.end_seen) for one in made] == [(0, True, False, False)] * 2


def test_a_long_interval_is_no_silence() -> None:
    [session] = sessionize("W-1", [event(0, "step", step="a"), event(50, "idle", seconds=2_900)], BANGKOK, now=LATER)
    assert session.idle_seconds == 2_900


def test_what_may_still_go_on_has_not_ended() -> None:
    seen = [event(0, "session_start"), event(5, "step", step="a")]
    assert not sessionize("W-1", seen, BANGKOK, now=NINE + timedelta(minutes=20))[0].ended
    assert sessionize("W-1", seen, BANGKOK, now=NINE + timedelta(minutes=36))[0].ended


def test_a_second_start_and_another_zone_end_what_was_open() -> None:
    made = sessionize(
        "W-1",
        [
            event(0, "session_start"),
            event(5, "step", step="a"),
            event(9, "session_start"),
            event(12, "step", "CNC-1", step="b"),
        ],
        BANGKOK,
        now=LATER,
    )
    assert [(one.zone_id, one.seconds) for one in made] == [("ASM-1", 300), ("ASM-1", 0), ("CNC-1", 0)]


def test_a_session_never_crosses_a_shift() -> None:
    # 13:50 to 14:10 in Bangkok.
    made = sessionize("W-1", [event(290 + n, "step", step="a", seconds=60) for n in range(21)], BANGKOK, now=LATER)
    assert [(one.shift.number, one.continued) for one in made] == [(1, False), (2, True)]
    assert made[1].started_at == made[1].shift.start
    assert made[0].shift.end == made[1].shift.start


def test_the_night_shift_belongs_to_the_day_it_began() -> None:
    night = NINE + timedelta(hours=17)  # 02:00 the next day
    shift = BANGKOK.shift(night)
    assert (shift.day.isoformat(), shift.number) == ("2026-03-02", 3)


def test_overlapping_intervals_count_once_and_active_wins() -> None:
    [session] = sessionize(
        "W-1",
        [
            event(0, "session_start"),
            event(10, "active", seconds=300),  # 5 to 10
            event(12, "active", seconds=300),  # 7 to 12
            event(14, "idle", seconds=300),  # 9 to 14
            event(14, "camera/idle", seconds=120),
            event(20, "session_end"),
        ],
        BANGKOK,
        now=LATER,
    )
    assert (session.active_seconds, session.idle_seconds) == (420, 120)
    [hour] = session.hours
    assert (hour.hour, hour.active_seconds) == (NINE, 420)


def test_a_repeated_index_is_one_cycle_and_leftover_steps_make_an_incomplete_one() -> None:
    [session] = sessionize(
        "W-1",
        [
            event(0, "session_start"),
            event(1, "step", step="a"),
            event(2, "index", index_number=1),
            event(2.1, "index", index_number=1),
            event(3, "step", step="a"),
        ],
        BANGKOK,
        now=LATER,
    )
    assert [(one.index_number, one.complete) for one in session.cycles] == [(1, True), (None, False)]


def test_motion_of_the_zone_meanwhile() -> None:
    seen = [event(0, "session_start"), event(10, "session_end")]
    seen += [
        event(minute, "camera/motion", worker=None, score=score) for minute, score in ((2, 0.4), (4, 0.8), (11, 0))
    ]
    [session] = sessionize("W-1", seen, BANGKOK, now=LATER)
    assert session.motion == pytest.approx(0.6)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Bangkok", "America/New_York"])
def test_every_moment_is_in_exactly_one_shift_also_when_clocks_change(zone: str) -> None:
    rules = Rules(ZoneInfo(zone))
    at = datetime(2026, 3, 27, tzinfo=UTC)
    while at < datetime(2026, 3, 31, tzinfo=UTC):
        shift = rules.shift(at)
        assert shift.start <= at < shift.end
        assert rules.shift(shift.end).start == shift.end
        at += timedelta(minutes=17)


kinds = st.sampled_from(["session_start", "session_end", "step", "index", "active", "idle", "camera/motion"])


@st.composite
def events(draw: st.DrawFn) -> Observation:
    kind = draw(kinds)
    # A grid, so that events at the same time are common.
    minute = draw(st.integers(0, 120)) * 5.0
    body: dict[str, Any] = {}
    if kind == "step":
        body["step"] = draw(st.sampled_from("abc"))
    if kind == "index":
        body["index_number"] = draw(st.integers(0, 3))
    if kind in ("active", "idle"):
        body["seconds"] = draw(st.integers(0, 3_000))
    if kind == "camera/motion":
        return event(minute, kind, draw(st.sampled_from(["A", "B"])), None, score=draw(st.floats(0, 1)))
    return event(minute, kind, draw(st.sampled_from(["A", "B"])), **body)


@settings(max_examples=200, deadline=None)
@given(st.lists(events(), max_size=40), st.randoms(use_true_random=False))
def test_order_and_repeats_change_nothing(seen: list[Observation], chance: random.Random) -> None:
    expected = sessionize("W-1", seen, BANGKOK, now=LATER)
    shuffled = [*seen, *chance.sample(seen, len(seen) // 2)]
    chance.shuffle(shuffled)
    assert sessionize("W-1", shuffled, BANGKOK, now=LATER) == expected


@settings(max_examples=200, deadline=None)
@given(st.lists(events(), max_size=40))
def test_a_worker_is_in_one_place_at_a_time_and_every_event_in_one_session(seen: list[Observation]) -> None:
    made = sessionize("W-1", seen, BANGKOK, now=LATER)
    for session in made:
        assert session.shift.start <= session.started_at <= session.ended_at < session.shift.end
        assert 0 <= session.active_seconds + session.idle_seconds <= session.seconds + 1e-6
        assert sum(hour.active_seconds for hour in session.hours) == pytest.approx(session.active_seconds)
        assert sum(hour.cycles for hour in session.hours) == sum(cycle.complete for cycle in session.cycles)
        for cycle in session.cycles:
            assert session.started_at <= cycle.started_at <= cycle.ended_at <= session.ended_at
    for earlier, later in pairwise(made):
        assert earlier.ended_at <= later.started_at
    own = {one.event_id for one in seen if one.worker_id}
    assert sum(len(session.refs) for session in made) == len(own)


@settings(max_examples=100, deadline=None)
@given(st.lists(events(), max_size=40))
def test_shifts_can_be_done_one_by_one(seen: list[Observation]) -> None:
    whole = sessionize("W-1", seen, BANGKOK, now=LATER)
    parts = []
    for start in sorted({BANGKOK.shift(one.at).start for one in seen}):
        parts += sessionize("W-1", [one for one in seen if BANGKOK.shift(one.at).start == start], BANGKOK, now=LATER)
    # Only whether a session continues another one is seen from both sides of the border.
    assert [(one.started_at, one.ended_at, one.cycles) for one in parts] == [
        (one.started_at, one.ended_at, one.cycles) for one in whole
    ]
