"""Shows a job while it is watched: its state in a status line, and its answer as it is generated.

It makes no calls; `queue_commands` watches the job.
"""

import sys
from types import TracebackType
from typing import NoReturn, Self

from google.rpc import status_pb2
from rich.status import Status
from rich.text import Text

from inferd.services.app.queue_display import fail, new_console, note, print_answers, print_tool_calls
from inferd.services.app.queue_text import (
    clean,
    duration,
    error_text,
    finish_reason,
    is_ended,
    progress_line,
    usage_text,
)
from inferd.v1 import queue_pb2

#: What is printed about a job that ended without an answer.
_FAILURES: dict[int, str] = {
    queue_pb2.JOB_STATE_FAILED: "the job failed",
    queue_pb2.JOB_STATE_CANCELLED: "the job was cancelled",
    queue_pb2.JOB_STATE_EXPIRED: "the job expired",
}


class WatchDisplay:
    """Shows the events of a watch: the job's answer on standard output, everything else on standard error.

    After a restart of the server, the answer comes again from its start. The part that was printed before is
    not printed again, unless the answer is another one.
    """

    def __init__(self) -> None:
        self._stderr = new_console(stderr=True)
        self._status: Status | None = None
        self._progress = ""
        #: The answer as far as it was received, and as far as it was printed.
        self._answer = ""
        self._printed = ""
        self._is_midline = False
        self._state = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_status()
        if error is not None:
            self._end_line()

    def show(self, event: queue_pb2.JobEvent) -> None:
        """Show an event. If it is an error, print the error and raise typer.Exit."""
        match event.WhichOneof("event"):
            case "job":
                self._state = event.job.state
                self._show_progress(event.job)
            case "chunk":
                for choice in event.chunk.choices:
                    if choice.index == 0 and choice.delta.content:
                        self._answer += choice.delta.content
                        self._print_answer()
            case "error":
                self._fail(event.error)

    def restart(self, reason: str) -> None:
        """Start over: the next event is the first one of another watch of the same job."""
        self._note(f"{reason}; watching again")
        self._progress = self._answer = ""

    def finish(self, job: queue_pb2.Job) -> None:
        """Show how the job ended. Raises typer.Exit if it has no answer."""
        self._stop_status()
        self._state = job.state
        if not job.HasField("completion"):
            self._fail(job.error)
        choices = job.completion.choices
        self._answer = choices[0].message.content if choices else ""
        self._print_answer()
        if self._answer != self._printed:
            self._print_from_start()
        if self._is_midline:
            self._print("\n")
        print_tool_calls(choices[:1])
        print_answers(choices[1:])
        reasons = ", ".join(finish_reason(choice.finish_reason) for choice in choices)
        self._note(f"succeeded: {reasons}; {usage_text(job)}; {duration(job)}")

    def _show_progress(self, job: queue_pb2.Job) -> None:
        text = progress_line(job)
        if is_ended(job):
            self._stop_status()
        elif text != self._progress and self._stderr.is_terminal:
            if self._status is None:
                self._end_line()
                self._status = self._stderr.status(Text(text))
                self._status.start()
            self._status.update(Text(text))
        elif text != self._progress:
            note(text)
        self._progress = text

    def _print_answer(self) -> None:
        if self._printed.startswith(self._answer):
            return
        if not self._answer.startswith(self._printed):
            self._print_from_start()
            return
        self._stop_status()
        self._print(self._answer[len(self._printed) :])

    def _print_from_start(self) -> None:
        self._note("this is another attempt: its answer, from the start")
        if self._is_midline:
            self._print("\n")
        self._print(self._answer)

    def _print(self, text: str) -> None:
        print(clean(text), end="", flush=True)
        self._is_midline = not text.endswith("\n")
        self._printed = self._answer

    def _note(self, text: str) -> None:
        self._stop_status()
        self._end_line()
        note(text)

    def _fail(self, error: status_pb2.Status) -> NoReturn:
        self._stop_status()
        self._end_line()
        fail(f"{_FAILURES.get(self._state, 'the job has no answer')}: {error_text(error)}")

    def _stop_status(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _end_line(self) -> None:
        """End the answer's last line before a note, if both outputs are the terminal."""
        if self._is_midline and sys.stdout.isatty() and sys.stderr.isatty():
            print(file=sys.stderr, flush=True)
            self._is_midline = False
