"""The commands `inferd queue submit | list | get | watch | cancel | delete | stats`.

They are clients of QueueService over gRPC. `queue_display` prints their results: answers and ids to standard
output, notes and errors to standard error.
"""

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer

app = typer.Typer(help="Chat completions that are answered later, and are not lost.", no_args_is_help=True)

#: Timeout of a unary call in seconds, beside the time that it waits for the job.
_CALL_SECONDS = 10
#: Jobs in one List response.
_PAGE_SIZE = 100
#: Seconds between the attempts to watch again while the server is unavailable: three minutes in total.
_BACKOFF = (0.5, 1, 2, 4, 8, *[10] * 16)
#: Errors of a watch that do not mean that the job has ended.
_WATCH_AGAIN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
_CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    # Reconnect soon after a restart of the server, and notice a server that is gone without closing.
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]
_UNITS = {"": "seconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class StateOption(StrEnum):
    """The values of --state: inferd.v1.JobState in lower case."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


def parse_duration(text: str) -> timedelta:
    """ "90", "90s", "5m", "2h" or "1d". Raises typer.BadParameter."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)", text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no duration such as 90, 90s, 5m, 2h or 1d.")
    try:
        return timedelta(**{_UNITS[found[2]]: float(found[1])})
    except OverflowError:
        raise typer.BadParameter(f"{text!r} is too long.") from None


def parse_time(text: str) -> datetime:
    """A time in ISO 8601, local if it has no zone, or "+" and a duration from now.

    Raises typer.BadParameter.
    """
    try:
        if text.startswith("+"):
            return datetime.now().astimezone() + parse_duration(text[1:])
        return datetime.fromisoformat(text).astimezone()
    except OverflowError:
        raise typer.BadParameter(f"{text!r} is too far away.") from None
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no time such as 2026-11-23T18:00:00Z, nor a wait such as +10m."
        ) from None


_Target = Annotated[str, typer.Option(metavar="HOST:PORT", help="Address of the gRPC server.")]
_Id = Annotated[str, typer.Argument(metavar="ID", help="The job's id.", show_default=False)]
_Ids = Annotated[list[str], typer.Argument(metavar="ID", help="The jobs' ids.", show_default=False)]
_DEFAULT_TARGET = "127.0.0.1:50051"


