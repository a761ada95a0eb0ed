"""Migrates the queue's tables with Alembic. The steps are in `migrations/versions`."""

import sqlalchemy as sa
from alembic import command
from alembic.config import Config


def migrate(connection: sa.Connection) -> None:
    """Run the steps that the database has not had yet, in the connection's transaction."""
    config = Config()
    config.set_main_option("script_location", "inferd.services.queue:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
