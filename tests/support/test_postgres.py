"""The tests' private PostgreSQL crashes, recovers, hangs and goes away as other tests need it to."""

import asyncio
import contextlib

import asyncpg
import psutil
import pytest

from tests.support.postgres import Postgres


async def test_crashes_recovers_hangs_and_goes():
    with contextlib.closing(Postgres()) as postgres:
        postgres.start()
        url = await postgres.create_database()
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(url.replace(postgres.password, "wrong"))
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)")

        postgres.kill()
        with pytest.raises((asyncpg.PostgresConnectionError, OSError)):
            await connection.fetchval("SELECT n FROM kept")
        with pytest.raises(OSError):
            await asyncpg.connect(url)
        postgres.start()
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("SELECT n FROM kept") == 1

        postgres.freeze()
        answer = asyncio.ensure_future(connection.fetchval("SELECT n FROM kept"))
        assert not (await asyncio.wait([answer], timeout=0.2))[0]
        postgres.thaw()
        assert await answer == 1

        await postgres.drop_database(url)
        postgres.restart_immediate()
        postgres.stop()
        postgres.start()
        await postgres.create_database()
        postgres.freeze()
        assert postgres.password not in postgres.log.read_text()
    assert not postgres.folder.exists()
    folder = str(postgres.folder)
    assert not [process for process in psutil.process_iter(["cmdline"]) if folder in str(process.info)]
