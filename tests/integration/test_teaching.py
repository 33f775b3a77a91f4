"""What people say about results, on a real Postgres and a real index: kept, heard in later searches, taken back, learnt."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from edge.cases import Case, Casebook, NewCase
from edge.cases.casebook import import_cases
from edge.config import Settings
from edge.dashboard import create_app
from edge.dashboard.accounts import create_account, create_token
from edge.db import Database
from edge.db.database import statements
from edge.embedding import Encoder
from edge.errors import Rejected
from edge.indexing import Indexer
from edge.search import Hit, Question, SearchEngine
from edge.search.fixes import actions
from edge.vectors import EmbeddedStore

ASKED = "compressor stops, oil too hot"
TEXTS = {
    "OIL": "Air compressor trips on high oil temperature",
    "COOLER": "Air compressor gets too hot, its cooler is clogged with dust",
    "POWER": "Compressor stops, main breaker has tripped",
    "SEAL": "Pouch seal is weak on one side",
}


class Floor:
    def __init__(self, settings: Settings, db: Database, index: EmbeddedStore, encoder: Encoder) -> None:
        self.settings, self.db = settings, db
        self.casebook = Casebook(db)
        self.engine = SearchEngine(self.casebook, index, encoder, settings.search)
        at = datetime(2026, 1, 5, tzinfo=UTC)
        with db.transaction() as tx:
            import_cases(
                tx,
                [
                    NewCase(
                        record_id=name, kind="anomaly", type="compressor_fault", severity="medium", origin="import",
                        language="en", description=text, root_cause=None, resolution=f"Mended {name.lower()}",
                        outcome="held", zone_id="UTL-1", occurred_at=at, closed_at=at + timedelta(hours=1),
                    )
                    for name, text in TEXTS.items()
                ],
            )  # fmt: skip
        indexer = Indexer(db, index, encoder)
        indexer.open()
        while indexer.step(64):
            pass

    def case(self, name: str) -> Case:
        found = self.casebook.get(name)
        assert found is not None
        return found

    def hits(self, text: str = ASKED, **how: Any) -> dict[str, Hit]:
        return {hit.case.record_id: hit for hit in self.engine.search(Question(text, **how)).hits}


@pytest.fixture
def floor(settings: Settings, db: Database, tmp_path: Path, encoder: Encoder) -> Iterator[Floor]:
    with EmbeddedStore(tmp_path / "vectors") as index:
        yield Floor(settings, db, index, encoder)
    shutil.rmtree(tmp_path / "vectors")


def test_what_people_say_moves_later_searches_within_bounds_and_can_be_taken_back(floor: Floor) -> None:
    say, before = floor.engine.feedback.say, floor.hits()
    assert next(iter(before)) == "OIL"
    say("nok", "different", floor.case("OIL"), ASKED)
    apart = floor.hits()
    assert apart["OIL"].band == "weak", "held apart"
    assert apart["OIL"].heard is not None
    assert (apart["OIL"].heard.different, apart["OIL"].heard.same) == (1, 0)
    assert apart["COOLER"].score == before["COOLER"].score, "of the others nobody said anything"
    assert floor.hits("  COMPRESSOR stops,  oil too hot ")["OIL"].band == "weak", "another typing of the question"
    assert floor.hits("pouch seal weak")["OIL"].heard is None, "another question"
    assert floor.hits(taught=False)["OIL"].score == before["OIL"].score

    for person in ("lek", "som", "dao"):
        say(person, "helped" if person == "dao" else "same", floor.case("OIL"), ASKED)
    lifted = floor.hits()["OIL"]
    assert lifted.heard is not None
    assert (lifted.heard.same, lifted.heard.helped, lifted.heard.different) == (2, 1, 1)
    assert before["OIL"].score < lifted.score < 1.0

    for person in ("nok", "lek", "som", "dao"):
        floor.engine.feedback.withdraw(person, floor.case("OIL"), ASKED)
    assert floor.hits()["OIL"].score == before["OIL"].score
    words = floor.engine.feedback.words(case=floor.case("OIL"))
    assert [word.said for word in words].count("withdrawn") == 4
    assert len(words) == 8, "nothing that was said is gone"


def test_a_pair_of_cases_stays_apart_in_both_directions_and_in_what_fixed_it(floor: Floor) -> None:
    oil, cooler = floor.case("OIL"), floor.case("COOLER")

    def match(case: Case, other: str) -> Hit:
        return next(hit for hit in floor.engine.similar(case).hits if hit.case.record_id == other)

    assert match(oil, "COOLER").band != "weak", "or there is nothing to hold apart"
    assert "COOLER" in {name for fix in floor.engine.fixes(oil).fixes for name in fix.cases}
    floor.engine.feedback.say("nok", "different", cooler, oil)
    assert match(oil, "COOLER").band == match(cooler, "OIL").band == "weak"
    assert "COOLER" not in {name for fix in floor.engine.fixes(oil).fixes for name in fix.cases}
    assert floor.engine.feedback.mine("nok", [oil.id], cooler) == {oil.id: "different"}
    # Said from the other side it is still one word about one pair: the latest counts.
    floor.engine.feedback.say("nok", "same", oil, cooler)
    heard = match(oil, "COOLER").heard
    assert heard is not None
    assert (heard.same, heard.different) == (1, 0)


def test_people_join_two_fixes_and_part_them_again(floor: Floor) -> None:
    oil, power = floor.case("OIL"), floor.case("POWER")
    floor.engine.feedback.say("nok", "same", power, oil, topic="fix")
    assert floor.engine.feedback.same_fix([oil.id, power.id]) == {frozenset((oil.id, power.id)): True}
    fixes = floor.engine.fixes(Question("compressor stops")).fixes
    together = next(set(fix.cases) for fix in fixes if "OIL" in fix.cases)
    assert "POWER" in together
    floor.engine.feedback.say("nok", "different", oil, power, topic="fix")
    fixes = floor.engine.fixes(Question("compressor stops")).fixes
    assert "POWER" not in next(set(fix.cases) for fix in fixes if "OIL" in fix.cases)
    assert not actions("…")


@pytest.mark.parametrize("about", ["", "  ", "x" * 4_001, "a\x00b"])
def test_words_about_nothing_are_refused(floor: Floor, about: str) -> None:
    with pytest.raises(Rejected, match="needs the question"):
        floor.engine.feedback.say("nok", "same", floor.case("OIL"), about)
    with pytest.raises(Rejected, match="same as itself"):
        floor.engine.feedback.say("nok", "same", floor.case("OIL"), floor.case("OIL"))


def test_no_statement_changes_or_deletes_what_was_said() -> None:
    for name, sql in statements().items():
        words = sql.upper()
        assert "UPDATE FEEDBACK" not in words, name
        assert "DELETE FROM FEEDBACK" not in words, name


def test_the_calibration_learns_from_people_and_keeps_every_version(floor: Floor) -> None:
    engine = floor.engine
    prior = engine.calibrations.current()
    assert prior.origin == "shipped"
    assert engine.calibrate().origin == "shipped", "nobody has said anything yet"
    score = floor.hits()["OIL"].score
    for number in range(12):
        engine.feedback.say("nok", "different", floor.case("OIL"), f"{ASKED} {'!' * number}x{number}")
    learnt = engine.calibrate()
    assert (learnt.origin, learnt.figures is not None and learnt.figures.own) == ("own", 12)
    assert engine.calibrations.current().version == learnt.version
    assert learnt.probability(score) < prior.probability(score), "people here said no at such scores"
    again = engine.calibrate()
    assert again.version is not None
    assert learnt.version is not None
    assert again.version > learnt.version
    assert again.knots == learnt.knots, "a pair is scored without what people said about it: nothing feeds on itself"
    assert all(a <= b for (_, a), (_, b) in zip(again.knots, again.knots[1:], strict=False))


# --- as JSON, and on the pages --------------------------------------------------------------------------------------


def test_a_terminal_says_something_reads_it_and_takes_it_back(floor: Floor) -> None:
    app = create_app(floor.settings, floor.db, floor.casebook, floor.engine)
    tokens = {scope: create_token(floor.db, scope, [scope], 1) for scope in ("read", "write")}
    with TestClient(app) as client:

        def call(method: str, path: str, scope: str = "write", **more: Any) -> Any:
            return client.request(
                method, f"/api/v1/{path}", headers={"Authorization": f"Bearer {tokens[scope]}"}, **more
            )

        body = {"id": "OIL", "question": ASKED, "said": "same"}
        assert call("POST", "feedback", "read", json=body).status_code == 403
        said = call("POST", "feedback", json=body)
        assert said.status_code == 201
        assert (said.json()["actor"], said.json()["said"], said.json()["id"]) == ("token write", "same", "OIL")
        hit = call("POST", "search", "read", json={"text": ASKED}).json()["results"][0]
        assert hit["heard"] == {"same": 1, "different": 0, "helped": 0}
        assert hit["probability"] > 0.5
        gone = call("DELETE", "feedback", params={"id": "OIL", "question": ASKED})
        assert gone.json()["said"] == "withdrawn"
        listed = call("GET", "feedback", "read", params={"id": "OIL"}).json()
        assert [word["said"] for word in listed] == ["withdrawn", "same"]
        assert call("POST", "feedback", json={"id": "OIL", "said": "same"}).status_code == 422
        assert call("POST", "feedback", json={"id": "NONE", "said": "same", "for_id": "OIL"}).status_code == 404
        assert call("POST", "feedback", json=body | {"said": "perhaps"}).status_code == 422
        found = call("GET", "calibration", "read").json()
        assert found["origin"] == "shipped"
        assert found["brier"] < found["brier_of_chance"]
        chances = list(found["probabilities"].values())
        assert chances == sorted(chances)


def test_a_supervisor_presses_a_button_and_undoes_it_with_and_without_htmx(floor: Floor) -> None:
    app = create_app(floor.settings, floor.db, floor.casebook, floor.engine)
    for role in ("viewer", "supervisor"):
        create_account(floor.db, role, "long enough to pass", role)  # type: ignore[arg-type]
    with TestClient(app, headers={"Origin": "http://testserver"}, cookies={"andon_language": "th"}) as client:
        client.post("/sign-in", data={"username": "viewer", "password": "long enough to pass"})
        assert "คนละเรื่อง</button>" not in client.get("/search", params={"q": ASKED}).text, "a viewer only looks"
        form = {"id": "OIL", "question": ASKED, "said": "different", "next": "/search?q=oil"}
        assert client.post("/feedback", data=form).status_code == 403
        client.post("/sign-in", data={"username": "supervisor", "password": "long enough to pass"})
        page = client.get("/search", params={"q": ASKED}).text
        assert "คนละเรื่อง</button>" in page
        assert " ใน 10" in page, "the number behind the word"
        pressed = client.post("/feedback", data=form, headers={"HX-Request": "true"}).text
        assert "<html" not in pressed
        assert pressed.count('aria-pressed="true"') == 1
        assert "1 คนบอกว่าคนละเรื่อง" in pressed
        assert "ยกเลิกคำตอบ" in pressed
        assert 'aria-pressed="true"' in client.get("/search", params={"q": ASKED}).text
        undone = client.post("/feedback", data=form | {"said": "withdrawn"}, follow_redirects=False)
        assert (undone.status_code, undone.headers["location"]) == (303, "/search?q=oil")
        assert 'aria-pressed="true"' not in client.get("/search", params={"q": ASKED}).text
        on_case = client.get("/cases/OIL").text
        assert 'name="for_id" value="OIL"' in on_case
        shown = client.get("/calibration").text
        assert "ผลค้นหาเชื่อได้แค่ไหน" in shown
        assert ASKED in shown
