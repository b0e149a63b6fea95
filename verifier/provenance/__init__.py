"""Who built what was measured: Sigstore bundles over measured digests, judged offline.

Guarantees: a policy that demands provenance is met only by a bundle that is genuine under a trusted
root that the policy pins, names the measured digest, and was signed by exactly the identity, issuer
and source that the policy names. Nothing is fetched. Does not guarantee that what was built is any
good, nor when: a bundle says who signed, and a log that it was signed once.
"""
