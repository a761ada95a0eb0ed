"""The queue's tests run on both databases: a SQLite file, and a private PostgreSQL."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.queue.jobs import Fronts
from tests.support.postgres import Postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    server.start()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
async def queue_url(request: pytest.FixtureRequest, tmp_path) -> AsyncIterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/queue.db"
        return
    server: Postgres = request.getfixturevalue("postgres")
    url = await server.create_database()
    yield url
    if server.running:
        await server.drop_database(url)


@pytest.fixture
async def fronts(small_model, small_text, queue_url) -> AsyncIterator[Fronts]:
    async with Fronts(small_model, small_text, queue_url) as fronts:
        yield fronts
