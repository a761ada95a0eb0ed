"""Bounds how often a client may do something that is cheap for it and costly for the server."""

import time


class RateLimit:
    """Allows `burst` units at once, and `per_second` units each second after that."""

    __slots__ = ("_burst", "_left", "_per_second", "_when")

    def __init__(self, burst: float, per_second: float) -> None:
        self._burst = self._left = burst
        self._per_second = per_second
        self._when = time.monotonic()

    def spend(self, units: float = 1) -> bool:
        """Count `units`. Returns False if the limit is exceeded."""
        self._left -= units
        if self._left >= 0:
            return True
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._when) * self._per_second)
        self._when = now
        return self._left >= 0
