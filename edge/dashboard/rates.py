"""How often one caller may ask the JSON API: a moving minute for each token, account, and unknown address."""

from __future__ import annotations

import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from edge.config import Web
from edge.errors import EdgeError


class TooOften(EdgeError):
    """`seconds`: when the next call will be answered."""

    def __init__(self, sentence: str, seconds: int) -> None:
        super().__init__(sentence)
        self.seconds = seconds


class Rates:
    """Thread-safe. Counts in this process; the dashboard is one process."""

    def __init__(self, web: Web) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._known = RateLimitItemPerMinute(web.api_calls_per_minute)
        self._unknown = RateLimitItemPerMinute(web.api_refusals_per_minute)

    def called(self, caller: str) -> None:
        """Somebody we know calls. Raises `TooOften`."""
        self._hit(self._known, "caller", caller, "web.api_calls_per_minute")

    def refused(self, address: str) -> None:
        """A call without a valid token or session comes from here. Raises `TooOften`."""
        self._hit(self._unknown, "address", address, "web.api_refusals_per_minute")

    def _hit(self, limit: RateLimitItemPerMinute, *key: str) -> None:
        *who, setting = key
        if self._limiter.hit(limit, *who):
            return
        seconds = max(1, math.ceil(self._limiter.get_window_stats(limit, *who).reset_time - time.time()))
        raise TooOften(
            f"More than {limit.amount} calls within a minute ({setting}). The next is answered in {seconds} seconds.",
            seconds,
        )
