"""`inferd queue` against a fake QueueService on a real socket: requests, output and errors."""

import json
import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import grpc
import pytest
import typer
from google.rpc import error_details_pb2, status_pb2
from typer.testing import CliRunner

from inferd.services.app import queue_commands
from inferd.services.app.cli import app
from inferd.services.errors import ServiceError, invalid
from inferd.v1 import (
    chat_pb2,
    message_pb2,
    queue_pb2,
)
from tests.doubles.fake_queue import (
    ID,
    job_event,
    make_job,
    on_a_terminal,
    plain,
    text_event,
)


def test_submit_prints_the_id_alone_where_no_terminal_is(queue):
    result = queue.run("submit", "What is it?")
    assert (result.stdout, result.stderr) == (ID + "\n", "")
    (request,) = queue.requests
    assert request == queue_pb2.EnqueueRequest(
        request=chat_pb2.CreateChatCompletionRequest(
            model="first",
            messages=[
                message_pb2.Message(
                    role=message_pb2.ROLE_USER, content=[message_pb2.ContentPart(text="What is it?")]
                )
            ],
        )
    )
    assert queue.times[0] <= 11


def test_submit_on_a_terminal_shows_the_job(queue):
    code, output = on_a_terminal(queue.command("submit", "Hi"))
    assert code == 0
    assert f"id          {ID}" in plain(output)
    assert "position    3" in plain(output)
    assert "\x1b[33mqueued" in output
    assert f"inferd queue watch {ID}" in plain(output)


def test_submit_sends_all_options(queue):
    queue.run(
        *("submit", "Hi", "--model", "m", "--system", "Be brief.", "--max-tokens", "7", "--temperature", "0"),
        *("--priority", "-5", "--not-before", "2030-01-02T03:04:05Z", "--expires-after", "1.5h"),
        *("--max-attempts", "4", "--webhook", "https://example.com/x", "--request-id", "key"),
    )
    (request,) = queue.requests
    chat = request.request
    assert [(each.role, each.content[0].text) for each in chat.messages] == [
        (message_pb2.ROLE_SYSTEM, "Be brief."),
        (message_pb2.ROLE_USER, "Hi"),
    ]
    assert (chat.model, chat.max_tokens) == ("m", 7)
    assert chat.HasField("temperature")
    assert (request.priority, request.max_attempts, request.request_id) == (-5, 4, "key")
    assert request.not_before.ToDatetime(tzinfo=UTC) == datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert request.expires_after.seconds == 5400
    assert request.webhook.url == "https://example.com/x"
    assert not request.HasField("wait")


def test_submit_reads_standard_input(queue):
    queue.run("submit", "-", stdin="Größe?\nJa.\n".encode())
    assert queue.requests[0].request.messages[0].content[0].text == "Größe?\nJa."


def test_submit_of_a_file_with_options_over_it(queue, tmp_path):
    path = tmp_path / "request.json"
    user = {"role": "ROLE_USER", "content": [{"text": "One"}]}
    document = {"request": {"model": "m", "messages": [user], "topP": 0.5}, "priority": 3, "maxAttempts": 2}
    path.write_text(json.dumps(document))
    queue.run("submit", "Two", "--system", "S", "--file", str(path), "--priority", "9")
    queue.run("submit", "--file", "-", stdin=path.read_bytes())
    first, second = queue.requests
    assert [each.content[0].text for each in first.request.messages] == ["S", "One", "Two"]
    assert (first.request.model, first.request.top_p, first.priority, first.max_attempts) == ("m", 0.5, 9, 2)
    assert [each.content[0].text for each in second.request.messages] == ["One"]
    path.write_text('{"request": {"messages": [{"role": "user"}]}}')
    assert "no EnqueueRequest" in queue.run("submit", "--file", str(path), code=2).stderr


def test_submit_waits_for_the_answer(queue):
    queue.job = make_job("succeeded", "Forty-two.")
    result = queue.run("submit", "Hi", "--wait", "30")
    assert result.stdout.endswith("\nForty-two.\n")
    assert f"queued as {ID}" in result.stderr
    assert queue.requests[1].wait.seconds == 30
    assert 30 < queue.times[1] <= 41
    queue.job = make_job("failed", error=status_pb2.Status(code=13, message="boom"))
    assert "boom (internal)" in queue.run("submit", "Hi", "--wait", "30", code=1).stdout
    queue.job = make_job("running")
    assert "running" in queue.run("submit", "Hi", "--wait", "0").stdout


