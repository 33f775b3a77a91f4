"""What each template is given, and nothing else. A test holds templates and these classes together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, ClassVar
from uuid import UUID

from edge.analytics.standard import Proposal
from edge.cases import Case, Evidence, Impact, LogEntry
from edge.cases import Found as Finding
from edge.dashboard.accounts import Account, AccountRow, Role, TokenRow
from edge.dashboard.texts import UiLanguage
from edge.knowledge.library import Document, DocumentType, Part
from edge.outbound import Target
from edge.search import Band, Bin, Calibration, Figures, Fix, Heard, Recurrence, Said, Why, Word


@dataclass(frozen=True, slots=True)
class Context:
    """`template`: the file under `web/templates/` that shows it."""

    template: ClassVar[str]


@dataclass(frozen=True, slots=True)
class Frame:
    """What surrounds every page. `here`: the address to come back to; `notice`: the key of a short message."""

    language: UiLanguage
    account: Account | None
    section: str
    here: str
    site: str
    notice: str | None


@dataclass(frozen=True, slots=True)
class Found:
    """A past case that resembles something. `probability`: that it is the same problem, 0..1.

    `by`: which of its texts answered best, and `why`, where that is known. `heard`: what people said about it; `mine`: what this
    person did.
    """

    case: Case
    score: float
    band: Band
    probability: float
    by: str | None = None
    why: Why | None = None
    heard: Heard | None = None
    mine: Said | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """A live case and its past cases. `indexed` is False while they are still being looked up.

    `best`: what is shown at once, the most similar one and, where its fix did not hold, the nearest one whose fix did.
    Empty when nothing is really alike. `more`: the others.
    """

    case: Case
    best: tuple[Found, ...]
    more: tuple[Found, ...]
    indexed: bool
    impact: Impact | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """One option of a filter."""

    value: str
    name: str
    chosen: bool
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Options under one heading."""

    name: str
    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class Counts:
    open: int
    acknowledged: int
    closed: int
    quarantined: int
    waiting: int


@dataclass(frozen=True, slots=True)
class BoardFragment(Context):
    """The part of the live board that refreshes itself. `full`: there are more cases than are shown."""

    template: ClassVar[str] = "_fragments/board.html"
    cards: tuple[Card, ...]
    counts: Counts
    areas: tuple[Choice, ...]
    area: str
    revision: str
    full: bool


@dataclass(frozen=True, slots=True)
class BoardPage(BoardFragment):
    template: ClassVar[str] = "board.html"


@dataclass(frozen=True, slots=True)
class Filter:
    """One filter of a form: its parameter and its options, ungrouped ones first."""

    name: str
    chosen: bool
    choices: tuple[Choice, ...]
    groups: tuple[Group, ...] = ()


@dataclass(frozen=True, slots=True)
class Cited:
    """A passage of a document that tells about something. `url` opens the page of the document at it, `original_url` the
    file itself at its page, where that can be."""

    title: str
    version: str
    document_type: str
    section: str
    page: int | None
    effective_date: date | None
    language: str
    text: str
    url: str
    original_url: str | None
    why: Why


@dataclass(frozen=True, slots=True)
class ResultsFragment(Context):
    """Answers to a question. `nothing`: the history hardly holds this problem; `known`: the probability that it does,
    where that was looked up. `problem`: why there is no answer.

    `fixes`: what fixed the like cases; `seen`: how often they happened, where that was looked up.
    """

    template: ClassVar[str] = "_fragments/results.html"
    asked: str
    found: tuple[Found, ...]
    nothing: bool
    known: float | None
    fixes: tuple[Fix, ...]
    seen: Recurrence | None
    passages: tuple[Cited, ...]
    milliseconds: float | None
    cut: bool
    next_url: str | None
    problem: str | None
    history_size: int
    filtered: bool


@dataclass(frozen=True, slots=True)
class SearchPage(ResultsFragment):
    template: ClassVar[str] = "search.html"
    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class CloseForm:
    """What stands in the form that closes a case. `taken_from`: the past case its words were taken from."""

    root_cause: str = ""
    resolution: str = ""
    outcome: str = "unknown"
    taken_from: str | None = None


@dataclass(frozen=True, slots=True)
class CasePage(Context):
    """`problem`: why the last action was refused. `similar_problem`: why only stored matches can be shown.

    `new`: the history hardly holds this problem; `known`: the probability that it does, where that was looked up.

    `fixes`: what fixed the like cases; `seen`: how often they happened, where that was looked up.
    `review`: whether what the camera's review tells of goes on. `findings`: what detectors found, latest first, and what
    all of it cost. `days`: how long a fix is watched.
    """

    template: ClassVar[str] = "case.html"
    case: Case
    found: tuple[Found, ...]
    fixes: tuple[Fix, ...]
    seen: Recurrence | None
    passages: tuple[Cited, ...]
    new: bool
    known: float | None
    similar_problem: str | None
    log: tuple[LogEntry, ...]
    evidence: tuple[Evidence, ...]
    findings: tuple[Finding, ...]
    impact: Impact | None
    days: int
    review: str | None
    form: CloseForm
    problem: str | None


