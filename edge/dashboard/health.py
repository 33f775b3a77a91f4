"""How the appliance is: the path as a picture, probes for supervisors, metrics for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from edge import outbound
from edge.dashboard import urls
from edge.dashboard.accounts import token_of
from edge.dashboard.contexts import Check, HealthFragment, HealthPage, Sender, Stage
from edge.dashboard.services import Here, NotAllowed, Services, Visit
from edge.db import Transaction, behind
from edge.embedding import Encoder
from edge.errors import EdgeError

router = APIRouter(include_in_schema=False)

#: Seconds the oldest waiting row may be old before a stage counts as late, and as stuck.
LATE, STUCK = 5.0, 60.0

#: Sources that are named on the page.
SENDERS = 20


@router.get("/livez")
async def livez() -> PlainTextResponse:
    """The process answers. Touches nothing: a slow database must not make a supervisor kill a healthy web role."""
    return PlainTextResponse("ok\n")


@router.get("/readyz")
def readyz(request: Request) -> JSONResponse:
    """Ready means that pages can be served. The board works without search, so search alone does not unready it."""
    checks = check(request.app.state.services)
    ready = all(found.ok for found in checks if found.code != "search")
    body = {"ready": ready, "checks": {found.code: {"ok": found.ok, "reason": found.reason} for found in checks}}
    return JSONResponse(body, 200 if ready else 503)


@router.get("/metrics")
def metrics(request: Request) -> Response:
    """For Prometheus: from this machine, or with a token that may read."""
    services: Services = request.app.state.services
    if not (request.client and request.client.host in ("127.0.0.1", "::1", "testclient")):
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        token = token_of(services.db, secret) if scheme.lower() == "bearer" else None
        if token is None or "read" not in token.scopes:
            raise NotAllowed("Metrics from another machine need a token with the scope read.")
    registry: CollectorRegistry = request.app.state.registry
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


@router.get(urls.HEALTH)
def health_page(here: Here) -> Response:
    here.need()
    return here.render(_health(HealthPage, here), "health")


@router.get(urls.HEALTH_FRAGMENT)
def health_fragment(here: Here) -> Response:
    here.need()
    return here.render(_health(HealthFragment, here), "health")


@router.post(urls.HOOKS_AGAIN)
def hooks_again(here: Here, name: Annotated[str, Form()]) -> Response:
    """What a webhook did not take is delivered again."""
    here.need("engineer")
    outbound.replay(here.services.db, name)
    return here.go(urls.with_query(urls.HEALTH, done="hooks-again"))


def check(services: Services) -> list[Check]:
    """Every part this role needs, and why it does not work where it does not."""
    found = []
    try:
        with services.db.transaction() as tx:
            tx.one("health_alive")
        found.append(Check("database", True, "answers"))
        missing = behind(services.db)
        reason = f"lacks {missing[0]}: run `edge migrate`" if missing else "up to date"
        found.append(Check("migrations", not missing, reason))
    except EdgeError as error:
        found.append(Check("database", False, str(error)))
    try:
        services.search.status()
        found.append(Check("search", True, "answers"))
    except EdgeError as error:
        found.append(Check("search", False, str(error)))
    encoder = services.search.encoder
    lost = encoder.stats().fallbacks
    reason = f"{encoder.name} runs on {encoder.provider}" + (", since its GPU failed: see the log" if lost else "")
    found.append(Check("model", True, reason))
    return found


def _health(kind: type[HealthFragment], here: Visit) -> HealthFragment:
    services, texts = here.services, here.texts
    with services.db.transaction() as tx:
        row = tx.one("health_path") or {}
        senders = _senders(tx)
    try:
        status: dict[str, Any] | None = services.search.status()
        search_problem = ""
    except EdgeError as error:
        status, search_problem = None, str(error)
    points = status["points"] if status else {}
    median = services.pace.median()
    t, number = texts.t, texts.number
    inbox_state = _state(row["inbox_pending"], row["inbox_oldest"])
    outbox_state = "late" if row["outbox_failing"] else _state(row["outbox_pending"], row["outbox_oldest"])
    last = row["received_last"]
    index_state = "ok" if status else "stuck"
    stages = (
        Stage("mqtt", "ok" if last else "off", (texts.ago(last) if last else t("health.never"),),
              t("health.per_minute", n=row["received_minute"]), "ok"),
        Stage("inbox", inbox_state, (t("health.waiting", n=row["inbox_pending"]),
              *((t("health.oldest", time=texts.span(row["inbox_oldest"])),) if row["inbox_pending"] else ())),
              t("health.waiting", n=row["inbox_pending"]), inbox_state),
        Stage("analytics", inbox_state, (t("health.cases", n=row["cases"]),
              t("health.quarantined", n=row["quarantined"])),
              t("health.changes_minute", n=row["changed_minute"]), "ok"),
        Stage("outbox", outbox_state, (t("health.waiting", n=row["outbox_pending"]),
              *((t("health.oldest", time=texts.span(row["outbox_oldest"])),) if row["outbox_pending"] else ()),
              *((t("health.failing", n=row["outbox_failing"]),) if row["outbox_failing"] else ())),
              t("health.waiting", n=row["outbox_pending"]), outbox_state),
        Stage("embedding", index_state, ((str(status["model"]), str(status["provider"])) if status else ("–",)),
              t("health.indexed_minute", n=row["indexed_minute"]), outbox_state),
        Stage("qdrant", index_state, (t("health.points", n=sum(points.values())),) if status else ("–",),
              t("health.median", n=round(median)) if median is not None else None, index_state),
        Stage("search", index_state, (t("health.questions", n=services.pace.count),),
              None if median is not None else t("health.no_search_yet"), index_state),
        Stage("dashboard", "ok", (t("health.you_see_it"),), None, "ok"),
    )  # fmt: skip
    checks = [
        Check("database", True, t("health.database_size", size=number(row["database_bytes"] / 1_048_576))),
        Check("inbox", inbox_state == "ok", t("health.waiting", n=row["inbox_pending"])),
        Check("outbox", outbox_state == "ok", row["outbox_error"] or t("health.waiting", n=row["outbox_pending"])),
        Check("search", status is not None, search_problem or t("health.points", n=sum(points.values()))),
        Check("quarantine", not row["quarantined_day"], t("health.quarantined_day", n=row["quarantined_day"])),
    ]
    return kind(
        stages=stages,
        checks=tuple(checks),
        well=all(found.ok for found in checks),
        model=str(status["model"]) if status else None,
        provider=str(status["provider"]) if status else None,
        fingerprint=str(status["fingerprint"]) if status else None,
        points=tuple(points.items()),
        senders=senders,
        hooks=tuple(outbound.every(services.db)),
        read_at=datetime.now(UTC),
    )


def _senders(tx: Transaction) -> tuple[Sender, ...]:
    """Sources that lose events or chatter, in a day; the worst first."""
    day = datetime.now(UTC) - timedelta(days=1)
    chatter = {row["source"]: row for row in tx.all("chatterers", since=day)}
    gaps = {row["source"]: row["gaps"] for row in tx.all("sequence_gaps", since=day) if row["gaps"]}
    found = [
        Sender(source, gaps.get(source, 0), *((row["at"], row["record_id"]) if (row := chatter.get(source)) else ()))
        for source in {*chatter, *gaps}
    ]
    found.sort(key=lambda sender: (sender.chatter_at is None, -sender.gaps, sender.source))
    return tuple(found[:SENDERS])


def _state(waiting: int, oldest: float) -> str:
    if not waiting or oldest < LATE:
        return "ok"
    return "late" if oldest < STUCK else "stuck"


class Gauges(Collector):
    """Read from the database when somebody scrapes, so that every web process tells the same truth."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def describe(self) -> list[Metric]:
        # Named nothing: registering must not wait for a database.
        return []

    def collect(self) -> Iterator[Metric]:
        started = time.perf_counter()
        up = 1
        try:
            counts = self._services.casebook.counts()
            with self._services.db.transaction() as tx:
                row = tx.one("health_path") or {}
                day = datetime.now(UTC) - timedelta(days=1)
                gaps, chatter = tx.all("sequence_gaps", since=day), tx.all("chatterers", since=day)
                late = tx.value("events_late", since=day)
        except EdgeError:
            up, counts, row, gaps, chatter, late = 0, {}, {}, [], [], 0
        yield GaugeMetricFamily("edge_database_up", "1 when PostgreSQL answers.", value=up)
        if up:
            for name, words, value in (
                ("edge_cases_open", "Cases nobody has taken yet.", counts["open"]),
                ("edge_cases_acknowledged", "Cases somebody works on.", counts["acknowledged"]),
                ("edge_cases_closed", "Past cases to learn from.", counts["closed"]),
                ("edge_inbox_pending", "Events stored and not yet understood.", row["inbox_pending"]),
                ("edge_inbox_oldest_seconds", "Age of the oldest of them.", row["inbox_oldest"]),
                ("edge_outbox_pending", "Changes the index has not learnt yet.", row["outbox_pending"]),
                ("edge_outbox_oldest_seconds", "Age of the oldest of them.", row["outbox_oldest"]),
                ("edge_outbox_failing", "Changes the index refused at least once.", row["outbox_failing"]),
                ("edge_quarantined", "Events in quarantine.", row["quarantined"]),
                ("edge_events_late", "Events of a day that came long after they happened.", late),
                ("edge_points", "Points PostgreSQL knows to be in the index.", row["points"]),
                ("edge_database_bytes", "Size of the database.", row["database_bytes"]),
            ):
                yield GaugeMetricFamily(name, words, value=value)
            missing = GaugeMetricFamily(
                "edge_sequence_gaps", "Numbers of each source's own count that never came, in a day.", labels=["source"]
            )
            for gap in gaps:
                missing.add_metric([gap["source"]], gap["gaps"])
            yield missing
            chattering = GaugeMetricFamily(
                "edge_chattering_seconds", "Since each source last sent alarms too often, in a day.", labels=["source"]
            )
            for one in chatter:
                chattering.add_metric([one["source"]], (datetime.now(UTC) - one["at"]).total_seconds())
            yield chattering
            last = row["received_last"]
            if last:
                age = (datetime.now(UTC) - last).total_seconds()
                yield GaugeMetricFamily("edge_event_age_seconds", "Since the latest event came in.", value=age)
        yield from _encoder_metrics(self._services.search.encoder)
        median = self._services.pace.median()
        if median is not None:
            yield GaugeMetricFamily("edge_search_median_seconds", "Of the latest searches.", value=median / 1000)
        took = time.perf_counter() - started
        yield GaugeMetricFamily("edge_scrape_seconds", "What this reading took.", value=took)


