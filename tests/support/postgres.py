"""A private PostgreSQL for tests: a cluster in a temporary folder, on loopback, that can crash and hang.

It uses no server, cluster or account of the system; `scripts/postgres` finds the programs.
"""

import atexit
import contextlib
import ctypes
import itertools
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import asyncpg

from inferd.services.launch.supervisor import descendants, supervised
from tests.support.ports import free_ports

# PostgreSQL's own are left alone where durability depends on them: fsync and synchronous_commit are on.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "16MB",
    # In the folder, not in /dev/shm, where a crash would leave it.
    "dynamic_shared_memory_type": "mmap",
    "log_min_messages": "warning",
    "log_timezone": "UTC",
    "timezone": "UTC",
}
STOPS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class Postgres:
    """A private cluster. What it holds and the port survive `stop` and `kill`; `close` removes it all.

    The methods block, at most for as long as PostgreSQL takes; they may be called in any thread. On the
    supervisor it ends with the tests' process, however that ends.
    """

    def __init__(self) -> None:
        self.password = secrets.token_hex(16)
        self.port = 0
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        script = Path(__file__).parents[2] / "scripts" / "postgres"
        found = subprocess.run([script], stdout=subprocess.PIPE, text=True, check=True)
        self._programs = Path(found.stdout.strip())

        temporary = Path(tempfile.gettempdir())
        self._as_user: list[str] = []
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root.
            names = {entry.pw_name for entry in pwd.getpwall()}
            user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
            ids = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
            # The change of user clears the signal that the supervisor has set.
            self._as_user = ["setpriv", *ids, "--pdeathsig=KILL", "--"]
            if not all(folder.stat().st_mode & 0o001 for folder in (temporary, *temporary.parents)):
                temporary = Path("/tmp")
        self.folder = Path(tempfile.mkdtemp(prefix="inferd-postgres-", dir=temporary))
        self.log = self.folder / "log"
        self._owner = os.getpid()
        atexit.register(self.close)

        password = self.folder / "password"
        password.write_text(self.password)
        if self._as_user:
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            os.chown(password, user.pw_uid, user.pw_gid)
        options = ["--no-sync", "--encoding=UTF8", "--locale=C", "--username=inferd", "--auth=scram-sha-256"]
        options += [f"--pwfile={password}", f"--pgdata={self.folder / 'data'}"]
        made = subprocess.run(
            [*self._as_user, str(self._programs / "initdb"), *options],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        password.unlink()
        if made.returncode:
            self.close()
            raise RuntimeError(f"initdb failed:\n{made.stdout}")

    @property
    def running(self) -> bool:
        return self._supervisor is not None and self._supervisor.poll() is None

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://inferd:{self.password}@127.0.0.1:{self.port}/{database}"

    async def create_database(self) -> str:
        """The URL of a new, empty database."""
        name = f"inferd_{next(self._numbers)}"
        await self._execute(f"CREATE DATABASE {name}")
        return self.url(name)

    async def drop_database(self, url: str) -> None:
        """Drop a database, and whatever connections to it are left."""
        await self._execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.url())
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def start(self, timeout: float = 60) -> None:
        """Start it, and wait until it accepts connections. Also after `kill`: it then recovers first."""
        if self.running:
            raise RuntimeError("PostgreSQL is running already")
        for port in [self.port] if self.port else free_ports(5):
            self._clean()
            if self._launch(port, timeout):
                self.port = port
                return
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])
        raise RuntimeError(f"PostgreSQL did not start. The end of its log:\n{tail}")

    def _launch(self, port: int, timeout: float) -> bool:
        settings = [f"--{name}={value}" for name, value in {**SETTINGS, "port": port}.items()]
        command = [
            *self._as_user,
            str(self._programs / "postgres"),
            "-D",
            str(self.folder / "data"),
            *settings,
        ]
        with self.log.open("ab") as log:
            self._supervisor = subprocess.Popen(
                supervised(command),
                cwd=self.folder,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout
        while self.running and time.monotonic() < deadline:
            # The eighth line is the state, and the last thing to be written.
            if [line.strip() for line in self._pid_file()[7:8]] == ["ready"]:
                return True
            time.sleep(0.01)
        self.kill()
        return False

    def stop(self, mode: str = "fast", timeout: float = 60) -> None:
        """Shut it down: "smart" waits for clients, "fast" ends them, "immediate" leaves a recovery to do."""
        if self.running:
            assert self._supervisor is not None
            os.kill(self._processes()[0], STOPS[mode])
            self._supervisor.wait(timeout)
            assert self._supervisor.stdin is not None
            self._supervisor.stdin.close()

    def restart_immediate(self) -> None:
        """As `pg_ctl -m immediate restart`: clients are cut off, and it recovers from its log."""
        self.stop("immediate")
        self.start()

    def kill(self) -> None:
        """SIGKILL to all its processes, at one instant: none of them sees another one die."""
        if self._supervisor is not None:
            self.freeze()
            for pid in self._processes():
                _send(signal.SIGKILL, pid)
            assert self._supervisor.stdin is not None
            self._supervisor.stdin.close()
            self._supervisor.wait(60)
        self._clean()

    def freeze(self) -> None:
        """Stop all its processes where they are. The kernel still accepts connections to them."""
        frozen: list[int] = []
        while (pids := self._processes()) != frozen:  # The parent is the first, so this ends.
            for pid in pids:
                _send(signal.SIGSTOP, pid)
            frozen = pids

    def thaw(self) -> None:
        for pid in self._processes():
            _send(signal.SIGCONT, pid)

    def close(self) -> None:
        """Kill it and remove everything. Twice is no error; in a fork of the tests' process, nothing."""
        if os.getpid() == self._owner:
            self.kill()
            shutil.rmtree(self.folder, ignore_errors=True)
            atexit.unregister(self.close)

    def _processes(self) -> list[int]:
        """All of the server's processes, the postmaster first."""
        return descendants(self._supervisor.pid) if self._supervisor is not None and self.running else []

    def _pid_file(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "data" / "postmaster.pid").read_text().splitlines()
        return []

    def _clean(self) -> None:
        """What a killed postmaster leaves: its pid file, and the shared memory named in there."""
        for line in self._pid_file()[6:7]:
            ctypes.CDLL(None).shmctl(int(line.split()[1]), 0, None)  # IPC_RMID
        (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)


def _send(number: signal.Signals, pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
