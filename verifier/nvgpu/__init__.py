"""NVIDIA GPUs and NVSwitches: genuine? acceptable? alone and as a set.

This package's face is `appraise`: it judges a set, device by device (`device`, on `spdm`, `opaque`,
`chain` and `identity`), against NVIDIA's manifests (`rim`, `measure`) and its revocations
(`revocation`), and then as a whole (`topology`).
"""