@dataclass(frozen=True, slots=True)
class ReportPage(Context):
    template: ClassVar[str] = "report.html"
    places: tuple[Group, ...]
    words: str
    severity: str
    problem: str | None


@dataclass(frozen=True, slots=True)
class HistoryPage(Context):
    """Closed cases, a page at a time. `next_url`: None on the last page; `paged`: this is not the first."""

    template: ClassVar[str] = "history.html"
    cases: tuple[Case, ...]
    filters: tuple[Filter, ...]
    filtered: bool
    paged: bool
    next_url: str | None


@dataclass(frozen=True, slots=True)
class Poison:
    """One event that could not be understood. `preview`: its first bytes as text, `hexadecimal` where they are none."""

    inbox_id: int
    at: datetime
    door: str
    topic: str
    reason: str
    size: int
    preview: str
    hexadecimal: bool


@dataclass(frozen=True, slots=True)
class QuarantinePage(Context):
    """`asked`: the search, by field; `filtered`: whether anything was asked."""

    template: ClassVar[str] = "quarantine.html"
    rows: tuple[Poison, ...]
    next_url: str | None
    asked: Mapping[str, str]
    filtered: bool
    export_url: str


@dataclass(frozen=True, slots=True)
class Stage:
    """One station of the path and the arrow that leaves it. `state`: ok, late, stuck or off."""

    code: str
    state: str
    facts: tuple[str, ...]
    arrow: str | None
    arrow_state: str


@dataclass(frozen=True, slots=True)
class Check:
    """One part that must work. `reason` says what is wrong when it does not."""

    code: str
    ok: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Sender:
    """A source worth a look, in a day: `gaps` numbers of its own count never came; `chatter_at`: its alarms came too
    often to be read, last then, in the case `record_id`.
    """

    source: str
    gaps: int
    chatter_at: datetime | None = None
    record_id: str | None = None


@dataclass(frozen=True, slots=True)
class HealthFragment(Context):
    template: ClassVar[str] = "_fragments/health.html"
    stages: tuple[Stage, ...]
    checks: tuple[Check, ...]
    well: bool
    model: str | None
    provider: str | None
    fingerprint: str | None
    points: tuple[tuple[str, int], ...]
    senders: tuple[Sender, ...]
    hooks: tuple[Target, ...]
    read_at: datetime


@dataclass(frozen=True, slots=True)
class HealthPage(HealthFragment):
    template: ClassVar[str] = "health.html"


@dataclass(frozen=True, slots=True)
class TeachFragment(Context):
    """The buttons under one result, after somebody pressed one. `question` or `for_id`: what it was shown for."""

    template: ClassVar[str] = "_fragments/teach.html"
    id: str
    for_id: str | None
    question: str | None
    mine: Said | None
    heard: Heard | None


@dataclass(frozen=True, slots=True)
class CalibrationPage(Context):
    """How far the probabilities can be trusted. `figures`: None for a model nobody has measured."""

    template: ClassVar[str] = "calibration.html"
    calibration: Calibration
    figures: Figures | None
    bins: tuple[Bin, ...]
    words: tuple[Word, ...]


@dataclass(frozen=True, slots=True)
class UploadForm:
    """What stands in the form for a new document."""

    title: str = ""
    document_type: str = "sop"
    zones: tuple[str, ...] = ()
    version: str = ""
    effective_date: str = ""
    tags: str = ""


@dataclass(frozen=True, slots=True)
class KnowledgePage(Context):
    """`retired`: versions that are not in force any more are listed, too."""

    template: ClassVar[str] = "knowledge.html"
    documents: tuple[Document, ...]
    retired: bool
    places: tuple[Group, ...]
    types: tuple[DocumentType, ...]
    form: UploadForm
    max_mb: int
    max_pages: int
    problem: str | None


@dataclass(frozen=True, slots=True)
class DocumentPage(Context):
    """`zones`: their names; empty for the whole plant."""

    template: ClassVar[str] = "document.html"
    document: Document
    parts: tuple[Part, ...]
    versions: tuple[Document, ...]
    zones: tuple[str, ...]
    original_url: str


@dataclass(frozen=True, slots=True)
class SignInPage(Context):
    template: ClassVar[str] = "sign_in.html"
    username: str
    next: str
    problem: str | None


@dataclass(frozen=True, slots=True)
class AccountPage(Context):
    """`secret`: a token just made, shown this once."""

    template: ClassVar[str] = "account.html"
    account: Account
    tokens: tuple[TokenRow, ...]
    secret: str | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class PeoplePage(Context):
    template: ClassVar[str] = "people.html"
    rows: tuple[AccountRow, ...]
    roles: tuple[Role, ...]
    me: str
    problem: str | None