def test_submit_and_watch(queue):
    queue.watches = [
        [job_event(make_job()), job_event(make_job("running")), text_event("Forty"), text_event("-two")]
    ]
    queue.job = make_job("succeeded", "Forty-two")
    result = queue.run("submit", "Hi", "--watch")
    assert result.stdout == "Forty-two\n"
    assert f"queued as {ID}" in result.stderr


def test_submit_says_that_there_is_no_model(queue):
    queue.models = []
    assert queue.run("submit", "Hi", code=1).stderr == "inferd the server lists no model\n"


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ([], "PROMPT"),
        ([""], "PROMPT"),
        (["Hi", "--not-before", "10m"], "--not-before"),
        (["Hi", "--not-before", "+10w"], "--not-before"),
        (["Hi", "--not-before", "+999999999d"], "--not-before"),
        (["Hi", "--not-before", "[red]soon"], "--not-before"),
        (["Hi", "--not-before", "2026-13-01"], "--not-before"),
        (["Hi", "--expires-after", "-5s"], "--expires-after"),
        (["Hi", "--expires-after", "1e3"], "--expires-after"),
        (["Hi", "--expires-after", "9" * 30], "--expires-after"),
        (["Hi", "--expires-after", "9" * 400], "--expires-after"),
        (["Hi", "--max-tokens", "-1"], "--max-tokens"),
        (["Hi", "--max-tokens", "many"], "--max-tokens"),
        (["Hi", "--priority", "3000000000"], "--priority"),
        (["Hi", "--wait", "-1"], "--wait"),
        (["Hi", "--wait", "1", "--watch"], "--wait"),
        (["Hi", "--system", "\udcff"], "--system"),
        (["\udcff"], "PROMPT"),
        (["--file", "/nowhere/request.json"], "--file"),
    ],
)
def test_wrong_input_names_the_option(queue, arguments, option):
    result = queue.run("submit", *arguments, code=2)
    assert option in result.stderr
    assert not queue.requests


def test_times_and_durations():
    assert [queue_commands.parse_duration(text) for text in ("90", "90s", "5m", "2h", "1d", "0.5s")] == [
        timedelta(seconds=90),
        timedelta(seconds=90),
        timedelta(minutes=5),
        timedelta(hours=2),
        timedelta(days=1),
        timedelta(seconds=0.5),
    ]
    in_ten = queue_commands.parse_time("+10m") - datetime.now(UTC)
    assert timedelta(minutes=9) < in_ten <= timedelta(minutes=10)
    assert queue_commands.parse_time("2026-11-23T18:00:00+02:00") == datetime(2026, 11, 23, 16, tzinfo=UTC)
    assert queue_commands.parse_time("2026-11-23 18:00") == datetime(2026, 11, 23, 18).astimezone()
    with pytest.raises(typer.BadParameter, match=r"2026-11-23T18:00:00Z.*\+10m"):
        queue_commands.parse_time("tomorrow")


def test_zero_is_sent_and_judged_by_the_server(queue):
    queue.run("submit", "Hi", "--expires-after", "0", "--not-before", "1970-01-01T00:00:00Z", "--webhook", "")
    (request,) = queue.requests
    assert all(request.HasField(name) for name in ("expires_after", "not_before", "webhook"))


# --- list


def test_list_in_a_pipe_cuts_nothing(queue):
    queue.jobs = [
        make_job(priority=-7),
        make_job("running", attempts=1),
        make_job("succeeded", "Yes", attempts=1),
    ]
    queue.jobs[1].model = "organisation/" + "a-long-name-" * 20
    process = subprocess.run(queue.command("list"), capture_output=True, text=True, check=True)
    assert process.stderr == ""
    header, *rows = [line.split() for line in process.stdout.splitlines()]
    assert header == ["id", "model", "state", "priority", "position", "attempts", "age", "duration", "tokens"]
    assert rows[0] == [ID, "small", "queued", "-7", "3", "0/3", rows[0][6], "-", "-"]
    assert rows[0][6].startswith("2h")
    assert rows[1][:6] == [ID, queue.jobs[1].model, "running", "0", "-", "1/3"]
    assert rows[2] == [ID, "small", "succeeded", "0", "-", "1/3", rows[2][6], "34s", "12+34"]


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_list_on_a_terminal_shows_whole_ids(queue, columns):
    queue.jobs = [make_job(), make_job("failed")]
    code, output = on_a_terminal(queue.command("list"), columns)
    assert code == 0
    assert "\x1b[31mfailed" in output
    output = plain(output)
    assert output.count(ID) == 2
    assert "position" in output
    assert ("tokens" in output) == (columns == 200)
    if columns >= 80:
        assert all(len(line) <= columns for line in output.splitlines())


