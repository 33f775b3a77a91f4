"""How a role lives: say READY, repeat steps until told to stop, and beat the watchdog only while the loop moves."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence

from edge.doors.notify import notify
from edge.errors import Unavailable

_log = logging.getLogger(__name__)

#: Seconds between two beats of the watchdog; supervisors allow a multiple of it.
BEAT = 5.0


class Stopping:
    """Becomes true on SIGTERM or SIGINT. Made in the main thread."""

    def __init__(self) -> None:
        self.event = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.event.set())

    def __call__(self) -> bool:
        return self.event.is_set()


class Beat:
    """Tells the supervisor that the loop moved, at most every `BEAT` seconds."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + BEAT
            notify("WATCHDOG=1")


class Paced:
    """A step that is taken no more often than every so many seconds."""

    def __init__(self, step: Callable[[], bool], *, every: float) -> None:
        self._step = step
        self._every = every
        self._next = 0.0

    def __call__(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._every
        return self._step()


def beside(
    steps: Sequence[Callable[[], bool]], stopping: threading.Event, *, name: str, rest: float
) -> threading.Thread:
    """`repeat` in a thread of its own, for what must not hold up the role. A fault in it ends the role, to be restarted."""

    def body() -> None:
        try:
            repeat(steps, stopping, rest=lambda: stopping.wait(rest))
        except Exception:  # noqa: BLE001 - whatever it is, the role must not go on without this part
            _log.exception("The part %s has failed.", name)
            stopping.set()

    made = threading.Thread(target=body, name=name, daemon=True)
    made.start()
    return made


def repeat(
    steps: Sequence[Callable[[], bool]],
    stopping: threading.Event,
    rest: Callable[[], object],
    beat: Callable[[], None] = lambda: None,
) -> None:
    """Call every step in turn until stopped; `rest` when none found work.

    `Unavailable` is said once per spell and tried again with back-off up to 5 s. A loop that waits for a part that is
    away still moves, so it still beats: restarting it would not bring that part back.
    """
    pause, said = 0.2, ""
    while not stopping.is_set():
        beat()
        try:
            worked = [step() for step in steps]
            if not any(worked):
                rest()
            if said:
                _log.warning("Back to work.")
            pause, said = 0.2, ""
        except Unavailable as error:
            if str(error) != said:
                said = str(error)
                _log.warning("%s Trying again.", said)
            stopping.wait(pause)
            pause = min(pause * 2, 5)
