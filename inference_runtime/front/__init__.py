"""The OpenAI-compatible surface of the runtime: a plain ASGI application before the engine.

Read `app.py` first. Guarantees: only listed paths exist; only known request fields reach the
engine; no prompt and no answer is logged or put into an error.
Does not terminate TLS and does not authenticate callers yet.
"""