@app.command()
def submit(
    prompt: Annotated[
        str | None, typer.Argument(help="The prompt. - reads standard input.", show_default=False)
    ] = None,
    model: Annotated[str | None, typer.Option(help="Default: the first that the server lists.")] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="Instructions for the model.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Greatest number of tokens to generate.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 to 2; 0: the most likely token always.")
    ] = None,
    priority: Annotated[int | None, typer.Option(help="Higher starts sooner. Default: 0")] = None,
    not_before: Annotated[
        datetime | None,
        typer.Option(
            parser=parse_time,
            metavar="TIME",
            help="Not to start before: 2026-11-23T18:00:00Z (ISO 8601), or +10m.",
        ),
    ] = None,
    expires_after: Annotated[
        timedelta | None,
        typer.Option(
            parser=parse_duration,
            metavar="DURATION",
            help="Give it up after: 90, 90s, 5m, 2h, 1d. Default: never",
        ),
    ] = None,
    max_attempts: Annotated[
        int | None, typer.Option(help="Attempts, if they fail for a reason that may pass. Default: 3")
    ] = None,
    webhook: Annotated[
        str | None, typer.Option(metavar="URL", help="Where to post the job when it has ended.")
    ] = None,
    request_id: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Your id of the request: the same one gives the same job."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="An inferd.v1.EnqueueRequest in proto3 JSON, - for standard input:"
            ' {"request": {"model": "…", "messages": [{"role": "ROLE_USER", "content": [{"text": "…"}]}]}}.'
            " The other options go over it; PROMPT is one more message.",
        ),
    ] = None,
    wait: Annotated[
        int | None,
        typer.Option(min=0, metavar="SECONDS", help="Wait so long for its end, and show it as `get` does."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show its answer as it is generated.")] = False,
    target: _Target = _DEFAULT_TARGET,
) -> None:
    """Queue a chat completion. If standard output is not a terminal, only the job's id is printed.

    With --wait or --watch, the exit code is 1 if the job ended without an answer.
    """
    from inferd.services.app import queue_display, queue_text
    from inferd.v1 import message_pb2, models_pb2, models_pb2_grpc, queue_pb2, queue_pb2_grpc

    if wait is not None and watch:
        raise typer.BadParameter("either --wait or --watch, not both.", param_hint="--wait")
    if prompt is None and file is None:
        raise typer.BadParameter("it is missing, and there is no --file.", param_hint="PROMPT")
    if prompt == "-":
        prompt = _read(Path("-"), "PROMPT").removesuffix("\n")
    if prompt == "":
        raise typer.BadParameter("it is empty.", param_hint="PROMPT")
    request = queue_pb2.EnqueueRequest() if file is None else _read_request(file)
    chat = request.request
    waiting = queue_pb2.GetJobRequest()
    for option, message, field, value in (
        ("--model", chat, "model", model),
        ("--max-tokens", chat, "max_tokens", max_tokens),
        ("--temperature", chat, "temperature", temperature),
        ("--priority", request, "priority", priority),
        ("--not-before", request, "not_before", not_before),
        ("--expires-after", request, "expires_after", expires_after),
        ("--max-attempts", request, "max_attempts", max_attempts),
        ("--webhook", request.webhook, "url", webhook),
        ("--request-id", request, "request_id", request_id),
        ("--wait", waiting.wait, "seconds", wait),
    ):
        _set(option, message, field, value)
    for option, index, role, text in (
        ("--system", 0, message_pb2.ROLE_SYSTEM, system),
        ("PROMPT", len(chat.messages) + (system is not None), message_pb2.ROLE_USER, prompt),
    ):
        if text is not None:
            part = message_pb2.ContentPart()
            _set(option, part, "text", text)
            chat.messages.insert(index, message_pb2.Message(role=role, content=[part]))
    with _server(target) as channel:
        if not chat.model:
            served = models_pb2_grpc.ModelServiceStub(channel).ListModels(
                models_pb2.ListModelsRequest(), timeout=_CALL_SECONDS
            )
            if not served.models:
                queue_display.fail("the server lists no model")
            chat.model = served.models[0].id
        queue = queue_pb2_grpc.QueueServiceStub(channel)
        job = queue.Enqueue(request, timeout=_CALL_SECONDS + request.wait.seconds)
        if wait is None and not watch:
            queue_display.print_submitted(job)
            return
        queue_display.note(f"queued as {job.id}")
        if watch:
            _watch(channel, job.id, known=True)
            return
        waiting.id = job.id
        with _job_goes_on(job.id):
            job = queue.GetJob(waiting, timeout=_CALL_SECONDS + waiting.wait.seconds)
        queue_display.print_job(job)
        if queue_text.is_ended(job) and not job.HasField("completion"):
            raise typer.Exit(1)


@app.command("list")
def list_jobs(
    state: Annotated[
        list[StateOption] | None, typer.Option(help="Only jobs in this state, or these.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Only jobs of this model.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Show so many.")] = 20,
    everything: Annotated[bool, typer.Option("--all", help="Show all.")] = False,
    oldest_first: Annotated[bool, typer.Option("--oldest-first", help="Default: newest first")] = False,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Only those that follow this job.")] = None,
    target: _Target = _DEFAULT_TARGET,
) -> None:
    """List jobs."""
    from inferd.services.app import queue_display
    from inferd.v1 import queue_pb2, queue_pb2_grpc

    request = queue_pb2.ListJobsRequest(
        page_size=_PAGE_SIZE if everything else min(limit, _PAGE_SIZE),
        states=[f"JOB_STATE_{name.upper()}" for name in state or ()],
        order=queue_pb2.JOB_ORDER_ASC if oldest_first else queue_pb2.JOB_ORDER_DESC,
    )
    _set("--model", request, "model", model)
    _set("--after", request, "after", after)
    jobs: list[Any] = []
    with _server(target) as channel:
        queue = queue_pb2_grpc.QueueServiceStub(channel)
        while True:
            page = queue.ListJobs(request, timeout=_CALL_SECONDS)
            jobs += page.jobs
            if not page.next_page_token or (not everything and len(jobs) >= limit):
                break
            request.after = ""
            request.page_token = page.next_page_token
    shown = jobs if everything else jobs[:limit]
    queue_display.print_jobs(shown)
    if len(shown) < len(jobs) or page.next_page_token:
        queue_display.note(f"these are {len(shown)}, there are more: --after {shown[-1].id}, or --all")


@app.command()
def get(
    job_id: _Id,
    wait: Annotated[
        int | None, typer.Option(min=0, metavar="SECONDS", help="Wait so long for its end, up to 3600.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print inferd.v1.Job in proto3 JSON.")] = False,
    target: _Target = _DEFAULT_TARGET,
) -> None:
    """Show a job, and its answer once there is one."""
    from inferd.services.app import queue_display
    from inferd.v1 import queue_pb2, queue_pb2_grpc

    request = queue_pb2.GetJobRequest()
    _set("ID", request, "id", job_id)
    _set("--wait", request.wait, "seconds", wait)
    with _server(target) as channel:
        job = queue_pb2_grpc.QueueServiceStub(channel).GetJob(
            request, timeout=_CALL_SECONDS + request.wait.seconds
        )
    if json:
        queue_display.print_json(job)
    else:
        queue_display.print_job(job)


@app.command()
def watch(job_id: _Id, target: _Target = _DEFAULT_TARGET) -> None:
    """Show the state of a job, then its answer as it is generated. Ctrl-C does not stop the job.

    The exit code is 1 if the job ended without an answer.
    """
    with _server(target) as channel:
        _watch(channel, job_id)


@app.command()
def cancel(job_ids: _Ids, target: _Target = _DEFAULT_TARGET) -> None:
    """Cancel jobs that have not ended."""
    from inferd.services.app import queue_text
    from inferd.v1 import queue_pb2, queue_pb2_grpc

    def run(queue: queue_pb2_grpc.QueueServiceStub, job_id: str) -> None:
        request = queue_pb2.CancelJobRequest()
        _set("ID", request, "id", job_id)
        job = queue.CancelJob(request, timeout=_CALL_SECONDS)
        print(queue_text.clean(job.id), queue_text.state_name(job))

    _each(job_ids, target, run)


@app.command()
def delete(job_ids: _Ids, target: _Target = _DEFAULT_TARGET) -> None:
    """Delete jobs and their answers. One that has not ended is cancelled by that."""
    from inferd.services.app import queue_text
    from inferd.v1 import queue_pb2, queue_pb2_grpc

    def run(queue: queue_pb2_grpc.QueueServiceStub, job_id: str) -> None:
        request = queue_pb2.DeleteJobRequest()
        _set("ID", request, "id", job_id)
        print(queue_text.clean(queue.DeleteJob(request, timeout=_CALL_SECONDS).id), "deleted")

    _each(job_ids, target, run)


@app.command()
def stats(target: _Target = _DEFAULT_TARGET) -> None:
    """Show how much is queued and running, by model."""
    from inferd.services.app import queue_display
    from inferd.v1 import queue_pb2, queue_pb2_grpc

    with _server(target) as channel:
        numbers = queue_pb2_grpc.QueueServiceStub(channel).GetQueueStats(
            queue_pb2.GetQueueStatsRequest(), timeout=_CALL_SECONDS
        )
    queue_display.print_stats(numbers)


def _watch(channel: grpc.Channel, job_id: str, *, known: bool = False) -> None:
    """Show a job until it has ended, also after restarts of the server.

    `known`: the server has reported the job before, so that a lost connection is worth another attempt.
    Raises typer.Exit if the job ended without an answer, and grpc.RpcError.
    """
    from inferd.services.app import queue_text
    from inferd.services.app.queue_watch_display import WatchDisplay
    from inferd.v1 import queue_pb2, queue_pb2_grpc

    queue = queue_pb2_grpc.QueueServiceStub(channel)
    request = queue_pb2.GetJobRequest()
    _set("ID", request, "id", job_id)
    waits = iter(_BACKOFF)
    with _job_goes_on(job_id), WatchDisplay() as display:
        while True:
            try:
                for event in queue.WatchJob(request):
                    known, waits = True, iter(_BACKOFF)
                    display.show(event)
                job = queue.GetJob(request, timeout=_CALL_SECONDS)
                if queue_text.is_ended(job):
                    display.finish(job)
                    return
                reason = "the server ended the watch"
            except grpc.RpcError as error:
                if not known or error.code() not in _WATCH_AGAIN:
                    raise
                wait = next(waits, None)
                if wait is None:
                    raise
                reason = queue_text.describe_rpc_error(error)
            else:
                wait = _BACKOFF[0]
            display.restart(reason)
            time.sleep(wait)


@contextmanager
def _job_goes_on(job_id: str) -> Iterator[None]:
    """Turn Ctrl-C into exit code 130 and a note that the job goes on."""
    from inferd.services.app import queue_display

    try:
        yield
    except KeyboardInterrupt:
        queue_display.note(f"the job goes on: inferd queue watch {job_id}, or inferd queue cancel {job_id}")
        raise typer.Exit(130) from None


@contextmanager
def _server(target: str) -> Iterator[grpc.Channel]:
    """A channel to the server. If a call fails, print the error in a line and raise typer.Exit."""
    from inferd.services.app import queue_display, queue_text

    with grpc.insecure_channel(target, options=_CHANNEL_OPTIONS) as channel:
        try:
            yield channel
        except grpc.RpcError as error:
            queue_display.fail(queue_text.describe_rpc_error(error, target))


def _each(job_ids: list[str], target: str, run: Any) -> None:
    """Call `run` with a stub and each of the ids. The rest follows even if one fails."""
    from inferd.services.app import queue_display, queue_text
    from inferd.v1 import queue_pb2_grpc

    failed = False
    with _server(target) as channel:
        queue = queue_pb2_grpc.QueueServiceStub(channel)
        for job_id in job_ids:
            try:
                run(queue, job_id)
            except grpc.RpcError as error:
                if queue_text.is_unreachable(error):
                    raise
                queue_display.note(f"{job_id}: {queue_text.describe_rpc_error(error)}", bad=True)
                failed = True
    if failed:
        raise typer.Exit(1)


def _set(option: str, message: Any, field: str, value: Any) -> None:
    """Set a field, unless `value` is None. Raises typer.BadParameter if the field cannot hold the value."""
    if value is None:
        return
    try:
        if isinstance(value, datetime):
            getattr(message, field).FromDatetime(value)
        elif isinstance(value, timedelta):
            getattr(message, field).FromTimedelta(value)
        else:
            setattr(message, field, value)
    except UnicodeEncodeError:
        raise typer.BadParameter("it is no UTF-8.", param_hint=option) from None
    except ValueError:
        raise typer.BadParameter(f"{value} is out of range.", param_hint=option) from None


def _read(path: Path, option: str) -> str:
    """Read a file, or standard input for "-". Raises typer.BadParameter."""
    try:
        return (sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()).decode()
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror or error}", param_hint=option) from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{path} is no UTF-8.", param_hint=option) from None


def _read_request(path: Path) -> Any:
    from google.protobuf import json_format

    from inferd.v1 import queue_pb2

    text = _read(path, "--file")
    try:
        return json_format.Parse(text, queue_pb2.EnqueueRequest())
    except json_format.ParseError as error:
        raise typer.BadParameter(f"{path} is no EnqueueRequest: {error}", param_hint="--file") from None
