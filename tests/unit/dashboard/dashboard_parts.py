"""What the tests of the dashboard share: a search that can be told what to answer, and cases to look at."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from edge.cases import COLLECTION, Case, Casebook, NewCase
from edge.cases.casebook import import_cases
from edge.db import Database
from edge.embedding import Encoder
from edge.errors import Unavailable
from edge.search import Answer, Feedback, FixReport, Hit, Question, band_of
from edge.search.calibration import Calibrations
from edge.search.fixes import recurrence

ORIGIN = "http://testserver"
PASSWORD = "long enough to pass"


class ToldSearch:
    """Answers with every closed case at the score it was told; `down` is the sentence of an index that is away."""

    def __init__(self, casebook: Casebook, encoder: Encoder) -> None:
        self._casebook = casebook
        self.encoder = encoder
        self.score = 0.8
        self.down: str | None = None
        self.asked: list[Question] = []
        self.fix_report: FixReport | None = None
        self.calibrations = Calibrations(casebook.database, "f00d")
        # Only words about other texts need an encoder, and nothing here says any.
        self.feedback = Feedback(casebook.database, None)  # type: ignore[arg-type]

    def search(self, question: Question) -> Answer:
        self.asked.append(question)
        return self._answer(question.limit)

    def search_many(self, questions: Sequence[Question]) -> list[Answer]:
        return [self.search(question) for question in questions]

    def similar(self, case: Case, *, limit: int = 10, **how: Any) -> Answer:
        return self._answer(limit)

    def fixes(self, asked: Question | Case, *, language: str) -> FixReport:
        """What `fix_report` was told, or a history that knows of no fix."""
        self._check()
        nothing = recurrence([], now=datetime.now(UTC), begins=None)
        return self.fix_report or FixReport(
            new=self._odds() < 0.2, known=0.9, band=band_of(self._odds()), nearest=self.score, closed=0, untold=0,
            fixes=(), recurrence=nothing, milliseconds=1.0,
        )  # fmt: skip

    def search_and_fixes(self, question: Question, *, language: str) -> tuple[Answer, FixReport]:
        return self.search(question), self.fixes(question, language=language)

    def status(self) -> dict[str, Any]:
        self._check()
        return {"model": "told", "provider": "none", "fingerprint": "f00d", "points": {"anomaly_patterns": 3}}

    def _answer(self, limit: int) -> Answer:
        self._check()
        cases = self._casebook.history(limit=limit).cases
        hits = tuple(
            Hit(case, self.score, band_of(self._odds()), "symptom", COLLECTION[case.kind], probability=self._odds())
            for case in cases
        )
        return Answer(hits, False, 1.5)

    def _odds(self) -> float:
        return self.calibrations.current().probability(self.score)

    def _check(self) -> None:
        if self.down:
            raise Unavailable(self.down)


def past_case(db: Database, record_id: str, **facts: Any) -> None:
    """A closed case of the history."""
    values: dict[str, Any] = {
        "kind": "anomaly", "type": "conveyor_stop", "severity": "medium", "origin": "import", "language": "en",
        "description": "Conveyor stops by itself", "root_cause": "Dust on the sensor", "resolution": "Cleaned the lens",
        "outcome": "held", "zone_id": "ASM-3", "occurred_at": datetime(2026, 1, 5, 3, 0, tzinfo=UTC),
        "closed_at": datetime(2026, 1, 5, 4, 0, tzinfo=UTC),
    } | facts  # fmt: skip
    with db.transaction() as tx:
        import_cases(tx, [NewCase(record_id=record_id, **values)])


def live_case(casebook: Casebook, text: str = "สายพานหยุดเอง", **facts: Any) -> Case:
    values: dict[str, Any] = {
        "kind": "anomaly", "type": "report", "severity": "high", "origin": "event", "language": "th",
        "occurred_at": datetime.now(UTC), "zone_id": "ASM-3",
    } | facts  # fmt: skip
    return casebook.open(NewCase(description=text, **values), actor="appliance")