def test_list_asks_for_what_it_is_told_to(queue):
    queue.jobs = [make_job()]
    queue.run(
        *("list", "--state", "queued", "--state", "running", "--model", "m"),
        *("--limit", "7", "--oldest-first", "--after", ID),
    )
    (request,) = queue.requests
    assert list(request.states) == [queue_pb2.JOB_STATE_QUEUED, queue_pb2.JOB_STATE_RUNNING]
    assert (request.model, request.page_size, request.after) == ("m", 7, ID)
    assert request.order == queue_pb2.JOB_ORDER_ASC
    assert "--state" in queue.run("list", "--state", "done", code=2).stderr
    assert "--limit" in queue.run("list", "--limit", "0", code=2).stderr


def test_list_pages(queue):
    queue.jobs = [make_job(job_id=f"chatcmpl-{number:032}") for number in range(250)]
    first = queue.run("list")
    assert len(first.stdout.splitlines()) == 21
    assert f"these are 20, there are more: --after chatcmpl-{19:032}, or --all" in first.stderr
    many = queue.run("list", "--limit", "150")
    assert len(many.stdout.splitlines()) == 151
    assert f"--after chatcmpl-{149:032}" in many.stderr
    every = queue.run("list", "--all", "--after", ID)
    assert len(every.stdout.splitlines()) == 251
    assert every.stderr == ""
    assert [(asked.page_size, asked.page_token, asked.after) for asked in queue.requests[-3:]] == [
        (100, "", ID),
        (100, "100", ""),
        (100, "200", ""),
    ]


def test_list_of_nothing(queue):
    result = queue.run("list")
    assert (result.stdout, result.stderr) == ("", "inferd there are no such jobs\n")


# --- get


def test_get_shows_the_facts_and_the_answer(queue):
    queue.job = make_job("succeeded", "Forty-two.\n", attempts=2, lost_attempts=1, request_id="key")
    queue.job.webhook.CopyFrom(
        queue_pb2.WebhookDelivery(
            url="https://example.com/x",
            state=queue_pb2.DELIVERY_STATE_PENDING,
            attempts=2,
            response_status=500,
            error="no 2xx",
        )
    )
    result = queue.run("get", ID, "--wait", "20")
    facts = dict(line.split(maxsplit=1) for line in result.stdout.split("\n\n")[0].splitlines())
    assert facts["state"] == "succeeded"
    assert facts["attempts"] == "2 of 3, and 1 lost"
    assert facts["webhook"] == "https://example.com/x, pending, tried 2 times, HTTP 500, no 2xx"
    assert facts["tokens"] == "12 tokens read, 34 generated"
    assert facts["finish"] == "stop"
    assert facts["duration"] == "34s"
    assert result.stdout.endswith("\n\nForty-two.\n")
    assert queue.requests[0].wait.seconds == 20
    assert 20 < queue.times[0] <= 31


def test_get_tells_several_answers_apart(queue):
    queue.job = make_job("succeeded", "One")
    queue.job.completion.choices.add(index=1, message=chat_pb2.AssistantMessage(content="Two"))
    assert queue.run("get", ID).stdout.endswith("\n\nanswer 0:\nOne\nanswer 1:\nTwo\n")


def test_get_shows_why_there_is_no_answer(queue):
    queue.job = make_job("failed", error=status_pb2.Status(code=13, message="[bold]boom[/]\nand\x1b[2J more"))
    assert "error       [bold]boom[/] and[2J more (internal)\n" in queue.run("get", ID).stdout


def test_get_as_json(queue):
    queue.job = make_job("failed", "é\x1b[31m\x9b31m\x7f")
    queue.job.error.CopyFrom(invalid("request.model", "no such model").to_status())
    output = queue.run("get", ID, "--json").stdout
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", output)
    assert "é" in output
    document = json.loads(output)
    assert document["state"] == "JOB_STATE_FAILED"
    assert document["completion"]["choices"][0]["message"]["content"] == "é\x1b[31m\x9b31m\x7f"
    assert document["error"]["details"][0]["reason"] == "INVALID_ARGUMENT"
    queue.job.error.details[0].type_url = "type.googleapis.com/unknown.Message"
    assert "not known here" in queue.run("get", ID, "--json", code=1).stderr


