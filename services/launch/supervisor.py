"""A small process between inferd and a child process, so that no process of the child outlives inferd.

Uses only the standard library and is started by its path, so it starts within milliseconds. Restarts nothing:
`local_sglang` does. The supervisor ends the child and all descendants of the child if:

- inferd dies in any way (the pipe on stdin closes, or inferd's pidfd becomes readable): with SIGKILL, at
once; - the supervisor gets SIGTERM: with SIGTERM to the child and SIGKILL after a grace period, then the
same for the
  processes that are left;
- the child ends, or one of its *vital* processes does (such as the scheduler of an engine): in the same way;
- the supervisor is killed with SIGKILL: the kernel ends them. The child has PR_SET_PDEATHSIG. All others are
  the foreground process group of a terminal that exists only for this purpose, and get SIGHUP because the
  supervisor was the leader of their session. SIGHUP also reaches a process that has only just started.

Linux only: as a child subreaper (prctl(2)), the supervisor inherits every orphan, so it knows when no process
is left. The exit code is the child's, or 128 plus the number of the signal that ended the child.
"""

import argparse
import contextlib
import ctypes
import fcntl
import os
import select
import signal
import sys
import termios
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

# <linux/prctl.h>
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_STDIN = 0
_ENDING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
#: Seconds from SIGTERM to SIGKILL for the processes that are left after the child has ended.
_LEFTOVERS_GRACE = 1.0
#: Seconds between searches for new vital processes. The end of a known one is noticed at once.
_VITAL_INTERVAL = 1.0


def supervised(command: Sequence[str], *, grace: float = 10.0, vital: str | None = None) -> list[str]:
    """The command that runs `command` under a supervisor.

    Start it in a new session, with a pipe on stdin. Never write to the pipe: closing it ends all processes at
    once. `grace` is the time in seconds from SIGTERM to SIGKILL. `vital` is the beginning of the command line
    of processes that the others cannot do without.
    """
    options = ["--grace", str(grace)]
    if vital is not None:
        options += ["--vital", vital]
    # Isolated (-I) and without site-packages (-S): quick, and no module beside this one can shadow the
    # standard library.
    return [sys.executable, "-I", "-S", __file__, *options, "--", *command]


def descendants(root: int) -> list[int]:
    """The ids of all processes below the process `root`, parents first. Zombies are left out."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in os.listdir("/proc"):  # noqa: PTH208 - half the time of Path.iterdir
        if entry.isdecimal() and (stat := _stat(int(entry))) is not None and stat[0] not in "ZX":
            children[stat[1]].append(int(entry))
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(0), [])
        found += below
        waiting += below
    return found


def _stat(pid: int) -> tuple[str, int] | None:
    """The state letter and the parent's id of a process (proc(5)); None: the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123 - read for every process there is
            # The command name, in parentheses, may contain spaces and parentheses.
            state, parent = stat.read().rpartition(b") ")[2].split(b" ", 2)[:2]
    except OSError:
        return None
    return state.decode(), int(parent)


class _OwnerGone(Exception):
    """inferd has died: the processes are killed without a grace period."""