def _encoder_metrics(encoder: Encoder) -> Iterator[Metric]:
    """Of this process: the worker has an encoder of its own, which does the indexing."""
    stats = encoder.stats()
    about = {"model": encoder.name, "precision": encoder.precision, "fingerprint": encoder.fingerprint}
    about["provider"] = encoder.provider
    yield InfoMetricFamily("edge_encoder", "The embedding model of this process and what it runs on.", value=about)
    for name, words, value in (
        ("texts", "Texts encoded.", stats.texts),
        ("cache_hits", "Texts whose vectors were still known.", stats.cache_hits),
        ("tokens", "Tokens read, special ones left out.", stats.tokens),
        ("unknown_tokens", "Words the model does not know.", stats.unknown_tokens),
        ("truncated_texts", "Texts longer than the model reads.", stats.truncated_texts),
        ("truncated_tokens", "Tokens beyond that limit.", stats.truncated_tokens),
        ("batches", "Inferences run.", stats.batches),
        ("seconds", "Time spent in inference, over all threads.", stats.seconds),
        ("fallbacks", "Times a GPU failed and the CPU took over.", stats.fallbacks),
        ("splits", "Batches halved for want of memory.", stats.splits),
    ):
        yield CounterMetricFamily(f"edge_encoder_{name}", words, value=value)
    yield GaugeMetricFamily("edge_encoder_waiting", "Texts that no inference has taken up yet.", value=stats.waiting)