# --- cancel, delete, stats


@pytest.mark.parametrize(("command", "done"), [("cancel", "cancelled"), ("delete", "deleted")])
def test_several_jobs_at_once(queue, command, done):
    assert queue.run(command, "a", "b").stdout == f"a {done}\nb {done}\n"
    result = queue.run(command, "a", "nope", "b", code=1)
    assert result.stdout == f"a {done}\nb {done}\n"
    assert result.stderr == 'inferd nope: not found: there is no job "nope"\n'
    assert [asked.id for asked in queue.requests] == ["a", "b", "a", "nope", "b"]


def test_stats(queue):
    queue.stats = queue_pb2.QueueStats(
        models=[
            queue_pb2.ModelQueue(model="small", queued=5, running=2, running_limit=4),
            queue_pb2.ModelQueue(model="[b]large\x1b", running=1, running_limit=1),
        ],
        queued=5,
        running=3,
        running_limit=8,
    )
    queue.stats.models[0].oldest_queued_time.seconds = int(time.time()) - 312
    rows = [line.split() for line in queue.run("stats").stdout.splitlines()]
    assert rows[0] == ["model", "queued", "running", "limit", "oldest"]
    assert rows[1][:4] == ["small", "5", "2", "4"]
    assert rows[1][4].startswith("5m1")
    assert rows[2:] == [["[b]large", "0", "1", "1", "-"], ["total", "5", "3", "8", "-"]]


# --- errors


COMMANDS = (
    ("submit", "Hi"),
    ("list",),
    ("get", "nope"),
    ("watch", "nope"),
    ("cancel", "nope"),
    ("delete", "nope"),
    ("stats",),
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_errors_are_a_line(queue, command):
    queue.error = ServiceError(grpc.StatusCode.NOT_FOUND, "X", "[bold]no\x1b[31m\nsuch thing")
    errors = queue.run(*command, code=1).stderr
    assert errors.replace("nope: ", "") == "inferd not found: [bold]no[31m such thing\n"
    # The server's own UNAVAILABLE is not a missing server.
    queue.error = ServiceError(grpc.StatusCode.UNAVAILABLE, "X", "the database is away")
    errors = queue.run(*command, code=1).stderr
    assert errors.replace("nope: ", "") == "inferd unavailable: the database is away\n"
    queue.server.stop(0).wait()
    errors = queue.run(*command, code=1).stderr
    assert errors.startswith(f"inferd {queue.target} does not answer: ")
    assert errors.count("\n") == 1


def test_a_field_at_fault_is_named(queue):
    queue.error = invalid("priority", "priority must be at most 1000000, not 1000001")
    expected = "inferd invalid argument: priority must be at most 1000000, not 1000001\n"
    assert queue.run("submit", "Hi", code=1).stderr == expected
    queue.error = invalid("request.messages[0]", "must have content")
    expected = "inferd invalid argument: request.messages[0]: must have content\n"
    assert queue.run("submit", "Hi", code=1).stderr == expected


def test_several_fields_and_odd_details(queue):
    class Odd(ServiceError):
        def to_status(self) -> status_pb2.Status:
            status = status_pb2.Status(code=3, message="wrong")
            bad = error_details_pb2.BadRequest()
            bad.field_violations.add(field="a", description="a is wrong")
            bad.field_violations.add(field="b", description="not that")
            status.details.add().Pack(bad)
            status.details.add(type_url="type.googleapis.com/unknown.Message", value=b"\xff")
            return status

    queue.error = Odd(grpc.StatusCode.INVALID_ARGUMENT, "X", "")
    assert queue.run("stats", code=1).stderr == "inferd invalid argument: a is wrong; b: not that\n"


def test_help_is_quick_and_names_all(queue):
    """The generated modules take a tenth of a second: only commands that need them import them."""
    code = "import sys, inferd.services.app.cli; print([name for name in sys.modules if 'inferd.v1' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    output = CliRunner().invoke(app, ["queue", "--help"]).output
    for name in ("submit", "list", "get", "watch", "cancel", "delete", "stats"):
        assert f" {name} " in output
