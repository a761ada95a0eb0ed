"""The first process makes all tables in one transaction, and they match the code's declarations."""

import asyncio
import re
import subprocess
import sys
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from inferd.services.queue.database import Database, Transaction
from inferd.services.queue.migrate import migrate
from inferd.services.queue.postgres import PostgresDatabase
from inferd.services.queue.queries import Page, list_jobs
from inferd.services.queue.sqlite import SqliteDatabase
from inferd.services.queue.submission import QueueLimits, Submission, submit
from inferd.services.queue.tables import metadata

VERSIONS = "inferd_queue_version"
CAPS = QueueLimits(10, 10)
EVERYTHING = Page(size=100, after=None, ascending=True, states=[], model=None)


def database_at(url: str) -> Database:
    if url.startswith("sqlite:"):
        return SqliteDatabase(url, lambda transaction: None)
    return PostgresDatabase(url, "test")


@pytest.fixture
async def database(queue_url):
    database = database_at(queue_url)
    yield database
    await database.close()


def a_job(request_id: str) -> Submission:
    return Submission(
        caller="",
        request_id=request_id,
        digest=b"",
        model="small",
        requested_model="small",
        request=b"",
        priority=0,
        run_after=None,
        expires_after=None,
        max_attempts=1,
        webhook_url=None,
        webhook_secret=None,
    )


def differences(transaction: Transaction) -> list[Any]:
    """What Alembic would change, to have the tables as the code declares them."""
    options = {"version_table": VERSIONS, "compare_type": True, "compare_server_default": True}
    context = MigrationContext.configure(transaction.connection, opts=options)
    return list(compare_metadata(context, metadata))


def structure(connection: sa.Connection, schema: str) -> set[str]:
    """The definitions of all tables and indexes, as the database has them."""
    if connection.dialect.name == "sqlite":
        question = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"
    else:
        question = (
            f"SELECT indexdef FROM pg_indexes WHERE schemaname = '{schema}' UNION ALL "
            "SELECT concat_ws(' ', table_name, ordinal_position, column_name, data_type, is_nullable, "
            f"column_default) FROM information_schema.columns WHERE table_schema = '{schema}'"
        )
    found = {
        re.sub(r'[\s"]+', " ", row[0]).replace(f" {schema}.", " ")
        for row in connection.exec_driver_sql(question)
    }
    return {definition for definition in found if VERSIONS not in definition}


def declared(transaction: Transaction) -> set[str]:
    """The same, of tables that are made by their declarations."""
    connection = transaction.connection
    if connection.dialect.name == "sqlite":
        engine = sa.create_engine("sqlite://")
        with engine.begin() as memory:
            metadata.create_all(memory)
            found = structure(memory, "main")
        engine.dispose()
        return found
    connection.exec_driver_sql("CREATE SCHEMA declared")
    connection.exec_driver_sql("SET LOCAL search_path TO declared")
    metadata.create_all(connection)
    return structure(connection, "declared")


async def test_the_tables_are_those_that_the_code_declares(database):
    await database.open()
    assert await database.write(differences) == []
    # Alembic does not see where an index is partial, nor its order.
    found = await database.write(lambda transaction: structure(transaction.connection, "public"))
    expected = await database.write(declared)
    assert found == expected
    assert any("WHERE" in definition and "DESC" in definition for definition in found)


async def test_opening_again_changes_nothing(queue_url, database):
    await database.open()
    [submitted] = await database.write(submit, [a_job("one")], CAPS)
    before = await database.write(lambda transaction: structure(transaction.connection, "public"))
    again = database_at(queue_url)
    for each in (database, again):
        await each.open()
        [found], more = await each.read(list_jobs, EVERYTHING)
        assert (found.job["id"], more) == (submitted.job["id"], False)
        versions = await each.write(
            lambda transaction: transaction.rows(sa.text(f"SELECT * FROM {VERSIONS}"))
        )
        assert len(versions) == 1
        assert await each.write(lambda transaction: structure(transaction.connection, "public")) == before
    await again.close()


async def test_many_may_open_a_fresh_database_at_once(queue_url):
    databases = [database_at(queue_url) for _ in range(4)]
    await asyncio.gather(*(database.open() for database in databases))
    for number, database in enumerate(databases):
        [submitted] = await database.write(submit, [a_job(str(number))], CAPS)
        assert submitted.new
    for database in databases:
        found, _ = await database.read(list_jobs, EVERYTHING)
        assert [one.job["request_id"] for one in found] == ["0", "1", "2", "3"]
        await database.close()


OPENER = """
import asyncio, sys
sys.path[:0] = sys.argv[2:]
from tests.queue.test_migrations import CAPS, a_job, database_at, submit

async def main(url):
    print("ready", flush=True)
    name = sys.stdin.readline()
    database = database_at(url)
    await database.open()
    await database.write(submit, [a_job(name)], CAPS)
    await database.close()

asyncio.run(main(sys.argv[1]))
"""


async def test_processes_may_open_a_fresh_database_at_once(queue_url, database):
    # The paths by which the process finds this module.
    command = [sys.executable, "-c", OPENER, queue_url, *sys.path]
    processes = [
        await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        await process.stdout.readline()
    ended = await asyncio.gather(
        *(process.communicate(f"{number}\n".encode()) for number, process in enumerate(processes))
    )
    assert [process.returncode for process in processes] == [0] * 4, ended
    await database.open()
    found, _ = await database.read(list_jobs, EVERYTHING)
    assert sorted(one.job["request_id"].strip() for one in found) == ["0", "1", "2", "3"]
    assert await database.write(differences) == []


async def test_a_migration_is_taken_whole_or_not_at_all(database):
    def cut_short(transaction: Transaction) -> None:
        migrate(transaction.connection)
        raise RuntimeError("cut short")

    with pytest.raises(RuntimeError):
        await database.write(cut_short)
    tables = await database.write(lambda transaction: sa.inspect(transaction.connection).get_table_names())
    assert tables == []
    await database.open()
    assert await database.write(differences) == []


async def test_other_tables_are_left_alone(database):
    def of_another(transaction: Transaction) -> None:
        for statement in (
            "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)",
            "INSERT INTO alembic_version VALUES ('of another')",
        ):
            transaction.execute(sa.text(statement))

    await database.write(of_another)
    await database.open()
    kept = await database.write(
        lambda transaction: transaction.scalar(sa.text("SELECT version_num FROM alembic_version"))
    )
    assert kept == "of another"
