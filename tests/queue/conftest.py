"""The queue's tests run on both databases: a SQLite file, and a private PostgreSQL."""

from collections.abc import AsyncIterator, Iterator

import pytest

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
