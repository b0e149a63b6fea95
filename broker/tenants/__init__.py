"""Tenants: who signs for one, and how one is born."""
