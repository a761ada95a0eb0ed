"""Prints jobs, answers, numbers and errors for `inferd queue`.

It makes no calls. Texts of the server are untrusted: they are never read as markup, and are printed without
control characters.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

import typer
from google.protobuf import json_format
from rich.console import Console
from rich.table import Table
from rich.text import Text

from inferd.services.app.queue_text import (
    clean,
    duration,
    error_text,
    finish_reason,
    local_time,
    one_line,
    state_name,
    time_since,
    usage_text,
    webhook_text,
)
from inferd.v1 import chat_pb2, queue_pb2

_COLOURS = {
    queue_pb2.JOB_STATE_QUEUED: "yellow",
    queue_pb2.JOB_STATE_RUNNING: "cyan",
    queue_pb2.JOB_STATE_SUCCEEDED: "green",
    queue_pb2.JOB_STATE_FAILED: "red",
    queue_pb2.JOB_STATE_CANCELLED: "magenta",
    queue_pb2.JOB_STATE_EXPIRED: "red",
}
#: Columns that are left out on a narrow terminal, the first one first.
_OPTIONAL_COLUMNS = ("priority", "attempts", "tokens", "duration", "age")


def note(text: str, *, bad: bool = False) -> None:
    """Print a line to standard error."""
    line = Text.assemble(("inferd", "bold red" if bad else "dim"), " ", one_line(text))
    new_console(stderr=True).print(line, soft_wrap=True)


def fail(text: str) -> NoReturn:
    """Print an error to standard error, and exit with code 1."""
    note(text, bad=True)
    raise typer.Exit(1)


def print_submitted(job: queue_pb2.Job) -> None:
    """Print a new job; only its id if standard output is not a terminal."""
    if not sys.stdout.isatty():
        print(clean(job.id))
        return
    print_job(job)
    note(f"inferd queue watch {job.id} shows its answer")


def print_job(job: queue_pb2.Job) -> None:
    """Print what is known of a job, and its answer if there is one."""
    console = new_console()
    for name, value in _facts(job).items():
        fact = value if isinstance(value, Text) else Text(one_line(value))
        console.print(Text.assemble((f"{name:<12}", "dim"), fact), soft_wrap=True)
    if job.HasField("completion"):
        print()
        print_answers(job.completion.choices)


def print_json(job: queue_pb2.Job) -> None:
    """Print a job in proto3 JSON."""
    try:
        text = json_format.MessageToJson(job, ensure_ascii=False)
    except TypeError as error:
        fail(f"the job's error has a detail that is not known here: {error}")
    # JSON does not escape DEL and the C1 control characters.
    print(re.sub("[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text))


def print_jobs(jobs: Sequence[queue_pb2.Job]) -> None:
    """Print a table of jobs."""
    if not jobs:
        note("there are no such jobs")
        return
    _print_table([_row(job) for job in jobs], _OPTIONAL_COLUMNS)


def print_stats(stats: queue_pb2.QueueStats) -> None:
    """Print a table of the models, with the totals."""
    rows = [
        {
            "model": Text(one_line(model.model)),
            "queued": Text(str(model.queued)),
            "running": Text(str(model.running)),
            "limit": Text(str(model.running_limit)),
            "oldest": Text(
                time_since(model.oldest_queued_time) if model.HasField("oldest_queued_time") else "-"
            ),
        }
        for model in stats.models
    ]
    total = ("total", str(stats.queued), str(stats.running), str(stats.running_limit), "-")
    names = ("model", "queued", "running", "limit", "oldest")
    rows.append({name: Text(text, style="bold") for name, text in zip(names, total, strict=True)})
    _print_table(rows)


def new_console(*, stderr: bool = False, width: int | None = None) -> Console:
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def _facts(job: queue_pb2.Job) -> dict[str, str | Text]:
    """What is known of a job: the name and the text of each line."""
    facts: dict[str, str | Text] = {"id": job.id, "model": job.model, "state": _coloured_state(job)}
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
            facts[name] = f"{local_time(getattr(job, field)):%Y-%m-%d %H:%M:%S %Z}"
    if job.HasField("start_time"):
        facts["duration"] = duration(job)
    if job.HasField("request_id"):
        facts["request id"] = job.request_id
    if job.HasField("webhook"):
        facts["webhook"] = webhook_text(job.webhook)
    if job.HasField("completion"):
        facts["tokens"] = usage_text(job)
        facts["finish"] = ", ".join(finish_reason(choice.finish_reason) for choice in job.completion.choices)
    if job.HasField("error"):
        facts["error"] = error_text(job.error)
    return facts


def _row(job: queue_pb2.Job) -> dict[str, Text]:
    usage = job.completion.usage
    return {
        "id": Text(one_line(job.id)),
        "model": Text(one_line(job.model)),
        "state": _coloured_state(job),
        "priority": Text(str(job.priority)),
        "position": Text(str(job.queue_position) if job.HasField("queue_position") else "-"),
        "attempts": Text(f"{job.attempts}/{job.max_attempts}"),
        "age": Text(time_since(job.create_time)),
        "duration": Text(duration(job)),
        "tokens": Text(f"{usage.prompt_tokens}+{usage.completion_tokens}" if usage.total_tokens else "-"),
    }


def _print_table(rows: Sequence[Mapping[str, Text]], optional: Sequence[str] = ()) -> None:
    """Print rows of the same columns. Cells are never cut or wrapped.

    If the terminal is too narrow, `optional` columns are left out, the first one first. If that is not
    enough, lines are longer than the terminal is wide.
    """
    console = new_console()
    left_out = 0
    while True:
        names = [name for name in rows[0] if name not in optional[:left_out]]
        table = Table(*names, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for column in table.columns:
            column.no_wrap = True
        for row in rows:
            table.add_row(*(row[name] for name in names))
        width = console.measure(table, options=console.options.update(width=1_000_000)).maximum
        if not console.is_terminal or width <= console.width or left_out == len(optional):
            break
        left_out += 1
    new_console(width=width).print(table)


def print_answers(choices: Sequence[chat_pb2.ChatChoice]) -> None:
    for choice in choices:
        if len(choices) > 1 or choice.index > 0:
            new_console().print(Text(f"answer {choice.index}:", style="dim"))
        if choice.message.content:
            print(clean(choice.message.content).removesuffix("\n"), flush=True)
        print_tool_calls([choice])


def print_tool_calls(choices: Sequence[chat_pb2.ChatChoice]) -> None:
    """Print the tool calls of the answers, one in a line."""
    for choice in choices:
        message = choice.message
        made = [call.function for call in message.tool_calls]
        if message.HasField("function_call"):
            made.append(message.function_call)
        for function in made:
            print(clean(f"{function.name}({function.arguments})"), flush=True)


def _coloured_state(job: queue_pb2.Job) -> Text:
    return Text(state_name(job), style=_COLOURS.get(job.state, ""))
