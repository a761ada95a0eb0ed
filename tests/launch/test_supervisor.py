"""The supervisor: all that it runs ends with its owner, whichever process is killed with SIGKILL."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from inferd.services.launch.supervisor import descendants, supervised

# Writes a line with its process id and those of its own child and grandchild. None of them heeds SIGTERM.
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
depth = int(sys.argv[1])
print(os.getpid(), flush=True)
if depth:
    subprocess.Popen([sys.executable, "-c", os.environ["STUBBORN"], str(depth - 1)])
time.sleep(600)
"""
# Owns a supervisor as inferd does, and writes the supervisor's process id.
OWNER = """
import subprocess, sys, time
supervisor = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, start_new_session=True)
print(supervisor.pid, flush=True)
time.sleep(600)
"""


def run(
    code: str, *arguments: str, stdin: int | None = subprocess.PIPE, **options: object
) -> subprocess.Popen[str]:
    """A supervisor of this test's own, around a Python program."""
    command = supervised([sys.executable, "-c", code, *arguments], **options)  # type: ignore[arg-type]
    return subprocess.Popen(
        command,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def lines(process: subprocess.Popen[str], count: int) -> list[int]:
    assert process.stdout is not None
    return [int(process.stdout.readline()) for _ in range(count)]


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    return False


def gone(pids: list[int], seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture(autouse=True)
def stubborn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUBBORN", STUBBORN)


@pytest.fixture
def owned() -> Iterator[tuple[int, int, list[int]]]:
    """(owner, supervisor, its tree of three)."""
    command = supervised([sys.executable, "-c", STUBBORN, "2"])
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, *command], stdout=subprocess.PIPE, text=True
    ) as owner:
        supervisor, *tree = lines(owner, 4)
        yield owner.pid, supervisor, tree
        for pid in (owner.pid, supervisor, *tree):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("pass", 0),
        ("raise SystemExit(7)", 7),
        ("import os; os.kill(os.getpid(), 9)", 137),
        ("import os; os.kill(os.getpid(), 15)", 143),
    ],
)
def test_exit_code_is_the_childs(code: str, expected: int) -> None:
    with run(code) as supervisor:
        assert supervisor.wait(10) == expected


def test_command_that_cannot_run() -> None:
    command = supervised(["/nonexistent/engine"])
    pipe = subprocess.PIPE
    # Not subprocess.run, which closes the standard input at once: that ends the command, too.
    with subprocess.Popen(command, stdin=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        assert process.wait(20) == 127
        assert process.stderr is not None
        assert process.stderr.read() == "inferd: cannot run /nonexistent/engine: No such file or directory\n"


def test_child_is_not_fed_our_pipe() -> None:
    with run("import sys; print(repr(sys.stdin.read()))") as supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == "''\n"


def test_owner_killed(owned: tuple[int, int, list[int]]) -> None:
    owner, supervisor, tree = owned
    os.kill(owner, signal.SIGKILL)
    assert gone([supervisor, *tree], 2)


def test_supervisor_killed(owned: tuple[int, int, list[int]]) -> None:
    _, supervisor, tree = owned
    os.kill(supervisor, signal.SIGKILL)
    assert gone(tree, 2)


def test_all_above_the_grandchild_killed(owned: tuple[int, int, list[int]]) -> None:
    owner, supervisor, tree = owned
    for pid in (owner, supervisor, tree[0]):
        os.kill(pid, signal.SIGKILL)
    assert gone(tree, 2)


def test_all_above_the_last_killed_from_below(owned: tuple[int, int, list[int]]) -> None:
    owner, supervisor, tree = owned
    for pid in (tree[1], tree[0], supervisor, owner):
        os.kill(pid, signal.SIGKILL)
    assert gone(tree, 2)


def test_pipe_closed() -> None:
    with run(STUBBORN, "2") as supervisor:
        tree = lines(supervisor, 3)
        assert supervisor.stdin is not None
        supervisor.stdin.close()
        assert supervisor.wait(2) == 137
        assert not any(map(alive, tree))


@pytest.mark.parametrize("moment", [0.0, 0.02, 0.05, 0.1, 0.3])
def test_owner_killed_while_starting(moment: float, tmp_path: Path) -> None:
    mark = str(tmp_path)
    command = supervised([sys.executable, "-c", STUBBORN, "2", mark])
    with subprocess.Popen([sys.executable, "-S", "-c", OWNER, *command], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        time.sleep(moment)
        owner.kill()
    deadline = time.monotonic() + 5
    while left := [pid for pid in descendants(1) if mark in command_line(pid)]:
        assert time.monotonic() < deadline, [command_line(pid) for pid in left]
        time.sleep(0.02)


def command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    return ""


def test_sigterm_is_the_childs_to_handle() -> None:
    polite = """
import signal, sys, time
def end(*_):
    print("tidied", flush=True)
    sys.exit(3)
signal.signal(signal.SIGTERM, end)
print(0, flush=True)
time.sleep(600)
"""
    with run(polite) as supervisor:
        lines(supervisor, 1)
        supervisor.terminate()
        assert supervisor.wait(5) == 3
        assert supervisor.stdout is not None
        assert supervisor.stdout.read() == "tidied\n"


def test_sigterm_unheeded_is_sigkill_after_the_grace() -> None:
    with run(STUBBORN, "1", grace=0.3) as supervisor:
        tree = lines(supervisor, 2)
        began = time.monotonic()
        supervisor.terminate()
        assert supervisor.wait(5) == 137
        assert 0.3 <= time.monotonic() - began < 4
        assert not any(map(alive, tree))


def test_child_ends_before_its_own() -> None:
    orphaning = """
import os, subprocess, sys
command = [sys.executable, "-c", os.environ["STUBBORN"], "1"]
below = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, text=True)
for _ in range(2):
    print(below.stdout.readline(), end="", flush=True)
sys.exit(5)
"""
    with run(orphaning) as supervisor:
        tree = lines(supervisor, 2)
        assert supervisor.wait(10) == 5
        assert not any(map(alive, tree))


def test_vital_process_ends() -> None:
    """SGLang's scheduler, which changes its process name, may die while its parent process lives on."""
    engine = """
import os, subprocess, sys, time
code = "import time; time.sleep(600)"
for name in ("idle::helper", "engine::scheduler"):
    print(subprocess.Popen([name, "-c", code], executable=sys.executable).pid, flush=True)
time.sleep(600)
"""
    with run(engine, vital="engine::") as supervisor:
        helper, scheduler = lines(supervisor, 2)
        os.kill(helper, signal.SIGKILL)
        time.sleep(1.5)
        assert supervisor.poll() is None
        os.kill(scheduler, signal.SIGKILL)
        assert supervisor.wait(6) == 143
        assert supervisor.stdout is not None
        assert f"process {scheduler}, needed by the others" in supervisor.stdout.read()
