"""Brings the queue's tables up to date, with Alembic: `migrations/versions` holds the steps."""

import sqlalchemy as sa
from alembic import command
from alembic.config import Config


def migrate(connection: sa.Connection) -> None:
    """Take the steps that the database has not taken yet, in the connection's transaction."""
    config = Config()
    config.set_main_option("script_location", "inferd.services.queue:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
