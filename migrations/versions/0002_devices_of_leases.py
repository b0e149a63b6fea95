"""GPUs and switches that leases hold, so that one is never in two machines at once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "devices",
        sa.Column("device", sa.LargeBinary(length=9), nullable=False),
        sa.Column("seen", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("device", name="pk_devices"),
    )
    op.create_table(
        "lease_devices",
        sa.Column("lease", sa.Text(), nullable=False),
        sa.Column("device", sa.LargeBinary(length=9), nullable=False),
        sa.ForeignKeyConstraint(["lease"], ["leases.id"], name="fk_lease_devices_leases"),
        sa.PrimaryKeyConstraint("lease", "device", name="pk_lease_devices"),
    )
    op.create_index("ix_lease_devices_device", "lease_devices", ["device"], unique=False)
