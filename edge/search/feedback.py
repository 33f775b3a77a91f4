"""People teach the search: what they said about a result moves it in later searches, within bounds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from edge.cases import Case
from edge.db import Database, Row
from edge.embedding import Encoder, normalise
from edge.errors import Rejected
from edge.search.calibration import Calibration
from edge.search.model import Heard

Said = Literal["same", "different", "helped"]
Topic = Literal["problem", "fix"]
Vector: TypeAlias = NDArray[np.float32]

#: Words about one search's candidates that are read, the latest of each person about each pair.
MOST_HEARD = 2_000


@dataclass(frozen=True, slots=True)
class Word:
    """One thing said. `said` is "withdrawn" for words taken back; exactly one of `for_id` and `question` is given."""

    id: int
    at: datetime
    actor: str
    topic: Topic
    said: Literal["same", "different", "helped", "withdrawn"]
    id_of: str
    for_id: str | None
    question: str | None


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """A result that people judged for a case or a question: how many of them say which."""

    case_id: UUID
    for_case_id: UUID | None
    question: str | None
    same: int
    different: int

    @property
    def subject(self) -> UUID | str:
        """What the result was shown for."""
        return self.for_case_id or self.question or ""


class Feedback:
    """Writes down what people say, and reads it where it bears on a search. Thread-safe."""

    def __init__(self, database: Database, encoder: Encoder) -> None:
        self._database = database
        self._encoder = encoder

    def heard(
        self, text: str, keys: Sequence[UUID], calibration: Calibration, *, itself: UUID | None = None
    ) -> dict[UUID, Heard]:
        """What people said that bears on these candidates for `text`; only those of whom something was said.

        A judgement about a pair of texts counts in both directions, as far as the text asked is close to one of them.
        `itself`: the case that is asked for, if it is one.
        """
        with self._database.transaction() as tx:
            rows = tx.all("feedback_of_cases", ids=list(keys), limit=MOST_HEARD)
        if not rows:
            return {}
        wanted = set(keys)
        ways = [way for row in rows for way in _ways(row) if way[0] in wanted]
        close = self._close(text, {judged for _, _, judged, _, _ in ways}, calibration)
        # A person is one voice about a result, the one that bears on it most.
        voices: dict[UUID, dict[str, tuple[float, str]]] = {}
        for key, other, judged, actor, said in ways:
            weight = 1.0 if itself is not None and other == itself else close[judged]
            mine = voices.setdefault(key, {})
            if weight > mine.get(actor, (0.0, ""))[0]:
                mine[actor] = (weight, said)
        return {key: _counted(list(mine.values())) for key, mine in voices.items() if mine}

    def _close(self, text: str, judged: set[str], calibration: Calibration) -> Mapping[str, float]:
        asked = normalise(text)
        near = {other: 1.0 for other in judged if normalise(other) == asked}
        others = sorted(judged - near.keys())
        if others:
            vectors = self._encoder.encode([text, *others])
            for other, cosine in zip(others, vectors[1:] @ vectors[0], strict=True):
                near[other] = calibration.closeness(float(cosine))
        return near

    def say(self, actor: str, said: Said, result: Case, about: Case | str, *, topic: Topic = "problem") -> int:
        """Write down what a person says about a result: shown for a case, or for a question. Returns the word's id.

        Raises `Rejected` for a pair of a case with itself, an empty question, or a word that does not fit the topic.
        """
        if topic == "fix" and said == "helped":
            raise Rejected("Whether two fixes are one is answered by same or different.")
        return self._add(actor, said, result, about, topic)

    def withdraw(self, actor: str, result: Case, about: Case | str, *, topic: Topic = "problem") -> int:
        """Take one's own word back, by a row of its own. Raises `Rejected` as `say`."""
        return self._add(actor, "withdrawn", result, about, topic)

    def mine(self, actor: str, results: Sequence[UUID], about: Case | str) -> dict[UUID, Said]:
        """This person's own standing word about each of these results."""
        case, text = (about, None) if isinstance(about, Case) else (None, about)
        with self._database.transaction() as tx:
            rows = tx.all(
                "feedback_mine",
                actor=actor,
                ids=list(results),
                for_case_id=case.id if case else None,
                question_hash=_hash(text) if text is not None else None,
            )
        found: dict[UUID, Said] = {}
        for row in rows:
            other = row["for_case_id"] if case and row["case_id"] == case.id else row["case_id"]
            found[other] = row["said"]
        return found

    def words(
        self,
        *,
        case: Case | None = None,
        question: str | None = None,
        actor: str | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> list[Word]:
        """What was said, latest first, words taken back too. `before`: the id of the last word of the page before."""
        with self._database.transaction() as tx:
            rows = tx.all(
                "feedback_list",
                case_id=case.id if case else None,
                question_hash=_hash(question) if question is not None else None,
                actor=actor,
                before=before,
                limit=limit,
            )
        return [Word(**row) for row in rows]

    def judged(self, limit: int) -> list[JudgedPair]:
        """The pairs of which somebody's word about the problem stands, the latest first."""
        with self._database.transaction() as tx:
            return [JudgedPair(**row) for row in tx.all("feedback_standing", limit=limit)]

    def same_fix(self, ids: Sequence[UUID]) -> dict[frozenset[UUID], bool]:
        """Of which pairs of these cases most people say that their fixes are one (True) or two (False)."""
        with self._database.transaction() as tx:
            rows = tx.all("feedback_of_fixes", ids=list(ids))
        net: dict[frozenset[UUID], int] = {}
        for row in rows:
            pair = frozenset((row["case_id"], row["for_case_id"]))
            net[pair] = net.get(pair, 0) + (1 if row["said"] == "same" else -1)
        return {pair: votes > 0 for pair, votes in net.items() if votes}

    def _add(self, actor: str, said: str, result: Case, about: Case | str, topic: Topic) -> int:
        case, question = (about, None) if isinstance(about, Case) else (None, about.strip())
        if case is not None and case.id == result.id:
            raise Rejected("A case is always the same as itself; judge it against another one.")
        if question is not None and (not normalise(question) or len(question) > 4_000 or "\x00" in question):
            raise Rejected("A judgement needs the question it is about, of at most 4000 characters.")
        if topic == "fix" and case is None:
            raise Rejected("Whether two fixes are one is judged about two cases.")
        with self._database.transaction() as tx:
            return int(
                tx.value(
                    "feedback_add",
                    actor=actor,
                    topic=topic,
                    said=said,
                    case_id=result.id,
                    for_case_id=case.id if case else None,
                    question=question,
                    question_hash=_hash(question) if question is not None else None,
                )
            )


def _ways(row: Row) -> list[tuple[UUID, UUID | None, str, str, str]]:
    """A judgement read from both its ends: the result, the case or None it was judged against, that text, who, what."""
    if row["for_case_id"] is None:
        return [(row["case_id"], None, row["question"], row["actor"], row["said"])]
    return [
        (row["case_id"], row["for_case_id"], row["for_text"], row["actor"], row["said"]),
        (row["for_case_id"], row["case_id"], row["case_text"], row["actor"], row["said"]),
    ]


def _counted(voices: Sequence[tuple[float, str]]) -> Heard:
    counts = {said: sum(word == said for _, word in voices) for said in ("same", "different", "helped")}
    against = sum(weight for weight, said in voices if said == "different")
    return Heard(**counts, agree=sum(weight for weight, _ in voices) - against, disagree=against)


def _hash(question: str) -> bytes:
    return hashlib.sha256(normalise(question).encode()).digest()
