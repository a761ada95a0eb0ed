"""`inferd queue watch` and `submit --watch`: states, streamed text, restarts of the server, interrupts."""

import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.rpc import status_pb2

from inferd.v1 import (
    chat_pb2,
    queue_pb2,
    queue_pb2_grpc,
)
from tests.doubles.fake_queue import (
    ID,
    LOST,
    UNAVAILABLE,
    FakeQueue,
    RunningQueue,
    job_event,
    make_job,
    on_a_terminal,
    plain,
    text_event,
)


def test_watch_shows_the_state_then_the_answer(queue):
    queue.watches = [
        [
            job_event(make_job()),
            job_event(make_job(error=status_pb2.Status(code=14, message="runtime gone"))),
            job_event(make_job("running")),
            text_event("Forty"),
            text_event("-two\x1b[2J.\x9b"),
            job_event(make_job("succeeded")),
        ]
    ]
    queue.job = make_job("succeeded", "Forty-two\x1b[2J.\x9b")
    result = queue.run("watch", ID)
    assert result.stdout == "Forty-two[2J.\n"
    assert result.stderr.splitlines() == [
        "inferd queued, position 3",
        "inferd queued, position 3, after runtime gone (unavailable)",
        "inferd running",
        "inferd succeeded: stop; 12 tokens read, 34 generated; 34s",
    ]


