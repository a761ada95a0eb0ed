"""The launcher with the real SGLang: a dead scheduler is a restart, and SGLang never outlives inferd."""

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from inferd.services.launch.supervisor import descendants
from tests.real.engine_process import Engine, running_engine

MARK = "INFERD_TEST_MARK"


@pytest.fixture(autouse=True)
def mark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> bytes:
    """Stands in the environment of every process that the test starts, and of those that they start."""
    monkeypatch.setenv(MARK, str(tmp_path))
    return f"{MARK}={tmp_path}".encode()


def marked(mark: bytes) -> set[int]:
    """The processes that have the mark. A worker that names itself loses it: look at it before as well."""
    found = set()
    for pid in set(descendants(1)) - {os.getpid()}:
        with contextlib.suppress(OSError):
            if mark in Path(f"/proc/{pid}/environ").read_bytes():
                found.add(pid)
    return found


def below(engine: Engine, name: bytes) -> int:
    """The one process below the engine whose command line begins with `name`, give or take an interpreter."""
    pids = descendants(engine.process.pid)
    (found,) = (pid for pid in pids if name in b" ".join(command_line(pid).split(b"\0")[:5]))
    return found


def assert_gone(pids: set[int], mark: bytes, seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while left := pids & set(descendants(1)) | marked(mark):
        assert time.monotonic() < deadline, {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in left}
        time.sleep(0.05)


def all_of(engine: Engine, mark: bytes) -> set[int]:
    return {engine.process.pid, *descendants(engine.process.pid)} | marked(mark)


def test_scheduler_killed_then_inferd_killed(tiny_model_path: Path, tmp_path: Path, mark: bytes) -> None:
    with running_engine(tiny_model_path, tmp_path) as engine:
        engine.wait_for("ready")
        address = engine.address
        first = set(descendants(engine.process.pid))
        os.kill(below(engine, b"sglang::scheduler"), signal.SIGKILL)
        assert str(tmp_path) in engine.wait_for("restarting", 10)
        engine.wait_for("ready")
        assert engine.address == address
        assert not first & set(descendants(1))

        pids = all_of(engine, mark)
        assert len(pids) >= 4  # engine.py, supervisor, SGLang, its scheduler
        engine.process.kill()
        assert_gone(pids, mark)


@pytest.mark.parametrize("moment", [0.0, 0.2, 2.0])
def test_inferd_killed_right_after_the_start(
    tiny_model_path: Path, tmp_path: Path, mark: bytes, moment: float
) -> None:
    with running_engine(tiny_model_path, tmp_path) as engine:
        engine.wait_for("starting")
        time.sleep(moment)
        pids = all_of(engine, mark)
        engine.process.kill()
        assert_gone(pids, mark)


@pytest.mark.parametrize("above", [False, True], ids=["inferd", "all above the scheduler"])
def test_killed_while_the_scheduler_imports(
    tiny_model_path: Path, tmp_path: Path, mark: bytes, above: bool
) -> None:
    with running_engine(tiny_model_path, tmp_path) as engine:
        while engine.wait_for("starting") != "starting the scheduler":
            pass
        deadline = time.monotonic() + 30
        while not any(b"spawn_main" in command_line(pid) for pid in marked(mark)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(1)
        pids = all_of(engine, mark)
        # Children first, so that no process that is left sees a child die and acts on it.
        doomed = (
            [below(engine, b"-m sglang.launch_server"), below(engine, b"/supervisor.py")] if above else []
        )
        for pid in (*doomed, engine.process.pid):
            os.kill(pid, signal.SIGKILL)
        assert_gone(pids, mark)


def command_line(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
