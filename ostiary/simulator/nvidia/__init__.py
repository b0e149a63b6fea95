"""Simulated NVIDIA GPUs and NVSwitches: a vendor with roots of its own, devices, RIMs, services.

Guarantees: reports, certificate chains, RIM documents and OCSP answers have the bytes of the real
thing (Hopper and LS10, as captured), under keys made here, so the real verifier and the real
`nvidia-ml-py` run unchanged. Proves nothing: there is no GPU, keys lie in files, and a measurement
is the hash of a version number. Its roots count only where a process was told so aloud.
"""
