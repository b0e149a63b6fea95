"""Release policies: signed by the tenant, numbered, and never older than before."""
