"""A QueueService that answers as scripted, and a terminal, for tests of the command line."""

import os
import pty
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import grpc
from grpc_status import rpc_status
from typer.testing import CliRunner, Result

from inferd.services.app.cli import app
from inferd.services.errors import ServiceError
from inferd.v1 import (
    chat_pb2,
    message_pb2,
    models_pb2,
    models_pb2_grpc,
    queue_pb2,
    queue_pb2_grpc,
    sampling_pb2,
)

INFERD = Path(sys.executable).with_name("inferd")
ID = "chatcmpl-" + "0123456789abcdef" * 2
NOW = int(time.time())


def make_job(state: str = "queued", text: str | None = None, job_id: str = ID, **fields) -> queue_pb2.Job:
    job = queue_pb2.Job(
        id=job_id, model="small", state=f"JOB_STATE_{state.upper()}", max_attempts=3, **fields
    )
    job.create_time.seconds = NOW - 7200
    if state == "queued":
        job.queue_position = 3
    else:
        job.start_time.seconds = NOW - 100
    if state not in ("queued", "running"):
        job.finish_time.seconds = NOW - 66
    if text is not None:
        message = chat_pb2.AssistantMessage(role=message_pb2.ROLE_ASSISTANT, content=text)
        job.completion.choices.add(message=message, finish_reason=sampling_pb2.FINISH_REASON_STOP)
        usage = sampling_pb2.Usage(prompt_tokens=12, completion_tokens=34, total_tokens=46)
        job.completion.usage.CopyFrom(usage)
    return job


def job_event(job: queue_pb2.Job) -> queue_pb2.JobEvent:
    return queue_pb2.JobEvent(job=job)


def text_event(text: str, index: int = 0) -> queue_pb2.JobEvent:
    delta = chat_pb2.ChatDelta(content=text)
    choice = chat_pb2.ChatChunkChoice(index=index, delta=delta)
    return queue_pb2.JobEvent(chunk=chat_pb2.ChatCompletionChunk(id=ID, choices=[choice]))


UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, "the server is stopping")
MISSING = ServiceError(grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND", 'there is no job "nope"')
LOST = ServiceError(grpc.StatusCode.ABORTED, "ATTEMPT_LOST", "the attempt was lost")


class FakeQueue(queue_pb2_grpc.QueueServiceServicer, models_pb2_grpc.ModelServiceServicer):
    """Answers as scripted. `watches` holds, for each call of Watch, its events and maybe a last error."""

    def __init__(self) -> None:
        self.requests: list = []
        self.times: list[float] = []
        self.job = make_job()
        self.jobs: list[queue_pb2.Job] = []
        self.watches: list[list] = []
        self.error: ServiceError | None = None
        self.hold = Event()
        self.held = False
        self.models = [models_pb2.Model(id="first"), models_pb2.Model(id="second")]
        self.stats = queue_pb2.QueueStats()

    def _begin(self, request, context) -> None:
        self.requests.append(request)
        self.times.append(context.time_remaining())
        if self.error is not None or getattr(request, "id", "") == "nope":
            self._end(self.error or MISSING, context)

    def _end(self, error, context) -> None:
        if isinstance(error, ServiceError):
            context.abort_with_status(rpc_status.to_status(error.to_status()))
        context.abort(*error)

    def ListModels(self, request, context):
        return models_pb2.ListModelsResponse(models=self.models)

    def Enqueue(self, request, context):
        self._begin(request, context)
        return make_job()

    def GetJob(self, request, context):
        self._begin(request, context)
        if self.held:
            self.hold.wait(20)
        return self.job

    def WatchJob(self, request, context):
        self._begin(request, context)
        for event in self.watches.pop(0):
            if event == "hold":
                self.hold.wait(20)
            elif event == "pause":
                time.sleep(0.5)
            elif isinstance(event, queue_pb2.JobEvent):
                yield event
            else:
                self._end(event, context)

    def ListJobs(self, request, context):
        copy = queue_pb2.ListJobsRequest()
        copy.CopyFrom(request)
        self._begin(copy, context)
        first = int(request.page_token or 0)
        last = first + request.page_size
        more = last < len(self.jobs)
        return queue_pb2.ListJobsResponse(
            jobs=self.jobs[first:last], has_more=more, next_page_token=str(last) if more else ""
        )

    def CancelJob(self, request, context):
        self._begin(request, context)
        return make_job("cancelled", job_id=request.id)

    def DeleteJob(self, request, context):
        self._begin(request, context)
        return queue_pb2.DeleteJobResponse(id=request.id, deleted=True)

    def GetQueueStats(self, request, context):
        self._begin(request, context)
        return self.stats


class RunningQueue(FakeQueue):
    """A FakeQueue on a port."""

    def __init__(self) -> None:
        super().__init__()
        self.server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        queue_pb2_grpc.add_QueueServiceServicer_to_server(self, self.server)
        models_pb2_grpc.add_ModelServiceServicer_to_server(self, self.server)
        self.target = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def run(self, *arguments: str, code: int = 0, stdin: bytes | None = None) -> Result:
        """`inferd queue`, with its output apart, in this process."""
        arguments = ("queue", arguments[0], "--target", self.target, *arguments[1:])
        result = CliRunner().invoke(app, arguments, input=stdin)
        assert result.exit_code == code, (result.output, result.exception)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    def command(self, *arguments: str) -> list[str]:
        return [str(INFERD), "queue", arguments[0], "--target", self.target, *arguments[1:]]


def on_a_terminal(command: list[str], columns: int = 80) -> tuple[int, str]:
    """The exit code and the output, both streams together, of a command whose outputs are a terminal."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color"}
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    output = b""
    while True:
        try:
            data = os.read(leader, 65536)
        except OSError:
            break
        if not data:
            break
        output += data
    os.close(leader)
    return process.wait(20), output.decode()


def plain(output: str) -> str:
    """The output without colours and moves of the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output).replace("\r", "")
