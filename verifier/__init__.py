"""Appraises attestation evidence: bytes in, verdict out. Importing it imports nothing."""
