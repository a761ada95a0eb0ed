"""What `inferd queue` prints: jobs, answers, numbers and errors.

Knows nothing of how they were got. All text of the server's is untrusted: it is never read as markup, and
carries no control characters to the terminal.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, NoReturn, Self

import grpc
import typer
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from inferd.v1 import chat_pb2, queue_pb2, sampling_pb2
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

_COLOURS = {
    queue_pb2.JOB_STATE_QUEUED: "yellow",
    queue_pb2.JOB_STATE_RUNNING: "cyan",
    queue_pb2.JOB_STATE_SUCCEEDED: "green",
    queue_pb2.JOB_STATE_FAILED: "red",
    queue_pb2.JOB_STATE_CANCELLED: "magenta",
    queue_pb2.JOB_STATE_EXPIRED: "red",
}
_UNENDED = (queue_pb2.JOB_STATE_QUEUED, queue_pb2.JOB_STATE_RUNNING)
#: How the ends without an answer are told.
_ENDS: dict[int, str] = {
    queue_pb2.JOB_STATE_FAILED: "the job failed",
    queue_pb2.JOB_STATE_CANCELLED: "the job was cancelled",
    queue_pb2.JOB_STATE_EXPIRED: "the job expired",
}
#: Columns that a narrow terminal does without, the first one first.
_EXPENDABLE = ("priority", "attempts", "tokens", "duration", "age")
#: C0 without tab and newline, DEL, and C1.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_CODES = {code.value[0]: code.name.lower().replace("_", " ") for code in grpc.StatusCode}


def clean(text: str) -> str:
    """`text` without control characters but newline and tab."""
    return _CONTROL.sub("", text)


def note(text: str, *, bad: bool = False) -> None:
    """Say something, in one line of standard error."""
    line = Text.assemble(("inferd", "bold red" if bad else "dim"), " ", _line(text))
    _console(stderr=True).print(line, soft_wrap=True)


def fail(text: str) -> NoReturn:
    """Say what is wrong, and leave with 1."""
    note(text, bad=True)
    raise typer.Exit(1)


def unreachable(error: grpc.RpcError) -> bool:
    """Whether it is the connection that failed: a server's own UNAVAILABLE has details."""
    return error.code() is grpc.StatusCode.UNAVAILABLE and _status(error) is None


def describe(error: grpc.RpcError, target: str | None = None) -> str:
    """An RPC's error in a line. `target`, where it may be said that nothing answers there."""
    if target is not None and unreachable(error):
        return f"{target} does not answer: {error.details()}. Is `inferd serve` running there?"
    return f"{_CODES[error.code().value[0]]}: {_violations(error) or error.details() or 'no message'}"


def ended(job: queue_pb2.Job) -> bool:
    return job.state not in _UNENDED


def state_name(job: queue_pb2.Job) -> str:
    """Such as "queued"; also of a state that is newer than this program."""
    if job.state not in queue_pb2.JobState.values():
        return str(job.state)
    return queue_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_").lower()


def print_submitted(job: queue_pb2.Job) -> None:
    """A job that was queued just now; its id alone where no terminal shows it."""
    if not sys.stdout.isatty():
        print(clean(job.id))
        return
    print_job(job)
    note(f"inferd queue watch {job.id} shows its answer")


def print_job(job: queue_pb2.Job) -> None:
    """A job's facts and, where there is one, its answer."""
    console = _console()
    for name, value in _facts(job).items():
        fact = value if isinstance(value, Text) else Text(_line(value))
        console.print(Text.assemble((f"{name:<12}", "dim"), fact), soft_wrap=True)
    if job.HasField("completion"):
        print()
        _print_answers(job.completion.choices)


