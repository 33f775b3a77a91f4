"""Texts of several callers become batches of one shape, without anybody waiting for company.

A caller that finds a place free runs the next batch itself, whoever's texts are in it; the others wait for their own.
While all places are taken, texts gather, so batches grow exactly when there is something to gain. The callers take
turns: one question does not wait behind a thousand texts that are being indexed, only behind the batch that runs.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edge.embedding.manifest import Floats
from edge.errors import Unavailable

__all__ = ["Batches", "Device"]

Row = npt.NDArray[np.int64]
_ALONE = 16


class Device(Protocol):
    """What runs a batch."""

    def shape_of(self, tokens: int) -> int: ...

    def rows_of(self, shape: int) -> int: ...

    def run(self, rows: Sequence[Row]) -> Floats: ...


@dataclass(slots=True, eq=False)
class _Call:
    """The texts of one caller. `waiting`: places in `rows`, the shortest last; `open`: how many have no vector yet."""

    rows: Sequence[Row]
    waiting: list[int]
    answers: list[Floats | None]
    open: int
    failed: Exception | None = None


@dataclass(slots=True, eq=False)
class _Batch:
    rows: list[Row] = field(default_factory=list)
    places: list[tuple[_Call, int]] = field(default_factory=list)


class Batches:
    """Thread-safe. `parallel`: how many batches may run at once."""

    def __init__(self, device: Device, parallel: int) -> None:
        self._device = device
        self._parallel = parallel
        self._changed = threading.Condition()
        self._free = parallel
        self._calls: deque[_Call] = deque()
        self.batches = 0
        self.seconds = 0.0

    @property
    def waiting(self) -> int:
        """Texts that no batch has taken up yet."""
        with self._changed:
            return sum(len(call.waiting) for call in self._calls)

    def __call__(self, rows: Sequence[Row]) -> list[Floats]:
        """One vector for each of `rows`, in their order. Raises what the device raised for a batch of theirs."""
        if not rows:
            return []
        shortest_last = sorted(range(len(rows)), key=lambda place: -len(rows[place]))
        call = _Call(rows, shortest_last, [None] * len(rows), len(rows))
        with self._changed:
            self._calls.append(call)
        # Only a call of several batches is worth threads of its own; they end with it.
        several = len({self._device.shape_of(len(row)) for row in rows}) > 1 or len(rows) > _ALONE
        helpers = [
            threading.Thread(target=self._work, args=(call,), name=f"encoder-{number}", daemon=True)
            for number in range(1, self._parallel if several else 1)
        ]
        for helper in helpers:
            helper.start()
        self._work(call)
        for helper in helpers:
            helper.join()
        if call.failed is not None:
            raise call.failed
        return [answer for answer in call.answers if answer is not None]

    def _work(self, call: _Call) -> None:
        """Run batches until every text of `call` has its vector, or one of its batches failed."""
        while True:
            with self._changed:
                # Whoever frees a place or finishes a batch says so: no time-out is needed, the device itself ends.
                self._changed.wait_for(lambda: not call.open or (self._free and call.waiting))
                if not call.open:
                    return
                self._free -= 1
                batch = self._next()
            started = time.perf_counter()
            failed: Exception | None = Unavailable("The encoding was broken off.")
            vectors: Floats | list[None] = [None] * len(batch.rows)
            try:
                vectors, failed = self._device.run(batch.rows), None
            except Exception as error:  # noqa: BLE001 - it belongs to the callers whose texts these are
                failed = error
            finally:
                with self._changed:
                    self._free += 1
                    self.batches += 1
                    self.seconds += time.perf_counter() - started
                    for (owner, place), vector in zip(batch.places, vectors, strict=True):
                        owner.answers[place] = vector
                        owner.open -= 1
                        if failed is not None:
                            self._give_up(owner, failed)
                    self._changed.notify_all()

    def _next(self) -> _Batch:
        """The shortest texts of the caller whose turn it is, filled up with those of the others of the same shape."""
        first = self._calls[0]
        shape = self._device.shape_of(len(first.rows[first.waiting[-1]]))
        most = self._device.rows_of(shape)
        batch = _Batch()
        for call in list(self._calls):
            # Sorted by length, so those of one shape lie together; the first caller's are at the end.
            place = len(call.waiting) - 1
            while place >= 0 and len(batch.rows) < most:
                row = call.rows[call.waiting[place]]
                if self._device.shape_of(len(row)) == shape:
                    batch.rows.append(row)
                    batch.places.append((call, call.waiting.pop(place)))
                elif len(row) > shape:
                    break
                place -= 1
        self._calls.rotate(-1)
        self._calls = deque(call for call in self._calls if call.waiting)
        return batch

    def _give_up(self, call: _Call, failed: Exception) -> None:
        """One batch of a call failed: those that wait would be encoded for nobody."""
        call.failed = failed
        call.open -= len(call.waiting)
        call.waiting.clear()
        self._calls = deque(other for other in self._calls if other.waiting)