def test_watch_streams(queue):
    queue.watches = [[job_event(make_job("running")), text_event("Forty"), "hold", text_event("-two")]]
    queue.job = make_job("succeeded", "Forty-two")
    with subprocess.Popen(queue.command("watch", ID), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(5) == b"Forty"
        queue.hold.set()
        assert process.stdout.read() == b"-two\n"
    assert process.returncode == 0


def test_watch_on_a_terminal(queue):
    lost = [
        job_event(make_job()),
        "pause",
        job_event(make_job("running")),
        text_event("One "),
        text_event("two"),
        LOST,
    ]
    queue.watches = [
        lost,
        [job_event(make_job()), job_event(make_job("running")), text_event("One two"), text_event(" three")],
    ]
    queue.job = make_job("succeeded", "One two three")
    code, output = on_a_terminal(queue.command("watch", ID))
    assert code == 0
    assert "\x1b[?25h" in output
    assert "queued, position 3" in output
    lines = [line.rstrip() for line in plain(output).splitlines()]
    again = lines.index("inferd aborted: the attempt was lost; watching again")
    assert lines[again - 1].endswith("One two")
    assert lines[-2].endswith(" three")
    assert lines[-1].startswith("inferd succeeded: stop")
    assert plain(output).count("One two") == 1


@pytest.mark.parametrize("end", [UNAVAILABLE, LOST])
@pytest.mark.parametrize(
    ("again", "expected"),
    [
        # The same answer goes on where it was. Another answer is shown whole, even a shorter one.
        (["Forty-two, I think"], "Forty-two, I think\n"),
        (["For", "ty", "-two, I", " think"], "Forty-two, I think\n"),
        (["Fifty", "-one"], "Forty-two\nFifty-one\n"),
        (["Forty"], "Forty-two\nForty\n"),
    ],
)
def test_watch_goes_on_after_a_restart(queue, no_backoff, end, again, expected):
    queue.watches = [
        [job_event(make_job("running")), text_event("Forty-"), text_event("two"), end],
        [UNAVAILABLE],
        [job_event(make_job("running")), *map(text_event, again)],
    ]
    queue.job = make_job("succeeded", "".join(again))
    result = queue.run("watch", ID)
    assert result.stdout == expected
    assert result.stderr.count("watching again") == 2
    assert ("another attempt" in result.stderr) == (expected.count("\n") == 2)


def test_watch_of_a_server_that_really_restarts(queue):
    queue.watches = [[job_event(make_job()), "hold"]]
    process = subprocess.Popen(
        queue.command("watch", ID), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stderr is not None
        assert process.stderr.readline() == "inferd queued, position 3\n"
        queue.server.stop(0).wait()
        # grpc's core may log a line of its own before ours.
        assert any("watching again" in line for line in process.stderr)
        other = RunningQueue.__new__(RunningQueue)
        FakeQueue.__init__(other)
        other.watches = [[job_event(make_job("running")), text_event("Yes")]]
        other.job = make_job("succeeded", "Yes")
        server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        queue_pb2_grpc.add_QueueServiceServicer_to_server(other, server)
        assert server.add_insecure_port(queue.target)
        server.start()
        output, errors = process.communicate(timeout=30)
        server.stop(0).wait()
    assert (process.returncode, output) == (0, "Yes\n")
    assert "succeeded" in errors


def test_watch_gives_up(queue, no_backoff):
    queue.watches = [[job_event(make_job()), UNAVAILABLE], *[[UNAVAILABLE]] * 3]
    result = queue.run("watch", ID, code=1)
    assert result.stderr.count("watching again") == 3
    assert "does not answer" in result.stderr.splitlines()[-1]


def test_watch_does_not_wait_for_a_server_that_was_never_there(queue):
    queue.server.stop(0).wait()
    assert "does not answer" in queue.run("watch", ID, code=1).stderr
    assert queue.requests == []


def test_watch_of_a_stream_that_ends_before_the_job_does(queue, no_backoff):
    class Once(list):
        def pop(self, index=0):
            queue.job = make_job("succeeded", "Yes") if len(self) == 1 else make_job("running")
            return super().pop(index)

    queue.watches = Once(
        [[job_event(make_job("running"))], [job_event(make_job("running")), text_event("Yes")]]
    )
    result = queue.run("watch", ID)
    assert result.stdout == "Yes\n"
    assert "the server ended the watch; watching again" in result.stderr


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("failed", "inferd the job failed: [red]boom (internal)"),
        ("cancelled", "inferd the job was cancelled: [red]boom (internal)"),
        ("expired", "inferd the job expired: [red]boom (internal)"),
    ],
)
def test_watch_of_a_job_without_an_answer(queue, state, expected):
    error = status_pb2.Status(code=13, message="[red]\x1bboom")
    queue.watches = [[job_event(make_job("running")), text_event("Fo"), job_event(make_job(state))]]
    queue.watches[0].append(queue_pb2.JobEvent(error=error))
    assert queue.run("watch", ID, code=1).stderr.splitlines()[-1] == expected
    # Also if only the job holds the error.
    queue.watches = [[]]
    queue.job = make_job(state, error=error)
    assert queue.run("watch", ID, code=1).stderr.splitlines()[-1] == expected


def test_watch_of_several_answers(queue):
    queue.watches = [
        [job_event(make_job("running")), text_event("One"), text_event("Two", 1), text_event("!")]
    ]
    queue.job = make_job("succeeded", "One!")
    queue.job.completion.choices.add(index=1, message=chat_pb2.AssistantMessage(content="Two"))
    assert queue.run("watch", ID).stdout == "One!\nanswer 1:\nTwo\n"


@pytest.mark.parametrize("command", ["watch", "submit --wait"])
def test_leaving_does_not_cancel(queue, command):
    queue.watches = [[job_event(make_job()), "hold"]]
    if command == "watch":
        arguments = queue.command("watch", ID)
    else:
        arguments = queue.command("submit", "Hi", "--wait", "60")
        queue.held = True
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell makes its background processes ignore SIGINT, and their children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with process:
        assert process.stderr is not None
        assert "queued" in process.stderr.readline()
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
    assert (process.returncode, output) == (130, "")
    assert f"inferd the job goes on: inferd queue watch {ID}, or inferd queue cancel {ID}" in errors
    assert "Traceback" not in errors
    assert not any(isinstance(asked, queue_pb2.CancelJobRequest) for asked in queue.requests)
