"""The files that the examples of docs/verifier.md read, made by the simulator.

`python -m tests.kit.examples FOLDER` writes them, to try the examples by hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.kit import azure, maa, measured, nvgpu, sgx, snp_forge, vendors
from tests.kit.snp_forge import Forge
from verifier.anchors import PINNED, Anchors
from verifier.snp import SnpEndorsements
from verifier.snp.product import MILAN
from verifier.tpm import attest as attests


def _hex(values: Mapping[int, bytes]) -> dict[str, str]:
    return {str(index): value.hex() for index, value in values.items()}


def _pins(anchors: Anchors) -> dict[str, Any]:
    return {
        "intel": [pin.hex() for pin in sorted(anchors.intel & anchors.simulated)],
        "amd": {
            product: pin.hex()
            for product, pins in anchors.amd.items()
            for pin in pins & anchors.simulated
        },
    }


def _snp(folder: Path, endorsements: SnpEndorsements) -> None:
    folder.mkdir(exist_ok=True)
    for name, raw in (
        ("vcek.der", endorsements.vek),
        ("ask.der", endorsements.ask),
        ("ark.der", endorsements.ark),
        ("crl.der", endorsements.crl or b""),
    ):
        (folder / name).write_bytes(raw)


def _azure(folder: Path, machine: azure.Machine) -> None:
    folder.mkdir(exist_ok=True)
    evidence = machine.evidence
    for name, raw in (
        ("hcl_report.bin", evidence.hcl_report),
        ("td_quote.bin", evidence.td_quote),
        ("tpm_message.bin", evidence.tpm_message),
        ("tpm_signature.bin", evidence.tpm_signature),
    ):
        if raw is not None:
            (folder / name).write_bytes(raw)
    told = {"sha256": _hex(measured.PCRS)}
    (folder / "pcrs.json").write_text(json.dumps({"pcrs": told}))
    (folder / "nonce.bin").write_bytes(measured.NONCE)


def _maa(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    times = {"iat": vendors.NOW - 60, "nbf": vendors.NOW - 60, "exp": vendors.NOW + 60}
    (folder / "token.jwt").write_bytes(maa.token(maa.guest() | times))
    (folder / "jwks.json").write_bytes(maa.key_set(maa.jwk(maa.key())).jwks)
    (folder / "nonce.bin").write_bytes(maa.NONCE)
    (folder / "policy.toml").write_text(
        f"""[maa]
issuers = ["{maa.ISSUER}"]
[[reference]]
kind = "maa"
name = "image"
attestation_type = "sevsnpvm"
launch_measurement = "{maa.LAUNCH.hex()}"
"""
    )


def _tpm(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    log = measured.tpm_log()
    values = measured.PCRS | log.registers()["sha256"]
    message = attests.encode(measured.attest({"sha256": values}))
    key = measured.rsa_key().public_key()
    (folder / "attest.bin").write_bytes(message)
    (folder / "signature.bin").write_bytes(measured.sign(message))
    (folder / "ak.pem").write_bytes(
        key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    (folder / "pcrs.json").write_text(json.dumps({"pcrs": {"sha256": _hex(values)}}))
    (folder / "nonce.bin").write_bytes(measured.NONCE)
    (folder / "eventlog.bin").write_bytes(log.raw)


def _gpus(folder: Path) -> dict[str, str]:
    """Write a machine's one GPU, and return the pins of its maker."""
    folder.mkdir(exist_ok=True)
    whole = nvgpu.make()
    gpu = whole.gpus[0]
    (folder / "report.bin").write_bytes(gpu.report(nvgpu.NONCE))
    (folder / "chain.pem").write_bytes(gpu.chain)
    (folder / "nonce.bin").write_bytes(nvgpu.NONCE)
    (folder / "endorsements.bin").write_bytes(nvgpu.endorse(whole, vendors.NOW).to_bytes())
    vendor = nvgpu.vendor()
    return {"nvidia": vendor.device_root_pin.hex(), "nvidia_rim": vendor.rim_root_pin.hex()}


def write(folder: Path) -> None:
    """Write every file that the examples read into `folder`, which exists."""
    body = vendors.good_body()
    (folder / "quote.bin").write_bytes(vendors.good_quote(b"\x2a" * 64))
    (folder / "collateral.json").write_text(json.dumps(vendors.good_collateral()))
    (folder / "sgx_quote.bin").write_bytes(sgx.good_quote())
    (folder / "sgx_collateral.json").write_text(json.dumps(vendors.good_collateral(tee="sgx")))
    made = Forge(MILAN).evidence()
    (folder / "report.bin").write_bytes(made.report)
    _snp(folder, made.endorsements)
    snp = azure.snp()
    _azure(folder / "azure-snp", snp)
    assert isinstance(snp.endorsements, SnpEndorsements)
    _snp(folder / "azure-snp", snp.endorsements)
    _azure(folder / "azure-tdx", azure.tdx_machine())
    _maa(folder / "maa")
    _tpm(folder / "tpm")
    ccel = measured.ccel_log()
    (folder / "ccel.bin").write_bytes(ccel.raw)
    rtmrs = ccel.registers()["sha384"]
    (folder / "rtmrs.json").write_text(json.dumps({"alg": "sha384", "rtmr": _hex(rtmrs)}))
    pins = _pins(PINNED.with_simulated(intel=[vendors.fake_intel().root_pin]))
    pins["amd"] = _pins(snp_forge.pinned())["amd"]
    pins |= _gpus(folder / "gpus")
    (folder / "simulator.json").write_text(json.dumps(pins))
    (folder / "policy.toml").write_text(
        "\n".join(
            (
                "[[reference]]",
                'kind = "tdx"',
                'name = "demo image"',
                *(
                    f'{name} = "{getattr(body, name).hex()}"'
                    for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2")
                ),
                "",
            )
        )
    )


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    write(target)
