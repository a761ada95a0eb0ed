"""Another process's writes to a file are noticed: by inotify, or without it by looking at the file."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from inferd.services.queue import file_watcher
from inferd.services.queue.file_watcher import FileWatcher

PATIENCE = 20.0


@pytest.fixture(autouse=True)
def never_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is found but what was told of."""
    monkeypatch.setattr(file_watcher, "_POLL", 3600.0)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "queue.db-wal"
    path.write_bytes(b"")
    return path


def write(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def write_elsewhere(path: Path) -> None:
    subprocess.run([sys.executable, "-c", f"open({str(path)!r}, 'ab').write(b'x')"], check=True)


async def told_of_one(watch: FileWatcher) -> None:
    await asyncio.wait_for(watch.wait(), PATIENCE)


async def is_quiet(watch: FileWatcher) -> bool:
    waiting = asyncio.create_task(watch.wait())
    done, _ = await asyncio.wait([waiting], timeout=0.3)
    waiting.cancel()
    return not done


async def test_each_write_of_another_process_is_told_of(log: Path) -> None:
    with FileWatcher(log) as watch:
        assert await is_quiet(watch)
        for _ in range(3):
            write_elsewhere(log)
            await told_of_one(watch)
            assert await is_quiet(watch)


async def test_a_write_that_nobody_waited_for_is_told_of_later(log: Path) -> None:
    with FileWatcher(log) as watch:
        write(log)
        await told_of_one(watch)
        write(log)
        await asyncio.sleep(0.2)
        await told_of_one(watch)


async def test_a_burst_is_told_of_once(log: Path) -> None:
    with FileWatcher(log) as watch:
        for _ in range(1000):
            write(log)
        await told_of_one(watch)
        assert await is_quiet(watch)


async def test_where_the_kernel_cannot_watch_it_is_to_be_looked_at(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with FileWatcher(tmp_path / "queue.db-wal") as watch:
        for _ in range(3):
            await told_of_one(watch)
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "queue.db-wal is polled, as it cannot be watched"
    ]


async def test_nothing_is_left_behind(log: Path) -> None:
    before = open_files()
    for path in [log, log.with_name("none")] * 3:
        with FileWatcher(path):
            pass
    assert open_files() == before
