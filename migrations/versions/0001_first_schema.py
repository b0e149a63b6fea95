"""The first schema: tenants, their trees, and the rows that cache what the trees say."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("time", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("tenant", sa.LargeBinary(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("reasons", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_tenant_id", "audit", ["tenant", "id"], unique=False)
    op.create_table(
        "challenges_spent",
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_challenges_spent"),
    )
    op.create_index("ix_challenges_spent_expires", "challenges_spent", ["expires"], unique=False)
    op.create_table(
        "tenants",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("g", sa.LargeBinary(length=32), nullable=False),
        sa.Column("genesis", sa.LargeBinary(), nullable=False),
        sa.Column("created", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_tenants"),
        sa.UniqueConstraint("g", name="uq_tenants_g"),
    )
    op.create_table(
        "trees",
        sa.Column("g", sa.LargeBinary(length=32), nullable=False),
        sa.Column("size", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("frontier", sa.LargeBinary(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("state", sa.LargeBinary(length=32), nullable=False),
        sa.Column("state_map", sa.LargeBinary(), nullable=False),
        sa.Column("last_time", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("signed_size", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("checkpoint", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["g"], ["tenants.g"], name="fk_trees_tenants"),
        sa.PrimaryKeyConstraint("g", name="pk_trees"),
    )
    op.create_table(
        "import_keys",
        sa.Column("g", sa.LargeBinary(length=32), nullable=False),
        sa.Column("spki_sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("spki", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["g"], ["trees.g"], name="fk_import_keys_trees"),
        sa.PrimaryKeyConstraint("g", "spki_sha256", name="pk_import_keys"),
    )
    op.create_table(
        "keys",
        sa.Column("g", sa.LargeBinary(length=32), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("blob", sa.LargeBinary(), nullable=False),
        sa.Column("kek", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("manifest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("policy", sa.LargeBinary(length=32), nullable=False),
        sa.Column("policy_version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("statement", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["g"], ["trees.g"], name="fk_keys_trees"),
        sa.PrimaryKeyConstraint("g", "id", "version", name="pk_keys"),
    )
    op.create_table(
        "leases",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("g", sa.LargeBinary(length=32), nullable=False),
        sa.Column("instance", sa.LargeBinary(), nullable=False),
        sa.Column("recipients", sa.LargeBinary(length=32), nullable=False),
        sa.Column("platform", sa.LargeBinary(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("policy", sa.LargeBinary(length=32), nullable=False),
        sa.Column("created", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("not_after", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("leaf", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["g"], ["trees.g"], name="fk_leases_trees"),
        sa.PrimaryKeyConstraint("id", name="pk_leases"),
    )
    op.create_index("ix_leases_g_not_after", "leases", ["g", "not_after"], unique=False)
    op.create_table(
        "leaves",
        sa.Column("g", sa.LargeBinary(length=32), nullable=False),
        sa.Column("idx", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("time", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["g"], ["trees.g"], name="fk_leaves_trees"),
        sa.PrimaryKeyConstraint("g", "idx", name="pk_leaves"),
    )
    op.create_index("ix_leaves_g_hash", "leaves", ["g", "hash"], unique=False)
    op.create_table(
        "models",
        sa.Column("g", sa.LargeBinary(length=32), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("created", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["g"], ["trees.g"], name="fk_models_trees"),
        sa.PrimaryKeyConstraint("g", "model", "version", name="pk_models"),
    )
    op.create_table(
        "nodes",
        sa.Column("g", sa.LargeBinary(length=32), nullable=False),
        sa.Column("level", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("idx", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.LargeBinary(length=32), nullable=False),
        sa.ForeignKeyConstraint(["g"], ["trees.g"], name="fk_nodes_trees"),
        sa.PrimaryKeyConstraint("g", "level", "idx", name="pk_nodes"),
    )
    op.create_table(
        "policies",
        sa.Column("g", sa.LargeBinary(length=32), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("created", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["g"], ["trees.g"], name="fk_policies_trees"),
        sa.PrimaryKeyConstraint("g", "name", "version", name="pk_policies"),
    )
    op.create_index("ix_policies_g_digest", "policies", ["g", "digest"], unique=False)
    op.create_table(
        "lease_keys",
        sa.Column("lease", sa.Text(), nullable=False),
        sa.Column("g", sa.LargeBinary(length=32), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("key_version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["lease"], ["leases.id"], name="fk_lease_keys_leases"),
        sa.PrimaryKeyConstraint("lease", "key_id", "key_version", name="pk_lease_keys"),
    )
    op.create_index(
        "ix_lease_keys_g_key_id_key_version",
        "lease_keys",
        ["g", "key_id", "key_version"],
        unique=False,
    )
    op.create_table(
        "model_files",
        sa.Column("g", sa.LargeBinary(length=32), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("sealed_size", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("blake3", sa.LargeBinary(length=32), nullable=False),
        sa.Column("object", sa.LargeBinary(length=32), nullable=True),
        sa.ForeignKeyConstraint(
            ["g", "model", "version"],
            ["models.g", "models.model", "models.version"],
            name="fk_model_files_models",
        ),
        sa.ForeignKeyConstraint(["g"], ["trees.g"], name="fk_model_files_trees"),
        sa.PrimaryKeyConstraint("g", "model", "version", "path", name="pk_model_files"),
    )
