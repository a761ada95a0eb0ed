"""A fake QueueService for the tests of `inferd queue`."""

from collections.abc import Iterator

import pytest

from inferd.services.app import queue_commands
from tests.doubles.fake_queue import RunningQueue


@pytest.fixture
def queue() -> Iterator[RunningQueue]:
    running = RunningQueue()
    yield running
    running.hold.set()
    running.server.stop(0).wait()


@pytest.fixture
def no_backoff(monkeypatch) -> None:
    monkeypatch.setattr(queue_commands, "_BACKOFF", (0.01, 0.01, 0.01))
