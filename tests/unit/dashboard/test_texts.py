"""What the dashboard says, in both languages."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from jinja2 import Environment, FileSystemLoader, nodes

from edge.cases import KINDS, LANGUAGES, OUTCOMES, SEVERITIES, STATUSES, Zone
from edge.config import resources
from edge.dashboard import jobs_page, urls
from edge.dashboard.accounts import ROLES, SCOPES
from edge.dashboard.choices import PERIODS
from edge.dashboard.problems import CODES
from edge.dashboard.services import NOTICES
from edge.dashboard.teaching import SAYABLE
from edge.dashboard.texts import UI_LANGUAGES, Texts, UiLanguage, read_phrases
from edge.knowledge.library import DOCUMENT_TYPES
from edge.search import BANDS

WEB = resources() / "web"
PHRASES = read_phrases(WEB / "locales")
PYTHON = Path(urls.__file__).parent

#: Families of codes a page names through `label`, and every code that must be translated.
FAMILIES: dict[str, tuple[str, ...]] = {
    "severity": SEVERITIES,
    "status": STATUSES,
    "kind": KINDS,
    "outcome": OUTCOMES,
    "document_type": DOCUMENT_TYPES,
    "language": LANGUAGES,
    "period": tuple(PERIODS),
    "band": tuple(BANDS),
    "shared": ("zone", "line", "area"),
    "by": ("symptom", "cause", "fix", "words"),
    "role": ROLES,
    "role_can": ROLES,
    "scope": SCOPES,
    "origin": ("event", "import", "person"),
    "action": ("opened", "acknowledged", "closed", "reopened", "escalated", "late", "merged"),
    "review": ("going_on", "ended", "unheard"),
    "quarantine_field": ("source", "topic", "reason", "text"),
    "notice": tuple(NOTICES),
    "error": tuple({*CODES.values(), *(f"{code}_hint" for code in CODES.values())}),
    "filter_name": ("kind", "zone", "severity", "outcome", "language", "period"),
    "filter.any": ("kind", "zone", "severity", "outcome", "language", "period"),
    "stage": ("mqtt", "inbox", "analytics", "outbox", "embedding", "qdrant", "search", "dashboard"),
    "state": ("ok", "late", "stuck", "off"),
    "check": ("database", "inbox", "outbox", "search", "quarantine"),
    "said": (*SAYABLE, "withdrawn"),
    "calibrated": ("generic", "shipped", "prior", "own"),
    "nav": ("board", "search", "history"),
    "type": (
        "report",
        "excessive_idle",
        "ppe_missing",
        "zone_crowded",
        "zone_empty",
        "camera_fault",
        "camera_alert",
        "system_fault",
        "micro_stops",
        "slow_cycle",
        "fast_cycle",
        "slow_step",
        "sequence_deviation",
    ),
    "standard_origin": ("plant", "written", "recorded"),
    "job": ("etl", "behaviors", "calibrate", "snapshot", "reconcile", "optimize", "tidy", "outcomes"),
    "swept": jobs_page.COUNTS,
}


def texts(language: UiLanguage) -> Texts:
    return Texts(language, PHRASES[language], lambda: ZoneInfo("Asia/Bangkok"))


def calls() -> Iterator[tuple[str, str, nodes.Call]]:
    """Every call of `t` and `label` in the templates."""
    environment = Environment(loader=FileSystemLoader(WEB / "templates"), autoescape=True)
    for name in environment.list_templates():
        source = (WEB / "templates" / name).read_text("utf-8")
        for call in environment.parse(source).find_all(nodes.Call):
            if isinstance(call.node, nodes.Name) and call.node.name in ("t", "label"):
                yield name, call.node.name, call


def test_both_languages_have_the_same_phrases_with_the_same_blanks() -> None:
    assert PHRASES["th"].keys() == PHRASES["en"].keys()
    for key, english in PHRASES["en"].items():
        blanks = [
            {name for _, name, _, _ in string.Formatter().parse(text) if name} for text in (english, PHRASES["th"][key])
        ]
        assert blanks[0] == blanks[1], key


def test_no_phrase_is_empty_or_left_in_the_other_language() -> None:
    for key, phrase in PHRASES["th"].items():
        assert phrase.strip(), key
    thai = {key for key, phrase in PHRASES["en"].items() if any("\u0e00" <= letter <= "\u0e7f" for letter in phrase)}
    assert thai == {
        "app.other_language",
        "app.switch_language",
        "search.example_1",
        "search.example_3",
        "search.example_5",
    }


def test_templates_use_only_phrases_that_exist() -> None:
    for name, function, call in calls():
        first = call.args[0]
        assert isinstance(first, nodes.Const), f"{name}: {function}() needs a literal, so that this test can read it"
        if function == "t":
            assert first.value in PHRASES["en"], f"{name}: {first.value}"
            blanks = {blank for _, blank, _, _ in string.Formatter().parse(PHRASES["en"][first.value]) if blank}
            given = {keyword.key for keyword in call.kwargs}
            assert call.dyn_kwargs or blanks <= given, f"{name}: {first.value} needs {blanks - given}"
        else:
            assert first.value in FAMILIES, f"{name}: the family {first.value} is not checked by this test"


def test_every_phrase_is_used() -> None:
    used = {
        call.args[0].value for _, function, call in calls() if function == "t" and isinstance(call.args[0], nodes.Const)
    }
    source = "".join(file.read_text("utf-8") for file in PYTHON.glob("*.py"))
    for key in PHRASES["en"]:
        family = key.rpartition(".")[0]
        assert key in used or f'"{key}"' in source or family in FAMILIES or family == "ago", f"nobody says {key}"


@pytest.mark.parametrize("language", UI_LANGUAGES)
def test_every_code_has_a_word(language: UiLanguage) -> None:
    for family, codes in FAMILIES.items():
        missing = [code for code in codes if f"{family}.{code}" not in PHRASES[language]]
        assert not missing, f"{family}: {missing}"


@pytest.mark.parametrize("language", UI_LANGUAGES)
def test_every_type_of_the_sample_history_has_a_word(language: UiLanguage) -> None:
    types = set()
    for file in (resources() / "etc/sample/history").glob("*.jsonl"):
        types |= {json.loads(line)["type"] for line in file.read_text("utf-8").splitlines() if line.strip()}
    assert types
    assert not {kind for kind in types if f"type.{kind}" not in PHRASES[language]}


def test_a_type_nobody_translated_is_still_readable() -> None:
    assert texts("th").label("type", "laser_misaligned") == "Laser misaligned"


def test_dates_are_written_as_people_write_them() -> None:
    moment = datetime(2026, 11, 21, 7, 5, tzinfo=UTC)
    assert texts("th").when(moment) == "21 พ.ย. 2569 14:05"
    assert texts("en").when(moment) == "21 Nov 2026 14:05"


def test_a_day_is_the_plants_day() -> None:
    assert texts("en").day(datetime(2026, 11, 21, 20, 0, tzinfo=UTC)) == "22 Nov 2026"


@pytest.mark.parametrize(
    ("before", "thai", "english"),
    [
        (timedelta(seconds=-30), "เมื่อสักครู่", "just now"),
        (timedelta(seconds=59), "เมื่อสักครู่", "just now"),
        (timedelta(minutes=1), "1 นาทีที่แล้ว", "1 minute ago"),
        (timedelta(minutes=3, seconds=50), "3 นาทีที่แล้ว", "3 minutes ago"),
        (timedelta(hours=5), "5 ชั่วโมงที่แล้ว", "5 hours ago"),
        (timedelta(days=1), "1 วันที่แล้ว", "1 day ago"),
        (timedelta(days=70), "2 เดือนที่แล้ว", "2 months ago"),
        (timedelta(days=800), "2 ปีที่แล้ว", "2 years ago"),
    ],
)
def test_how_long_ago(before: timedelta, thai: str, english: str) -> None:
    now = datetime(2026, 11, 21, 7, 5, tzinfo=UTC)
    assert texts("th").ago(now - before, now) == thai
    assert texts("en").ago(now - before, now) == english


def test_a_place_does_not_repeat_itself() -> None:
    zone = Zone(
        "ASM-1",
        "assembly",
        "line-1",
        "cell-1",
        "ประกอบ ไลน์ 1 สถานีขันสกรู",
        "Assembly line 1, screwdriving",
        "ประกอบ",
        "Assembly",
    )
    thai, english = texts("th"), texts("en")
    assert (thai.area(zone), thai.line(zone), thai.zone(zone)) == ("ประกอบ", "ไลน์ 1", "สถานีขันสกรู")
    assert (english.area(zone), english.line(zone), english.zone(zone)) == ("Assembly", "Line 1", "Screwdriving")


def test_only_the_same_text_is_100_percent() -> None:
    assert texts("en").percent(0.999) == "99%"
    assert texts("en").percent(1.0) == "100%"


@pytest.mark.parametrize(
    "path",
    ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "", "/a b", "/\n/x", "\\\\x"],
)
def test_nobody_is_led_away_after_signing_in(path: str) -> None:
    assert urls.local(path) == "/"


@pytest.mark.parametrize("path", ["/", "/cases/A-1?use=B#close", "/search?q=%E0%B8%AA"])
def test_one_comes_back_to_where_one_was(path: str) -> None:
    assert urls.local(path) == path


def test_a_record_id_may_hold_anything() -> None:
    assert urls.case("A/B ก?#", "close") == "/cases/A%2FB%20%E0%B8%81%3F%23/close"
