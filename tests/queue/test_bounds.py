"""The number of callers that wait for jobs is limited, and they take no place from other calls."""

import asyncio

import grpc

from inferd.v1 import models_pb2, models_pb2_grpc, queue_pb2
from tests.queue.jobs import Fronts, failure


async def test_waiting_for_jobs_takes_no_place_from_calls(small_model, small_text, queue_url):
    async with Fronts(small_model, small_text, queue_url) as fronts:
        front = await fronts.start(max_concurrent_requests=2)
        front.runtime.gate.clear()
        job = await front.enqueue()
        request = queue_pb2.WaitJobRequest(id=job.id)
        waits = [front.queue.WaitJob(request, timeout=60) for _ in range(2)]

        async def refused() -> bool:
            try:
                await front.get(job)
            except grpc.aio.AioRpcError as error:
                return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            return False

        async with asyncio.timeout(60):
            while not await refused():
                await asyncio.sleep(0.01)
        assert (await failure(front.get(job))).reason == "OVERLOADED"
        async with front.channel() as channel:
            models = models_pb2_grpc.ModelServiceStub(channel)
            assert (await models.ListModels(models_pb2.ListModelsRequest())).models
        front.runtime.gate.set()
        for wait in waits:
            assert (await wait).completion.choices