class _Supervisor:
    """The supervisor of one child, and the file descriptors that it watches."""

    def __init__(self, grace: float, vital: bytes | None) -> None:
        self._grace = grace
        self._vital = vital
        self._vital_fds: dict[int, int] = {}  # pidfd -> pid
        self._child = 0
        self._code: int | None = None
        self._owner_fd = _pidfd(os.getppid())
        self._wakeup, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        for number in _ENDING | {signal.SIGCHLD}:
            signal.signal(number, lambda *_: None)
        self._poll = select.poll()
        for fd in (_STDIN, self._wakeup, self._owner_fd):
            if fd is not None:
                self._poll.register(fd, select.POLLIN)

    def run(self, command: Sequence[str]) -> int:
        """Run the command until its last process has ended, and return the exit code of the first."""
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        # Kept open until this process ends: then the kernel closes the terminal, which sends SIGHUP.
        _terminal = _take_terminal()
        supervisor = os.getpid()
        self._child = os.fork()
        if self._child == 0:
            _become(command, supervisor, libc)
        with contextlib.suppress(_OwnerGone):
            self._watch()
            self._end()
        self._kill_all()
        return 128 + signal.SIGKILL if self._code is None else self._code

    def _watch(self) -> None:
        """Wait for the end of the child, for the end of a vital process, or for a signal to this process."""
        interval = _VITAL_INTERVAL if self._vital is not None else None
        while True:
            events, signals = self._wait(interval)
            self._reap()
            for fd in events & self._vital_fds.keys():
                _say(f"process {self._vital_fds[fd]}, needed by the others, ended: ending them all")
                self._grace = min(self._grace, _LEFTOVERS_GRACE)
                return
            if self._code is not None or signals & _ENDING:
                return
            if self._vital is not None:
                self._find_vital(self._vital)

    def _end(self) -> None:
        """End the child with SIGTERM, so that it can end its own children in order; then all that are
        left."""
        deadline = time.monotonic() + self._grace
        if self._code is None:
            _send(signal.SIGTERM, self._child)
        while self._reap() and self._code is None:
            if time.monotonic() > deadline:
                _send(signal.SIGKILL, self._child)
            self._wait(0.05)
        for pid in descendants(os.getpid()):
            _send(signal.SIGTERM, pid)
        deadline = time.monotonic() + _LEFTOVERS_GRACE
        while self._reap() and time.monotonic() < deadline:
            self._wait(0.05)

    def _kill_all(self) -> None:
        """Kill all processes, again and again until none is left, because processes may fork meanwhile."""
        while self._reap():
            for pid in descendants(os.getpid()):
                _send(signal.SIGKILL, pid)
            time.sleep(0.005)

    def _wait(self, seconds: float | None) -> tuple[set[int], set[int]]:
        """Wait for up to `seconds`. Returns the file descriptors that are ready, and the signals that
        arrived.

        Raises _OwnerGone.
        """
        events = {fd for fd, _ in self._poll.poll(None if seconds is None else seconds * 1000)}
        if self._owner_fd in events or (_STDIN in events and not os.read(_STDIN, 4096)):
            raise _OwnerGone
        return events, set(os.read(self._wakeup, 4096)) if self._wakeup in events else set()

    def _reap(self) -> bool:
        """Collect the exit codes of processes that have ended. Returns whether any process is left."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return True
                if pid == self._child:
                    code = os.waitstatus_to_exitcode(status)
                    self._code = code if code >= 0 else 128 - code
        return False

    def _find_vital(self, prefix: bytes) -> None:
        """Watch the topmost processes whose command line begins with `prefix`.

        A process below another of them may be a fork that has not called exec yet.
        """
        known = set(self._vital_fds.values())
        for pid in descendants(os.getpid()):
            with contextlib.suppress(OSError):
                stat = _stat(pid)
                if stat is None or not Path(f"/proc/{pid}/cmdline").read_bytes().startswith(prefix):
                    continue
                if pid not in known and stat[1] not in known and (fd := _pidfd(pid)) is not None:
                    self._vital_fds[fd] = pid
                    self._poll.register(fd, select.POLLIN)
                known.add(pid)


def _become(command: Sequence[str], supervisor: int, libc: ctypes.CDLL) -> NoReturn:
    """In the forked child: arrange to die with the supervisor, and execute `command`."""
    try:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != supervisor:
            os._exit(128 + signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        # SIGHUP too, because under nohup it is ignored, and every descendant would inherit that.
        for number in _ENDING | {signal.SIGCHLD, signal.SIGPIPE}:
            signal.signal(number, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, _STDIN)
        os.execvp(command[0], list(command))
    except OSError as error:
        _say(f"cannot run {command[0]}: {error.strerror}")
    finally:
        os._exit(127)


def _take_terminal() -> tuple[int, int] | None:
    """Make a new pseudo-terminal the controlling terminal of this session; None if that is not possible.

    The terminal carries no data. Without it, only the child itself is sure to die if the supervisor is killed
    with SIGKILL.
    """
    with contextlib.suppress(OSError):
        if os.getsid(0) != os.getpid():
            os.setsid()
        master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        return master, slave
    return None


def _pidfd(pid: int) -> int | None:
    """A file descriptor that becomes readable when the process `pid` ends.

    None if the process is gone, and before Linux 5.3.
    """
    with contextlib.suppress(OSError):
        return os.pidfd_open(pid)
    return None


def _send(number: signal.Signals, pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _say(message: str) -> None:
    print(f"inferd: {message}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="supervisor", description="Run a command that dies with its parent."
    )
    parser.add_argument("--grace", type=float, default=10.0)
    parser.add_argument("--vital")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    vital = None if options.vital is None else options.vital.encode()
    return _Supervisor(options.grace, vital).run(options.command)


if __name__ == "__main__":
    sys.exit(main())
