"""What every detector is: a pure step from a state and an observation to the next state and what was found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from edge.analytics.model import CLOCK, Finding, Observation
from edge.analytics.standard import Standard

#: The standard work of a zone, if there is one.
Standards = Callable[[str], Standard | None]

#: Sources of one subject may be so much out of step with each other.
LATE = timedelta(seconds=60)

#: Observations a finding names as its evidence, the latest ones.
EVIDENCE = 20


class Tuning(BaseModel):
    """Settings of one detector. Times are seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = True


class State(BaseModel):
    """What a detector remembers of one subject; plain JSON between two runs. `at`: the latest observation it took."""

    model_config = ConfigDict(frozen=True)

    at: datetime | None = None


S = TypeVar("S", bound=State)
T = TypeVar("T", bound=Tuning)


class Detector(ABC, Generic[T, S]):
    """Knows nothing but its settings and the standard work. One instance serves every subject of one zone."""

    name: ClassVar[str]
    tuning: ClassVar[type[Tuning]]
    state: ClassVar[type[State]]

    def __init__(self, settings: T, standards: Standards = lambda _: None) -> None:
        self.settings = settings
        self.standards = standards

    @abstractmethod
    def subject(self, seen: Observation) -> str | None:
        """Whose state an observation belongs to: a zone, a camera or a worker. None: of no interest."""

    @abstractmethod
    def _step(self, state: S, seen: Observation) -> tuple[S, list[Finding]]:
        """The state after an observation, `at` left as it is, and what it shows."""

    def step(self, state: S, seen: Observation) -> tuple[S, list[Finding]]:
        """As `_step`. What comes later than `LATE` changes nothing: what it would have shown has passed."""
        if state.at is not None and seen.at < state.at - LATE:
            return state, []
        after, found = self._step(state, seen)
        # The clock is no observation: an event that was on its way while it ticked is not late.
        at = state.at if seen.kind == CLOCK else max(seen.at, state.at or seen.at)
        return after.model_copy(update={"at": at}), found


class Refs(BaseModel):
    """The observations behind something that is still going on."""

    model_config = ConfigDict(frozen=True)

    refs: tuple[int, ...] = Field(default=())

    def plus(self, seen: Observation) -> Refs:
        return self if not seen.ref else Refs(refs=(*self.refs, seen.ref)[-EVIDENCE:])
