"""The launcher with `fake_engine.py`: its states, restarts, when it gives up, and that no process is left."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from inferd.services.launch.accelerator import find_accelerator
from inferd.services.launch.local_sglang import LaunchError, LaunchState, LocalSGLang, RestartPolicy
from inferd.services.launch.sglang_command import Command, sglang_command
from inferd.services.launch.sglang_log import SGLangLog
from inferd.services.launch.supervisor import descendants

FAKE = Path(__file__).parents[1] / "doubles" / "fake_engine.py"
QUICK = RestartPolicy(start_timeout=20, first_backoff=0.05, longest_backoff=0.2)


@asynccontextmanager
async def launched(
    folder: Path, plan: str, policy: RestartPolicy = QUICK, logs: Path | None = None
) -> AsyncGenerator[tuple[LocalSGLang, list[LaunchState]]]:
    """A started launcher of the fake engine, and the states that it told."""
    states: list[LaunchState] = []

    def command(port: int, _: int) -> Command:
        return Command([sys.executable, str(FAKE), str(port), str(folder), plan], dict(os.environ), None)

    engine = LocalSGLang(
        folder,
        on_state=states.append,
        name="fake",
        policy=policy,
        logs=logs or folder / "log",
        command=command,
    )
    engine.start()
    try:
        yield engine, states
    finally:
        await engine.close()
        assert processes(folder) == []


def processes(folder: Path) -> list[int]:
    """All of the fake engine's processes: its command line names the folder, its child's parent is it."""
    found = []
    for pid in descendants(1):
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            if str(folder).encode() in line:
                found += [pid, *descendants(pid)]
    return sorted(set(found))


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


def phases(states: list[LaunchState]) -> list[str]:
    """The phases, without the repetitions that the stages of a start are."""
    return [state.phase for n, state in enumerate(states) if n == 0 or states[n - 1].phase != state.phase]


async def test_start_ready_close(tmp_path: Path) -> None:
    async with launched(tmp_path, "serve") as (engine, states):
        await engine.ready()
        assert engine.state == LaunchState("ready", f"ready at 127.0.0.1:{engine.port}")
        assert LaunchState("starting", "starting the scheduler") in states
        assert len(processes(tmp_path)) == 3  # supervisor, engine, scheduler
    assert phases(states) == ["starting", "ready", "stopped"]
    with pytest.raises(LaunchError, match="closed"):
        await engine.ready()


async def test_crash_is_followed_by_a_start_at_the_same_address(tmp_path: Path) -> None:
    async with launched(tmp_path, "serve") as (engine, states):
        await engine.ready()
        supervisor, main, _ = processes(tmp_path)
        os.kill(main, signal.SIGKILL)
        await until(lambda: engine.state.phase != "ready")
        await engine.ready()
        assert phases(states) == ["starting", "ready", "restarting", "starting", "ready"]
        restarting = next(state.detail for state in states if state.phase == "restarting")
        assert "killed by SIGKILL" in restarting and str(engine.log_path) in restarting
        assert supervisor not in processes(tmp_path)


async def test_scheduler_alone_dies(tmp_path: Path) -> None:
    async with launched(tmp_path, "serve") as (engine, _):
        await engine.ready()
        await asyncio.sleep(1.2)  # the supervisor looks for it once a second
        before = processes(tmp_path)
        os.kill(int((tmp_path / "scheduler").read_text()), signal.SIGKILL)
        await until(lambda: engine.state.phase != "ready")
        await engine.ready()
        assert not set(before) & set(processes(tmp_path))


async def test_supervisor_killed(tmp_path: Path) -> None:
    async with launched(tmp_path, "serve") as (engine, _):
        await engine.ready()
        before = processes(tmp_path)
        os.kill(before[0], signal.SIGKILL)
        await until(lambda: engine.state.phase != "ready")
        await engine.ready()
        assert not set(before) & set(processes(tmp_path))


async def test_gives_up_after_three_failed_starts(tmp_path: Path) -> None:
    async with launched(tmp_path, "fail") as (engine, states):
        with pytest.raises(LaunchError) as raised:
            await engine.ready()
        assert phases(states) == ["starting", "restarting"] * 2 + ["starting", "failed"]
        text = str(raised.value)
        assert "it ended while it started, exit code 1, 3 times in a row" in text
        assert "RuntimeError: There is no such model" in text
        assert str(engine.log_path) in text and "inferd[sglang]" in text
        assert (tmp_path / "starts").read_text() == "3"


async def test_failed_starts_count_in_a_row_only(tmp_path: Path) -> None:
    async with launched(tmp_path, "fail,fail,serve,fail,fail,serve") as (engine, states):
        await engine.ready()
        os.kill(processes(tmp_path)[1], signal.SIGKILL)
        await until(lambda: engine.state.phase != "ready")
        await engine.ready()
        assert (tmp_path / "starts").read_text() == "6"
        pauses = [
            state.detail.split(" in ")[1].split(";")[0] for state in states if state.phase == "restarting"
        ]
        assert pauses == ["0.05 s", "0.1 s", "0.2 s", "0.2 s", "0.2 s"]


async def test_backoff_begins_anew_after_a_stable_time(tmp_path: Path) -> None:
    policy = RestartPolicy(start_timeout=20, first_backoff=0.05, longest_backoff=5, stable=0)
    async with launched(tmp_path, "serve", policy) as (engine, states):
        for _ in range(3):
            await engine.ready()
            os.kill(processes(tmp_path)[1], signal.SIGKILL)
            await until(lambda: engine.state.phase != "ready")
        assert all(" in 0.05 s" in state.detail for state in states if state.phase == "restarting")


async def test_start_that_takes_too_long(tmp_path: Path) -> None:
    policy = RestartPolicy(start_timeout=0.5, first_backoff=0.01, attempts=2)
    async with launched(tmp_path, "hang", policy) as (engine, _):
        with pytest.raises(LaunchError, match=r"was not ready in 0\.5 s, 2 times"):
            await engine.ready()
        assert processes(tmp_path) == []


@pytest.mark.parametrize("moment", [0.0, 0.03, 0.2])
async def test_closed_while_starting(tmp_path: Path, moment: float) -> None:
    async with launched(tmp_path, "hang"):
        await asyncio.sleep(moment)


async def test_closed_though_deaf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inferd.services.launch.local_sglang._GRACE", 0.3)
    async with launched(tmp_path, "deaf") as (engine, _):
        await engine.ready()


async def test_command_that_does_not_exist(tmp_path: Path) -> None:
    engine = LocalSGLang(
        tmp_path,
        logs=tmp_path,
        policy=RestartPolicy(first_backoff=0.01, attempts=1),
        command=lambda *_: Command(["/nonexistent/python"], {}, None),
    )
    engine.start()
    with pytest.raises(LaunchError, match="cannot run /nonexistent/python: No such file"):
        await engine.ready()
    await engine.close()


async def test_port_stays_reserved(tmp_path: Path) -> None:
    """No other process can get the port between two starts of the engine."""
    engine = LocalSGLang(tmp_path, logs=tmp_path, command=lambda *_: Command([], {}, None))
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    with pytest.raises(RuntimeError):
        server.add_insecure_port(engine.address)
    await engine.close()
    assert server.add_insecure_port(engine.address) == engine.port
    await server.stop(None)


@pytest.mark.parametrize("argument", ["--port", "--port=1", "--model-path"])
def test_arguments_that_inferd_chooses(tmp_path: Path, argument: str) -> None:
    with pytest.raises(LaunchError, match=argument):
        LocalSGLang(tmp_path, [argument, "1"], command=lambda *_: Command([], {}, None))


def test_sglang_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(LaunchError, match=r"inferd\[sglang\]"):
        LocalSGLang(tmp_path)


Machine = Callable[..., Path]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    def with_files(*names: str) -> Path:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return with_files


def test_accelerator(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_accelerator({}, machine("dev/nvidiactl", "dev/null")) is None
    monkeypatch.setattr("inferd.services.launch.accelerator._torch_version", lambda: "2.14.1")
    assert find_accelerator({}, machine("dev/dri/renderD128")) is None
    monkeypatch.setattr("inferd.services.launch.accelerator._torch_version", lambda: "2.14.1+xpu")
    assert find_accelerator({}, machine()) == "Intel"
    assert find_accelerator({}, machine("dev/kfd")) == "AMD"
    assert find_accelerator({}, machine("dev/nvidia0")) == "NVIDIA"
    assert find_accelerator({"CUDA_VISIBLE_DEVICES": ""}, machine()) == "AMD"


def test_command_without_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inferd.services.launch.sglang_command.find_accelerator", lambda _: None)
    command = sglang_command(Path("/m"), ["--dtype", "bfloat16"], 1, 2, {"PATH": "/bin"})
    args = list(command.args)
    assert args[1:9] == [
        "-P",
        "-m",
        "sglang.launch_server",
        "--model-path",
        "/m",
        "--smg-grpc-mode",
        "--host",
        "127.0.0.1",
    ]
    assert [args[args.index(name) + 1] for name in ("--port", "--grpc-port")] == ["1", "1"]
    assert args[args.index("--attention-backend") + 1] == "torch_native"
    assert args[-2:] == ["--dtype", "bfloat16"]
    assert command.environment["SGLANG_PLATFORM"] == "generic_cpu"
    assert command.environment["SMG_SGLANG_SERVICER_WARMUP"] == "off"
    # Otherwise a request whose grammar no token can follow would end the engine.
    assert command.environment["SGLANG_SANITIZE_NAN_LOGITS"] == "1"
    assert command.environment["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in sglang_command("org/model", [], 1, 2, {}).environment


@pytest.mark.parametrize(
    ("accelerator", "environ"),
    [("NVIDIA", {}), (None, {"SGLANG_USE_CPU_ENGINE": "1"}), (None, {"SGLANG_PLATFORM": "x"})],
)
def test_command_leaves_defaults_alone(
    monkeypatch: pytest.MonkeyPatch, accelerator: str | None, environ: dict[str, str]
) -> None:
    monkeypatch.setattr("inferd.services.launch.sglang_command.find_accelerator", lambda _: accelerator)
    command = sglang_command(Path("/m"), [], 1, 2, environ)
    assert "--device" not in command.args and "--attention-backend" not in command.args
    assert command.environment.get("SGLANG_PLATFORM") == environ.get("SGLANG_PLATFORM")
    assert "SMG_SGLANG_SERVICER_WARMUP" not in command.environment


def test_log_is_bounded_and_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inferd.services.launch.sglang_log._MAX_BYTES", 1_000_000)
    log, other = SGLangLog(tmp_path, "m"), SGLangLog(tmp_path, "m")
    assert (log.path.parent.name, other.path.parent.name) == ("m", "m-2")
    for _ in range(7):
        log.begin()
        assert log.write(b"x" * 600_000) is None
        log.write(b"y" * 600_000 + b"\n")
    files = {file.name: file.stat().st_size for file in log.path.parent.glob("current*")}
    assert files == {
        f"current.log{end}": 600_000 + (end in ("", ".2", ".4")) for end in ("", ".1", ".2", ".3", ".4")
    }
    log.close()
    other.close()
    again = SGLangLog(tmp_path, "m")
    assert again.path.parent.name == "m"
    again.close()


def test_log_tells_stages_and_keeps_meaningful_lines(tmp_path: Path) -> None:
    log = SGLangLog(tmp_path, "m")
    log.begin()
    assert log.write(b"Multi-thread loading shards:  50% Comp") is None
    assert (
        log.write(b"leted | 1/2\rMulti-thread loading shards: 100% Completed | 2/2\n")
        == "loading weights: 100%"
    )
    log.write(b"a.py:3: UserWarning: old\n  warnings.warn(\nTraceback:\n\nValueError: no\xff memory\n")
    assert log.tail() == "  Traceback:\n  ValueError: no\N{REPLACEMENT CHARACTER} memory"
    log.close()


async def test_two_of_the_same_model(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    logs = tmp_path / "log"
    async with (
        launched(tmp_path / "a", "serve", logs=logs) as (one, _),
        launched(tmp_path / "b", "serve", logs=logs) as (two, _),
    ):
        await asyncio.gather(one.ready(), two.ready())
        assert one.address != two.address
        assert one.log_path != two.log_path
