"""Keys of a tenant: import keys, DEKs that come in wrapped, and the states they go through."""
