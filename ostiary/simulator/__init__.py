"""Simulated hardware: a software Intel and AMD with their own roots, and machines they vouch for.

Guarantees: what comes out has the bytes of the real thing (certificates, collateral, quotes,
reports), under keys made here, so the real verifier runs unchanged. Guarantees nothing about
security: there is no TEE, keys lie in files, and a simulated measurement is what a file says it is.
Its roots count only where a process was told so aloud (see `verifier.anchors.with_simulated`).
It was written from the vendors' specifications and never imports the verifier's parsers.
"""
