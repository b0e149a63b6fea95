"""Sigstore bundles that vendors hand in for policies which demand provenance."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "provenance",
        sa.Column("g", sa.LargeBinary(length=32), nullable=False),
        sa.Column("policy", sa.LargeBinary(length=32), nullable=False),
        sa.Column("object", sa.LargeBinary(length=32), nullable=False),
        sa.Column("created", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["g"], ["trees.g"], name="fk_provenance_trees"),
        sa.PrimaryKeyConstraint("g", "policy", name="pk_provenance"),
    )
