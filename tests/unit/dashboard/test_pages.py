"""Pages as a browser gets them, on a real database."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from dashboard_parts import PASSWORD, ToldSearch, live_case, past_case
from fastapi import FastAPI
from fastapi.testclient import TestClient

from edge import outbound
from edge.analytics import Interpreter
from edge.cases import Casebook
from edge.cases.outcome import recurred
from edge.config import Settings
from edge.contract import Limits
from edge.dashboard import accounts, create_app
from edge.dashboard.accounts import Role
from edge.db import Database
from edge.errors import Unavailable
from edge.intake import Arrival, store

SignIn = Callable[[Role], TestClient]

PAGES = ("/", "/search", "/history", "/report", "/quarantine", "/health", "/account", "/people", "/knowledge")


def revision(page: str) -> str:
    found = re.search(r'name="revision" value="([0-9a-f]+)"', page)
    assert found
    return found[1]


@pytest.mark.parametrize("path", PAGES)
def test_nobody_reads_without_signing_in_and_comes_back_afterwards(nobody: TestClient, path: str) -> None:
    answer = nobody.get(path)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/sign-in")
    assert nobody.get(answer.headers["location"]).status_code == 200


@pytest.mark.parametrize(
    ("role", "closed"),
    [
        ("viewer", {"/report", "/quarantine", "/people"}),
        ("supervisor", {"/quarantine", "/people"}),
        ("engineer", {"/people"}),
        ("admin", set()),
    ],
)
def test_each_role_has_its_pages(sign_in: SignIn, role: Role, closed: set[str]) -> None:
    client = sign_in(role)
    for path in PAGES:
        answer = client.get(path)
        assert answer.status_code == (403 if path in closed else 200), path
        assert "Traceback" not in answer.text


def test_a_viewer_can_change_nothing(sign_in: SignIn, casebook: Casebook) -> None:
    client = sign_in("viewer")
    case = live_case(casebook)
    page = client.get(f"/cases/{case.record_id}").text
    assert 'method="post" action="/cases/' not in page
    for action in ("acknowledge", "close", "reopen"):
        answer = client.post(f"/cases/{case.record_id}/{action}", data={"root_cause": "x", "resolution": "y"})
        assert answer.status_code == 403
    assert client.post("/report", data={"text": "x", "zone": "ASM-1"}).status_code == 403
    found = casebook.get(case.record_id)
    assert found is not None
    assert found.status == "open"


def test_what_people_typed_is_shown_and_never_run(sign_in: SignIn, casebook: Casebook) -> None:
    client = sign_in("supervisor")
    case = live_case(casebook, text='<script>alert(1)</script> "quoted" & more')
    for path in ("/", f"/cases/{case.record_id}", "/search?q=<script>alert(1)</script>"):
        page = client.get(path).text
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_the_board_answers_204_until_something_changes(sign_in: SignIn, casebook: Casebook) -> None:
    client = sign_in("supervisor")
    seen = revision(client.get("/").text)
    still = client.get("/board", params={"revision": seen})
    # The minute may have turned in between; then it says so and goes quiet again.
    if still.status_code == 200:
        seen = revision(still.text)
        still = client.get("/board", params={"revision": seen})
    assert still.status_code == 204
    live_case(casebook, text="มอเตอร์ร้อนจัด")
    client.app.state.services.changed()  # type: ignore[attr-defined]
    fresh = client.get("/board", params={"revision": seen})
    assert fresh.status_code == 200
    assert "มอเตอร์ร้อนจัด" in fresh.text
    assert "<html" not in fresh.text


def test_first_paint_and_refresh_come_from_one_template(sign_in: SignIn, casebook: Casebook) -> None:
    client = sign_in("supervisor")
    live_case(casebook)
    cards = re.compile(r'<div class="cards".*?</article>', re.DOTALL)
    page, fragment = cards.search(client.get("/").text), cards.search(client.get("/board").text)
    assert page
    assert fragment
    assert page[0] == fragment[0]


def test_what_the_appliance_found_is_told_in_the_readers_language_and_people_in_their_own(
    sign_in: SignIn, db: Database, settings: Settings, casebook: Casebook
) -> None:
    client = sign_in("supervisor")
    live_case(casebook, text="มอเตอร์ร้อนจัด")
    body = b'{"id": "i-1", "kind": "idle", "seconds": 640}'
    store(db, [Arrival("mqtt", "andon/demo/assembly/line-1/cell-1/camera/cam-asm-1", body)], Limits())
    while Interpreter(settings, db).step():
        pass
    (found,) = (card.case for card in casebook.board() if card.case.type == "excessive_idle")
    assert found.language == "th"
    pages = ("/", f"/cases/{found.record_id}")
    for language, words in (("th", "งานหยุดไป 11 นาที"), ("en", "Work stood still for 11 min")):
        client.cookies.set("andon_language", language)
        for path in pages:
            page = client.get(path).text
            assert re.search(rf'<h[12] class="[a-z]+-what" lang="{language}">(<a [^>]*>)?{words}', page), (
                path,
                language,
            )
        assert "มอเตอร์ร้อนจัด" in client.get("/").text
    # Closed, and beside another case: there, too.
    casebook.close(found, actor="somchai", root_cause="No material", resolution="Called the warehouse", outcome="held")
    assert "Work stood still for 11 min" in client.get("/history").text


def test_the_board_can_be_narrowed_to_an_area(sign_in: SignIn, casebook: Casebook) -> None:
    client = sign_in("viewer")
    live_case(casebook, text="in assembly", zone_id="ASM-3")
    live_case(casebook, text="in the warehouse", zone_id="WH-1")
    page = client.get("/", params={"area": "warehouse"}).text
    assert "in the warehouse" in page
    assert "in assembly" not in page
    assert "in assembly" in client.get("/", params={"area": "no-such-area"}).text


def test_a_quiet_board_says_so(sign_in: SignIn) -> None:
    assert "Nothing is open" in sign_in("viewer").get("/").text


def test_a_wall_screen_may_read_the_open_board_and_nothing_else(
    settings: Settings, db: Database, casebook: Casebook, told: ToldSearch
) -> None:
    opened = settings.model_copy(update={"web": settings.web.model_copy(update={"open_board": True})})
    live_case(casebook, text="on the wall")
    app = create_app(opened, db, casebook, told)  # type: ignore[arg-type]
    with TestClient(app, follow_redirects=False) as client:
        assert "on the wall" in client.get("/").text
        assert client.get("/board").status_code == 200
        assert client.get("/search").status_code == 303
        assert client.get("/history").status_code == 303


def test_a_case_is_taken_closed_and_reopened(sign_in: SignIn, db: Database, casebook: Casebook) -> None:
    client = sign_in("engineer")
    past_case(db, "ASM-2025-001")
    case = live_case(casebook)
    url = f"/cases/{case.record_id}"
    assert client.post(f"{url}/acknowledge").headers["location"] == f"{url}?done=acknowledged"
    again = client.post(f"{url}/acknowledge")
    assert again.status_code == 422
    assert "not open any more" in again.text

    form = client.get(url, params={"use": "ASM-2025-001"}).text
    assert "Dust on the sensor</textarea>" in form
    assert "Cleaned the lens</textarea>" in form

    empty = client.post(f"{url}/close", data={"root_cause": " ", "resolution": "kept while correcting"})
    assert empty.status_code == 422
    assert "kept while correcting" in empty.text

    words = {"root_cause": "เซ็นเซอร์หลวม", "resolution": "ขันให้แน่น", "outcome": "held"}
    assert client.post(f"{url}/close", data=words).status_code == 303
    closed = casebook.get(case.record_id)
    assert closed is not None
    assert (closed.status, closed.closed_by, closed.outcome) == ("closed", "engineer", "held")
    assert "ขันให้แน่น" in client.get(url).text
    assert "ขันให้แน่น" in client.get("/history").text

    assert client.post(f"{url}/reopen").status_code == 303
    assert [entry.action for entry in casebook.log(closed)] == ["opened", "acknowledged", "closed", "reopened"]


def test_a_case_shows_what_it_costs_and_becomes_an_incident(sign_in: SignIn, db: Database, casebook: Casebook) -> None:
    client = sign_in("supervisor")
    case = live_case(casebook, type="excessive_idle")
    with db.transaction() as tx:
        for seconds, workers in ((600.0, 2), (300.0, 1)):
            tx.run(
                "finding_put",
                case_id=case.id, detector="idle", type=case.type, severity="high", at=case.occurred_at,
                reason_th="งานหยุดนาน 10 นาที", reason_en="Work stood still for 10 min", zone_id="ASM-3",
                seconds_lost=seconds, workers_affected=workers, productivity_loss=0.3,
            )  # fmt: skip
    page = client.get(f"/cases/{case.record_id}").text
    assert "Work stood still for 10 min" in page
    for words in ("15 min", "2 workers affected", "30% less output"):
        assert words in page
        assert words in client.get("/").text
    client.cookies.set("andon_language", "th")
    assert "งานหยุดนาน 10 นาที" in client.get(f"/cases/{case.record_id}").text
    done = client.post(f"/cases/{case.record_id}/incident")
    assert done.headers["location"] == f"/cases/{case.record_id}?done=incident"
    assert client.post(f"/cases/{case.record_id}/incident").status_code == 422
    changed = casebook.get(case.record_id)
    assert changed is not None
    assert changed.kind == "incident"
    assert sign_in("viewer").post(f"/cases/{case.record_id}/incident").status_code == 403


def test_a_page_says_whether_a_fix_held_and_takes_a_persons_word(
    sign_in: SignIn, db: Database, casebook: Casebook
) -> None:
    client = sign_in("supervisor")
    case, back = live_case(casebook), live_case(casebook, "กลับมาอีก")
    url = f"/cases/{case.record_id}"
    casebook.close(case, actor="malee", root_cause="x", resolution="y", outcome="unknown")
    assert "Watched for 30 days" in client.get(url).text
    with db.transaction() as tx:
        assert recurred(tx, case.id, back.id, back.record_id)
    page = client.get(url).text
    assert page.count(f'href="/cases/{back.record_id}"') >= 2, "beside the outcome and in the timeline"
    assert client.post(f"{url}/outcome", data={"outcome": "perhaps"}).status_code == 422
    assert client.post(f"{url}/outcome", data={"outcome": "held"}).status_code == 303
    page = client.get(url).text
    assert "Confirmed by supervisor." in page
    with db.transaction() as tx:
        assert not recurred(tx, case.id, back.id, back.record_id)


def test_what_a_webhook_did_not_take_is_seen_and_sent_again(sign_in: SignIn, db: Database, casebook: Casebook) -> None:
    outbound.add(db, "mes", "http://10.1.2.3/andon?key=geheim", internal=True, plain=True)
    live_case(casebook)
    with db.transaction() as tx:
        (row,) = tx.all("delivery_claim", each=1, limit=1, lease=0)
        which = {"webhook_id": row["webhook_id"], "outbound_id": row["outbound_id"]}
        tx.run("delivery_failed", error="It answered 500.", dead=True, seconds=0, **which)
    client = sign_in("engineer")
    page = client.get("/health").text
    assert "It answered 500." in page
    assert "1 not delivered" in page
    assert "geheim" not in page
    assert sign_in("supervisor").post("/health/webhooks", data={"name": "mes"}).status_code == 403
    assert client.post("/health/webhooks", data={"name": "mes"}).status_code == 303
    assert outbound.dead(db) == []


def test_a_person_reports_in_one_sentence(sign_in: SignIn, casebook: Casebook) -> None:
    client = sign_in("supervisor")
    assert client.post("/report", data={"text": "", "zone": "ASM-1"}).status_code == 422
    lost = client.post("/report", data={"text": "ซองรั่ว", "zone": ""})
    assert lost.status_code == 422
    assert "ซองรั่ว</textarea>" in lost.text, "what was typed must not be lost"
    done = client.post("/report", data={"text": "ซองรั่ว", "zone": "PKG-1", "severity": "high"})
    assert done.status_code == 303
    (live,) = casebook.board()
    assert (live.case.description, live.case.language, live.case.severity) == ("ซองรั่ว", "th", "high")
    assert live.case.zone_id == "PKG-1"


def test_without_the_index_board_and_cases_still_work(
    sign_in: SignIn, db: Database, casebook: Casebook, told: ToldSearch
) -> None:
    client = sign_in("supervisor")
    past_case(db, "ASM-2025-001")
    case = live_case(casebook)
    told.down = "The index does not answer: it is being rebuilt."
    assert client.get("/").status_code == 200
    for path in (f"/cases/{case.record_id}", "/search?q=belt", "/health"):
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert told.down in answer.text, path
    assert client.get("/readyz").status_code == 200
    assert client.get("/readyz").json()["checks"]["search"]["reason"] == told.down


def test_without_the_database_a_page_says_so_in_words(
    sign_in: SignIn, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = sign_in("viewer")

    def away() -> None:
        raise Unavailable("PostgreSQL does not answer: it is restarting.")

    monkeypatch.setattr(db, "transaction", away)
    page = client.get("/")
    assert page.status_code == 503
    assert "PostgreSQL does not answer" in page.text
    assert page.headers["retry-after"]
    assert client.get("/livez").status_code == 200
    ready = client.get("/readyz")
    assert ready.status_code == 503
    assert not ready.json()["checks"]["database"]["ok"]
    answer = client.get("/api/v1/status")
    assert answer.headers["content-type"] == "application/problem+json"
    assert client.get("/metrics").text.count("edge_database_up 0.0") == 1


def test_nothing_alike_is_said_plainly(sign_in: SignIn, db: Database, told: ToldSearch) -> None:
    client = sign_in("viewer")
    past_case(db, "ASM-2025-001")
    told.score = 0.2
    page = client.get("/search", params={"q": "fireworks"}).text
    assert "Nothing clearly like this in the history" in page
    told.score = 0.9
    page = client.get("/search", params={"q": "belt"}).text
    assert "Probably the same problem" in page
    assert "9 in 10" in page


def test_filters_of_an_address_reach_the_search(sign_in: SignIn, told: ToldSearch) -> None:
    client = sign_in("viewer")
    query = {
        "q": "belt", "zone": "area:assembly", "severity": "high", "language": "en", "outcome": "held",
        "kind": "nonsense", "period": "week",
    }  # fmt: skip
    page = client.get("/search", params=query)
    filters = next(question for question in told.asked if not question.collections).filters
    assert set(filters.zone_ids) == {"ASM-1", "ASM-2", "ASM-3"}
    assert (filters.severities, filters.languages, filters.outcomes) == (("high",), ("en",), ("held",))
    assert filters.kinds == ()
    assert filters.since is not None
    assert '<option value="area:assembly" selected>' in page.text


def test_htmx_gets_the_results_alone_and_a_session_that_ended_leads_to_the_door(
    sign_in: SignIn, nobody: TestClient
) -> None:
    part = sign_in("viewer").get("/search", params={"q": "belt"}, headers={"HX-Request": "true"})
    assert "<html" not in part.text
    assert "HX-Request" in part.headers["vary"]
    ended = nobody.get("/search", params={"q": "belt"}, headers={"HX-Request": "true"})
    assert ended.status_code == 401
    assert ended.headers["hx-redirect"].startswith("/sign-in?next=")


def test_the_history_pages_without_repeating_or_skipping(sign_in: SignIn, db: Database) -> None:
    client = sign_in("viewer")
    for number in range(65):
        past_case(db, f"OLD-{number:03}", description=f"case {number}")
    seen: list[str] = []
    path: str | None = "/history"
    while path:
        page = client.get(path).text
        seen += re.findall(r'href="/cases/(OLD-\d+)"', page)
        following = re.search(r'href="(/history\?before=[^"]+)"', page)
        path = following[1].replace("&amp;", "&") if following else None
    assert sorted(seen) == [f"OLD-{number:03}" for number in range(65)]
    assert client.get("/history", params={"before": "rubbish"}).status_code == 200


def test_the_quarantine_shows_reason_and_bytes_and_tries_again(sign_in: SignIn, db: Database) -> None:
    client = sign_in("engineer")
    topic = "andon/demo/assembly/line-1/cell-1/report/hand"
    store(
        db,
        [Arrival("mqtt", topic, b"\xff\xfe<b>"), Arrival("mqtt", topic, b'{"text": "x"'), Arrival("mqtt", topic, b"")],
        Limits(),
    )
    with db.transaction() as tx:
        for row in tx.all("inbox_claim", limit=10):
            tx.run("quarantine_put", inbox_id=row["id"], reason="It is <not> JSON.")
            tx.run("inbox_settle", id=row["id"], state="quarantined")
    page = client.get("/quarantine").text
    assert "ff fe 3c 62 3e" in page
    assert "{&#34;text&#34;: &#34;x&#34;" in page
    assert "It is &lt;not&gt; JSON." in page
    number = re.findall(r"/quarantine/(\d+)/release", page)[0]
    assert client.post(f"/quarantine/{number}/release").status_code == 303
    with db.transaction() as tx:
        assert [row["id"] for row in tx.all("inbox_claim", limit=10)] == [int(number)]


def test_a_language_is_kept_and_leads_back(nobody: TestClient) -> None:
    answer = nobody.post("/language", data={"to": "th", "next": "/sign-in?next=%2Fhistory"})
    assert answer.headers["location"] == "/sign-in?next=%2Fhistory"
    page = nobody.get("/sign-in").text
    assert '<html lang="th">' in page
    assert "เข้าสู่ระบบ" in page
    assert nobody.post("/language", data={"to": "en", "next": "//evil.example"}).headers["location"] == "/"


def test_thai_and_english_texts_are_marked_for_readers_and_fonts(
    sign_in: SignIn, db: Database, casebook: Casebook
) -> None:
    client = sign_in("viewer")
    past_case(db, "ASM-2025-001")
    case = live_case(casebook, text="สายพานหยุดเอง")
    page = client.get(f"/cases/{case.record_id}").text
    assert '<h1 class="case-what" lang="th">สายพานหยุดเอง</h1>' in page
    assert '<p class="past-what" lang="en">' in page


def test_a_tampered_or_missing_address_is_a_page_in_words(sign_in: SignIn) -> None:
    client = sign_in("viewer")
    for path in ("/cases/NOPE", "/cases/%00", "/nothing", "/static/nothing.js"):
        assert client.get(path).status_code == 404, path
    assert client.get("/search?start=banana").status_code == 422


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://testserver"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://testserver"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": ""}, 303),
        ({"Origin": "http://testserver"}, 303),
        ({"Origin": "http://evil.example", "Authorization": "Bearer x"}, 403),
    ],
)
def test_a_form_of_another_site_is_turned_away(
    sign_in: SignIn, casebook: Casebook, headers: dict[str, str], status: int
) -> None:
    client = sign_in("supervisor")
    case = live_case(casebook)
    assert client.post(f"/cases/{case.record_id}/acknowledge", headers=headers).status_code == status


def test_every_answer_carries_its_protection(nobody: TestClient) -> None:
    for path in ("/sign-in", "/static/app.css", "/nothing", "/livez", "/api/v1/status"):
        headers = nobody.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
    assert nobody.get("/sign-in").headers["cache-control"] == "no-store"
    assert "immutable" in nobody.get("/static/app.css?v=1").headers["cache-control"]


def test_a_body_that_is_too_large_is_refused_before_it_is_read(sign_in: SignIn) -> None:
    client = sign_in("supervisor")
    assert client.post("/report", content=b"x" * 300_000).status_code == 413


def test_a_mistake_of_ours_is_said_in_words_and_logged(
    app: FastAPI, sign_in: SignIn, casebook: Casebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    cookies = dict(sign_in("viewer").cookies)

    def broken(**_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(casebook, "board", broken)
    with TestClient(app, cookies=cookies, raise_server_exceptions=False) as client:
        page = client.get("/")
    assert page.status_code == 500
    assert "The appliance made a mistake" in page.text
    assert "secret detail" not in page.text


def test_tokens_are_made_shown_once_and_withdrawn(sign_in: SignIn, db: Database) -> None:
    client = sign_in("engineer")
    page = client.post("/account/tokens", data={"name": "scanner", "scope": "write", "days": "30"}).text
    found = re.search(r"<code>(andon_[\w-]+)</code>", page)
    assert found
    token = accounts.token_of(db, found[1])
    assert token is not None
    assert token.scopes == {"read", "write"}
    assert found[1] not in client.get("/account").text
    assert client.post("/account/tokens", data={"name": "boss", "scope": "admin"}).status_code == 422
    client.post("/account/tokens/drop", data={"name": "scanner"})
    assert accounts.token_of(db, found[1]) is None


def test_an_administrator_adds_and_disables_people_but_not_themselves(sign_in: SignIn, db: Database) -> None:
    client = sign_in("admin")
    new = {"username": "nok", "password": PASSWORD, "role": "supervisor"}
    assert client.post("/people", data=new).status_code == 303
    assert client.post("/people", data=new).status_code == 422
    assert client.post("/people/nok/disable").status_code == 303
    assert client.post("/people/admin/disable").status_code == 422
    assert {row.username: row.disabled for row in accounts.accounts(db)} == {"admin": False, "nok": True}


def test_one_changes_ones_password_knowing_the_old_one(sign_in: SignIn, db: Database) -> None:
    client = sign_in("viewer")
    assert client.post("/account/password", data={"old": "wrong", "new": "another long one"}).status_code == 422
    assert client.post("/account/password", data={"old": PASSWORD, "new": "short"}).status_code == 422
    assert client.post("/account/password", data={"old": PASSWORD, "new": "another long one"}).status_code == 303
    assert client.get("/").status_code == 200
    assert accounts.check_password(db, "viewer", "another long one")


def test_metrics_speak_prometheus(nobody: TestClient, casebook: Casebook) -> None:
    live_case(casebook)
    text = nobody.get("/metrics").text
    assert "edge_cases_open 1.0" in text
    assert "edge_outbox_pending 1.0" in text
    assert "# HELP edge_inbox_pending" in text
    ready = nobody.get("/readyz").json()
    assert ready["ready"] is True
    assert ready["checks"]["model"]["reason"] == "starter runs on cpu"
    assert 'edge_encoder_info{fingerprint="' in text
    assert 'provider="cpu"' in text
    assert "edge_encoder_fallbacks_total 0.0" in text
