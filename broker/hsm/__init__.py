"""The HSM worker: the only process on the broker's side that ever holds a DEK.

Guarantees: the worker (`worker.py`, a process of its own) wraps keys only as a leaf of the tenant's
log names them, each leaf once, and signs only consistent extensions of that log. The rest of the
broker speaks to it through `client.py` and never loads PKCS#11. Does not protect from whoever holds
the PIN, the worker or its host: they can get every key, unlogged, whatever the token.

Read `service.py` first, then `release.py`.
"""
