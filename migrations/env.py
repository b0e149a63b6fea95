"""Alembic's environment. Run by `broker.store.migrate`, which hands over an open connection."""

from __future__ import annotations

from alembic import context

from broker.store.schema import METADATA

connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("run `ostiary broker init` or `ostiary broker upgrade` instead of alembic")

context.configure(connection=connection, target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
