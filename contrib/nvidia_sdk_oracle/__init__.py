"""NVIDIA's nv-attestation-sdk as an oracle, asked in an environment of its own."""