@dataclass(frozen=True, slots=True)
class ErrorPage(Context):
    """`code`: the key of the words under `error.`; `sentence`: what the appliance says, if anything."""

    template: ClassVar[str] = "error.html"
    code: str
    sentence: str | None


@dataclass(frozen=True, slots=True)
class SessionRow:
    """One worker in one zone within one shift; times are seconds."""

    id: UUID
    worker_id: str
    zone: str
    day: date
    shift: int
    started_at: datetime
    ended_at: datetime
    product: str | None
    active_seconds: float
    idle_seconds: float
    cycles: int
    cycle_seconds: float | None


@dataclass(frozen=True, slots=True)
class SessionsPage(Context):
    template: ClassVar[str] = "sessions.html"
    rows: tuple[SessionRow, ...]
    zones: tuple[Group, ...]
    day: str
    worker: str


@dataclass(frozen=True, slots=True)
class CycleRow:
    """One piece. `number` None: its end was not reported. `height`: of its bar, 0..100."""

    number: int | None
    ended_at: datetime
    seconds: float
    height: float
    steps: int
    deviations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HourRow:
    hour: datetime
    active_seconds: float
    idle_seconds: float
    cycles: int


@dataclass(frozen=True, slots=True)
class Alike:
    """A session whose work resembles that of the page, and how much."""

    session: SessionRow
    score: str


@dataclass(frozen=True, slots=True)
class SessionPage(Context):
    """`measured`: whether there is a standard to compare with. `problem`: why nothing can be said about likeness."""

    template: ClassVar[str] = "session.html"
    session: SessionRow
    cycles: tuple[CycleRow, ...]
    hours: tuple[HourRow, ...]
    measured: bool
    alike: tuple[Alike, ...]
    problem: str | None


@dataclass(frozen=True, slots=True)
class WeekRow:
    """`period` as 2026-W47; `metrics` as `edge.analytics.behavior` names them."""

    period: str
    zone: str
    metrics: Mapping[str, Any]
    strengths: tuple[str, ...]
    points: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WorkerPage(Context):
    template: ClassVar[str] = "worker.html"
    worker_id: str
    weeks: tuple[WeekRow, ...]


@dataclass(frozen=True, slots=True)
class StandardRow:
    """`steps`: name, seconds, critical."""

    zone: str
    zone_name: str
    product: str
    steps: tuple[tuple[str, float, bool], ...]
    origin: str
    by: str
    at: datetime
    retired_at: datetime | None


@dataclass(frozen=True, slots=True)
class StandardsPage(Context):
    template: ClassVar[str] = "standards.html"
    rows: tuple[StandardRow, ...]
    zones: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class StandardPage(Context):
    """`rows`: the form's lines as typed, name, seconds, critical. `asked`: whether cycles were looked for."""

    template: ClassVar[str] = "standard.html"
    zone: str
    zone_name: str
    product: str
    rows: tuple[tuple[str, str, bool], ...]
    since: str
    until: str
    proposal: Proposal | None
    asked: bool
    versions: tuple[StandardRow, ...]
    problem: str | None
    may: bool


@dataclass(frozen=True, slots=True)
class JobRow:
    """`done` of `of`: how far a run is. `spanned`: whether it can be run over a span of days."""

    name: str
    enabled: bool
    next_run_at: datetime | None
    running: bool
    asked: bool
    spanned: bool
    started_at: datetime | None
    error: str | None
    done: int
    of: int


@dataclass(frozen=True, slots=True)
class RunRow:
    job: str
    started_at: datetime
    finished_at: datetime | None
    seconds: float | None
    error: str | None
    counts: tuple[tuple[str, int], ...]
    by: str | None
    since: str | None
    until: str | None


@dataclass(frozen=True, slots=True)
class JobsFragment(Context):
    template: ClassVar[str] = "_fragments/jobs.html"
    jobs: tuple[JobRow, ...]
    runs: tuple[RunRow, ...]


@dataclass(frozen=True, slots=True)
class JobsPage(JobsFragment):
    """`account`: of each collection, its source rows, points, pending, failed, and points left over."""

    template: ClassVar[str] = "jobs.html"
    account: tuple[Mapping[str, Any], ...]
    problem: str | None


PAGES: tuple[type[Context], ...] = (
    AccountPage, BoardFragment, BoardPage, CalibrationPage, CasePage, DocumentPage, ErrorPage, HealthFragment,
    HealthPage, HistoryPage, KnowledgePage, PeoplePage, QuarantinePage, ReportPage, ResultsFragment, SearchPage,
    SignInPage, TeachFragment,
    JobsFragment, JobsPage, SessionPage, SessionsPage, StandardPage, StandardsPage, WorkerPage,
)  # fmt: skip
