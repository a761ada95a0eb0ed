"""Decides whether a continuation fails alone, or its whole request. Generates nothing itself."""

from collections.abc import Sequence

import grpc

from inferd.services.errors import ServiceError
from inferd.services.generation.delta_sink import DeltaSink, TextDelta


class ContinuationFailures:
    """Decides the effect of a failed continuation while others run.

    A failed continuation ends with a delta whose `finish` is "error". That delta is held back until another
    continuation has begun, because the request as a whole fails if none does. If `all_or_none` is set, the
    request fails with the first failed continuation.
    """

    def __init__(self, sinks: Sequence[DeltaSink], *, all_or_none: bool) -> None:
        self._sinks = sinks
        self._all_or_none = all_or_none
        self._first: ServiceError | None = None
        self._count = 0
        self._held: list[tuple[int, ServiceError]] = []
        #: Continuations that have begun. Two are enough: one of them is another than the failed one.
        self._begun: set[int] = set()

    def set_begun(self, index: int) -> None:
        """The continuation at `index` has its first token."""
        if len(self._begun) < 2:
            self._begun.add(index)
            self._push_errors()

    def add(self, index: int, error: ServiceError) -> None:
        """The continuation at `index` has failed.

        Raises ServiceError if the request fails with it: the request is at fault, all continuations have
        failed, or they were asked for as a whole.
        """
        if error.code is grpc.StatusCode.INVALID_ARGUMENT:
            raise error
        self._count += 1
        self._first = self._first or error
        if self._all_or_none or self._count == len(self._sinks):
            raise self._first
        self._held.append((index, error))
        self._push_errors()

    def _push_errors(self) -> None:
        """End failed continuations, each if another continuation has begun."""
        held, self._held = self._held, []
        for index, error in held:
            if self._begun - {index}:
                self._sinks[index].push(TextDelta("", (), "error", error=error))
            else:
                self._held.append((index, error))
