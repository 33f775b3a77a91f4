"""Rankings that are kept for a while, so that the pages of one question are cut from one ranking."""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections import OrderedDict
from typing import Generic, TypeVar

from edge.errors import Rejected

T = TypeVar("T")

#: Rankings kept at once, and seconds until one is forgotten.
MOST, SECONDS = 64, 600.0

_CURSOR = re.compile(r"([A-Za-z0-9_-]{16})\.([0-9]{1,4})")


class Gone(Rejected):
    """The ranking of this cursor is not kept any more; the question has to be asked again."""


class Pages(Generic[T]):
    """Thread-safe. A cursor names a ranking and a place in it; a cursor may be used again and gives the same page."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[float, T]] = OrderedDict()

    def keep(self, ranking: T, offset: int, cursor: str | None = None) -> str:
        """A cursor for `offset` of `ranking`; `cursor`: an earlier one of the same ranking."""
        with self._lock:
            name = cursor.partition(".")[0] if cursor else secrets.token_urlsafe(12)
            if name not in self._kept:
                self._kept[name] = (0.0, ranking)
            self._kept[name] = (time.monotonic() + SECONDS, self._kept[name][1])
            self._kept.move_to_end(name)
            while len(self._kept) > MOST:
                self._kept.popitem(last=False)
        return f"{name}.{offset}"

    def find(self, cursor: str) -> tuple[T, int]:
        """The ranking and the offset of a cursor. Raises `Rejected` for what is none, `Gone` for one that is past."""
        match = _CURSOR.fullmatch(cursor)
        if match is None:
            raise Rejected("This is no cursor that a search returned.")
        with self._lock:
            until, ranking = self._kept.get(match[1], (0.0, None))
            if ranking is None or time.monotonic() > until:
                raise Gone(f"The results behind this cursor are kept for {SECONDS / 60:.0f} minutes. Ask again.")
            return ranking, int(match[2])