def print_json(job: queue_pb2.Job) -> None:
    """A job in proto3 JSON."""
    try:
        text = json_format.MessageToJson(job, ensure_ascii=False)
    except TypeError as error:
        fail(f"the job's error has a detail that is not known here: {error}")
    # JSON leaves these as they are.
    print(re.sub("[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text))


def print_jobs(jobs: Sequence[queue_pb2.Job]) -> None:
    """A table of jobs."""
    if not jobs:
        note("there are no such jobs")
        return
    _print_table([_row(job) for job in jobs], _EXPENDABLE)


def print_stats(stats: queue_pb2.QueueStats) -> None:
    """A table of the models, with the totals."""
    rows = [
        {
            "model": Text(_line(model.model)),
            "queued": Text(str(model.queued)),
            "running": Text(str(model.running)),
            "limit": Text(str(model.running_limit)),
            "oldest": Text(_since(model.oldest_queued_time) if model.HasField("oldest_queued_time") else "-"),
        }
        for model in stats.models
    ]
    total = ("total", str(stats.queued), str(stats.running), str(stats.running_limit), "-")
    names = ("model", "queued", "running", "limit", "oldest")
    rows.append({name: Text(text, style="bold") for name, text in zip(names, total, strict=True)})
    _print_table(rows)


class WatchDisplay:
    """Shows a job's events: its answer on standard output, all else on standard error.

    An answer that comes again from its start, after a restart of the server, is shown from where it was
    left; where it is another one, whole.
    """

    def __init__(self) -> None:
        self._console = _console(stderr=True)
        self._status: Status | None = None
        self._told = ""
        #: The answer as far as this watch got, and as far as it was written.
        self._answer = ""
        self._written = ""
        self._midline = False
        self._state = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_status()
        if error is not None:
            self._leave_line()

    def show(self, event: queue_pb2.JobEvent) -> None:
        """Raises typer.Exit where the event is an error, which it tells."""
        match event.WhichOneof("event"):
            case "job":
                self._state = event.job.state
                self._tell(event.job)
            case "chunk":
                for choice in event.chunk.choices:
                    if choice.index == 0 and choice.delta.content:
                        self._answer += choice.delta.content
                        self._write()
            case "error":
                self._fail(event.error)

    def again(self, reason: str) -> None:
        """The next event is the first one of another watch of the same job."""
        self._say(f"{reason}; watching again")
        self._told = self._answer = ""

    def finish(self, job: queue_pb2.Job) -> None:
        """The job as it ended. Raises typer.Exit where it has no answer."""
        self._stop_status()
        self._state = job.state
        if not job.HasField("completion"):
            self._fail(job.error)
        choices = job.completion.choices
        self._answer = choices[0].message.content if choices else ""
        self._write()
        if self._answer != self._written:
            self._begin_again()
        if self._midline:
            self._put("\n")
        _print_calls(choices[:1])
        _print_answers(choices[1:])
        reasons = ", ".join(_finish_reason(choice.finish_reason) for choice in choices)
        self._say(f"succeeded: {reasons}; {_usage(job)}; {_duration(job)}")

    def _tell(self, job: queue_pb2.Job) -> None:
        text = _standing(job)
        if ended(job):
            self._stop_status()
        elif text != self._told and self._console.is_terminal:
            if self._status is None:
                self._leave_line()
                self._status = self._console.status(Text(text))
                self._status.start()
            self._status.update(Text(text))
        elif text != self._told:
            note(text)
        self._told = text

    def _write(self) -> None:
        if self._written.startswith(self._answer):
            return
        if not self._answer.startswith(self._written):
            self._begin_again()
            return
        self._stop_status()
        self._put(self._answer[len(self._written) :])

    def _begin_again(self) -> None:
        self._say("this is another attempt: its answer, from the start")
        if self._midline:
            self._put("\n")
        self._put(self._answer)

    def _put(self, text: str) -> None:
        print(clean(text), end="", flush=True)
        self._midline = not text.endswith("\n")
        self._written = self._answer

    def _say(self, text: str) -> None:
        self._stop_status()
        self._leave_line()
        note(text)

    def _fail(self, error: status_pb2.Status) -> NoReturn:
        self._stop_status()
        self._leave_line()
        fail(f"{_ENDS.get(self._state, 'the job has no answer')}: {_error(error)}")

    def _stop_status(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _leave_line(self) -> None:
        """Where both outputs are one terminal, what is said does not stand in the answer's last line."""
        if self._midline and sys.stdout.isatty() and sys.stderr.isatty():
            print(file=sys.stderr, flush=True)
            self._midline = False


def _console(*, stderr: bool = False, width: int | None = None) -> Console:
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def _line(text: str) -> str:
    return " ".join(clean(text).split())


def _status(error: grpc.RpcError) -> status_pb2.Status | None:
    """The google.rpc.Status of an error, where it has a sound one."""
    try:
        return rpc_status.from_call(error)
    except (ValueError, DecodeError):
        return None


def _violations(error: grpc.RpcError) -> str:
    """What google.rpc.BadRequest says, if the error has it."""
    found = []
    status = _status(error)
    for detail in status.details if status else ():
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            for violation in bad.field_violations:
                named = violation.field in violation.description
                found.append(
                    violation.description if named else f"{violation.field}: {violation.description}"
                )
    return "; ".join(found)


def _facts(job: queue_pb2.Job) -> dict[str, str | Text]:
    """What is known of a job, by name."""
    facts: dict[str, str | Text] = {"id": job.id, "model": job.model, "state": _state(job)}
    if job.HasField("queue_position"):
        facts["position"] = str(job.queue_position)
    facts["priority"] = str(job.priority)
    lost = f", and {job.lost_attempts} lost" if job.lost_attempts else ""
    facts["attempts"] = f"{job.attempts} of {job.max_attempts}{lost}"
    for name, field in (
        ("queued", "create_time"),
        ("not before", "not_before"),
        ("started", "start_time"),
        ("ended", "finish_time"),
        ("expires", "expire_time"),
        ("purged", "purge_time"),
    ):
        if job.HasField(field):
            facts[name] = f"{_local(getattr(job, field)):%Y-%m-%d %H:%M:%S %Z}"
    if job.HasField("start_time"):
        facts["duration"] = _duration(job)
    if job.HasField("request_id"):
        facts["request id"] = job.request_id
    if job.HasField("webhook"):
        facts["webhook"] = _webhook(job.webhook)
    if job.HasField("completion"):
        facts["tokens"] = _usage(job)
        facts["finish"] = ", ".join(_finish_reason(choice.finish_reason) for choice in job.completion.choices)
    if job.HasField("error"):
        facts["error"] = _error(job.error)
    return facts


def _webhook(delivery: queue_pb2.WebhookDelivery) -> str:
    parts = [f"{delivery.url}", _enum(queue_pb2.DeliveryState, delivery.state, "DELIVERY_STATE_")]
    if delivery.attempts:
        parts.append(f"tried {delivery.attempts} times" if delivery.attempts > 1 else "tried once")
    if delivery.HasField("response_status"):
        parts.append(f"HTTP {delivery.response_status}")
    if delivery.HasField("error"):
        parts.append(delivery.error)
    return ", ".join(parts)


def _row(job: queue_pb2.Job) -> dict[str, Text]:
    usage = job.completion.usage
    return {
        "id": Text(_line(job.id)),
        "model": Text(_line(job.model)),
        "state": _state(job),
        "priority": Text(str(job.priority)),
        "position": Text(str(job.queue_position) if job.HasField("queue_position") else "-"),
        "attempts": Text(f"{job.attempts}/{job.max_attempts}"),
        "age": Text(_since(job.create_time)),
        "duration": Text(_duration(job)),
        "tokens": Text(f"{usage.prompt_tokens}+{usage.completion_tokens}" if usage.total_tokens else "-"),
    }


def _print_table(rows: Sequence[Mapping[str, Text]], expendable: Sequence[str] = ()) -> None:
    """Rows of the same columns. No cell is cut or folded: on a terminal that is too narrow the
    `expendable` columns are left out, as many as need be, and then lines are longer than it is wide.
    """
    console = _console()
    left_out = 0
    while True:
        names = [name for name in rows[0] if name not in expendable[:left_out]]
        table = Table(*names, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for column in table.columns:
            column.no_wrap = True
        for row in rows:
            table.add_row(*(row[name] for name in names))
        width = console.measure(table, options=console.options.update(width=1_000_000)).maximum
        if not console.is_terminal or width <= console.width or left_out == len(expendable):
            break
        left_out += 1
    _console(width=width).print(table)


def _print_answers(choices: Sequence[chat_pb2.ChatChoice]) -> None:
    for choice in choices:
        if len(choices) > 1 or choice.index > 0:
            _console().print(Text(f"answer {choice.index}:", style="dim"))
        if choice.message.content:
            print(clean(choice.message.content).removesuffix("\n"), flush=True)
        _print_calls([choice])


def _print_calls(choices: Sequence[chat_pb2.ChatChoice]) -> None:
    """The tools that the answers called, a line each."""
    for choice in choices:
        message = choice.message
        made = [call.function for call in message.tool_calls]
        if message.HasField("function_call"):
            made.append(message.function_call)
        for function in made:
            print(clean(f"{function.name}({function.arguments})"), flush=True)


def _state(job: queue_pb2.Job) -> Text:
    return Text(state_name(job), style=_COLOURS.get(job.state, ""))


def _standing(job: queue_pb2.Job) -> str:
    """Where a job stands, in a line."""
    text = state_name(job)
    if job.HasField("queue_position"):
        text += f", position {job.queue_position}"
    if job.HasField("not_before") and job.state == queue_pb2.JOB_STATE_QUEUED:
        text += f", not before {_local(job.not_before):%H:%M:%S}"
    if job.HasField("error"):
        text += f", after {_error(job.error)}"
    return _line(text)


def _error(error: status_pb2.Status) -> str:
    return f"{error.message or 'no message'} ({_CODES.get(error.code, error.code)})"


def _finish_reason(reason: int) -> str:
    return _enum(sampling_pb2.FinishReason, reason, "FINISH_REASON_")


def _enum(kind: Any, value: int, prefix: str) -> str:
    return kind.Name(value).removeprefix(prefix).lower() if value in kind.values() else str(value)


def _usage(job: queue_pb2.Job) -> str:
    usage = job.completion.usage
    return f"{usage.prompt_tokens} tokens read, {usage.completion_tokens} generated"


def _local(time: Any) -> datetime:
    return time.ToDatetime(tzinfo=UTC).astimezone()


def _since(time: Any) -> str:
    return _span(datetime.now(UTC).timestamp() - time.ToNanoseconds() / 1e9)


def _duration(job: queue_pb2.Job) -> str:
    """Of the latest attempt."""
    if not job.HasField("start_time"):
        return "-"
    if not job.HasField("finish_time"):
        return _since(job.start_time) if job.state == queue_pb2.JOB_STATE_RUNNING else "-"
    return _span((job.finish_time.ToNanoseconds() - job.start_time.ToNanoseconds()) / 1e9)


def _span(seconds: float) -> str:
    """Such as 3.4s, 34s, 5m12s, 2h05m or 3d4h."""
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest}s"
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours < 24 else f"{hours // 24}d{hours % 24}h"
