"""A small Azure Attestation of our own: its keys, and tokens in both forms with anything changed.

The claims follow tokens that Microsoft publishes as examples; every value in them is made up.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from verifier.errors import VerifierError
from verifier.maa.appraise import MaaEvidence, appraise_maa
from verifier.maa.keys import MaaKeys
from verifier.policy import AppraisalPolicy, MaaReference, MaaRules
from verifier.result import Appraisal, AttestationResult
from verifier.wire.canonical import Hex, b64encode

ISSUER = "https://simulated.eus.attest.azure.net"
NOW = 1_800_000_000
NONCE = b"a nonce of the relying party"
KID = "kid/of+the=key"
LAUNCH, HOST, MR_TD = b"\x0e" * 48, b"\x0f" * 32, b"\x21" * 48
RUNTIME_DATA = b'{"keys":[],"vm-configuration":{"secure-boot":true},"who":"us"}'
POLICY = AppraisalPolicy(
    maa=MaaRules(issuers=(ISSUER,)),
    reference=(
        MaaReference("amd", "sevsnpvm", launch_measurement=Hex(LAUNCH), host_data=Hex(HOST)),
        MaaReference("intel", "tdxvm", mr_td=Hex(MR_TD), rtmr0=Hex(bytes(48))),
    ),
)


@functools.cache
def key(_name: str = "signer", bits: int = 2048) -> rsa.RSAPrivateKey:
    """Return a key of the instance, or somebody's, by name."""
    return rsa.generate_private_key(65537, bits)


def certificate(
    owner: rsa.RSAPrivateKey,
    issuer: rsa.RSAPrivateKey | None = None,
    *,
    start: int = NOW - 86_400,
    end: int = NOW + 86_400,
) -> str:
    """Return a certificate as it stands in `x5c`, self-signed unless told otherwise."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER[:64])])
    moment = datetime(1970, 1, 1, tzinfo=UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(owner.public_key())
        .serial_number(7)
        .not_valid_before(moment + timedelta(seconds=start))
        .not_valid_after(moment + timedelta(seconds=end))
        .sign(issuer or owner, hashes.SHA256())
    )
    return base64.b64encode(made.public_bytes(serialization.Encoding.DER)).decode()


def number(value: int) -> str:
    return b64encode(value.to_bytes((value.bit_length() + 7) // 8))


def jwk(owner: rsa.RSAPrivateKey, **members: Any) -> dict[str, Any]:
    """Return a key as modulus and exponent; None leaves a member out."""
    numbers = owner.public_key().public_numbers()
    told = {"kty": "RSA", "kid": KID, "n": number(numbers.n), "e": number(numbers.e)} | members
    return {name: value for name, value in told.items() if value is not None}


def with_certificate(owner: rsa.RSAPrivateKey, *chain: str, **members: Any) -> dict[str, Any]:
    """Return a key as Azure serves it: certificates and no modulus."""
    return jwk(owner, n=None, e=None, x5c=list(chain or (certificate(owner),)), **members)


def key_set(*keys: Any) -> MaaKeys:
    """Return a set of keys, by default the signer's."""
    return MaaKeys(json.dumps({"keys": list(keys or (with_certificate(key()),))}).encode())


def _common(kind: str) -> dict[str, Any]:
    return {
        "iat": NOW - 60,
        "nbf": NOW - 60,
        "exp": NOW + 28_800,
        "iss": ISSUER,
        "jti": "c0ffee",
        "x-ms-attestation-type": kind,
        "x-ms-ver": "1.0",
        "x-ms-policy-hash": "wm9mHlvTU82e8UqoOy1Yj1FBRSNkfe99-69IYDq9eWs",
    }


def _snp() -> dict[str, Any]:
    return {
        "x-ms-attestation-type": "sevsnpvm",
        "x-ms-compliance-status": "azure-compliant-cvm",
        "x-ms-sevsnpvm-bootloader-svn": 10,
        "x-ms-sevsnpvm-chip-family": "Genoa",
        "x-ms-sevsnpvm-guestsvn": 7,
        "x-ms-sevsnpvm-hostdata": HOST.hex(),
        "x-ms-sevsnpvm-idkeydigest": "10" * 48,
        "x-ms-sevsnpvm-is-debuggable": False,
        "x-ms-sevsnpvm-launchmeasurement": LAUNCH.hex(),
        "x-ms-sevsnpvm-migration-allowed": False,
        "x-ms-sevsnpvm-reportdata": hashlib.sha256(RUNTIME_DATA).hexdigest() + "00" * 32,
        "x-ms-sevsnpvm-smt-allowed": True,
        "x-ms-sevsnpvm-snpfw-svn": 23,
        "x-ms-sevsnpvm-tee-svn": 0,
        "x-ms-sevsnpvm-vmpl": 0,
    }


def _tdx() -> dict[str, Any]:
    return {
        "x-ms-attestation-type": "tdxvm",
        "x-ms-compliance-status": "azure-compliant-cvm",
        "attester_tcb_status": "UpToDate",
        "tdx_mrtd": MR_TD.hex(),
        "tdx_report_data": hashlib.sha256(RUNTIME_DATA).hexdigest() + "00" * 32,
        "tdx_td_attributes_debug": False,
        **{f"tdx_rtmr{index}": "00" * 48 for index in range(4)},
    }


TEES: dict[str, Callable[[], dict[str, Any]]] = {"sevsnpvm": _snp, "tdxvm": _tdx}


def direct(kind: str = "sevsnpvm") -> dict[str, Any]:
    """Return the claims of a token that the machine's owner asked for with runtime data."""
    runtime = json.loads(RUNTIME_DATA)
    return {**_common(kind), **TEES[kind](), "x-ms-runtime": runtime, "nonce": NONCE.decode()}


def guest(kind: str = "sevsnpvm") -> dict[str, Any]:
    """Return the claims of a token of guest attestation."""
    flags = {
        "debuggersdisabled": True,
        "bootdebug-enabled": False,
        "kerneldebug-enabled": False,
        "hypervisordebug-enabled": False,
        "testsigning-enabled": False,
    }
    runtime = {"keys": [], "vm-configuration": {"secure-boot": True, "tpm-enabled": True}}
    return {
        **_common("azurevm"),
        "secureboot": True,
        **{f"x-ms-azurevm-{name}": value for name, value in flags.items()},
        "x-ms-isolation-tee": {**TEES[kind](), "x-ms-runtime": runtime},
        "x-ms-runtime": {
            "client-payload": {"nonce": base64.b64encode(NONCE).decode()},
            "keys": [jwk(key("ephemeral"), kid="TpmEphemeralEncryptionKey", key_ops=["encrypt"])],
        },
    }


def token(
    told: dict[str, Any] | bytes,
    signer: rsa.RSAPrivateKey | None = None,
    /,
    **header: Any,
) -> bytes:
    """Return a signed token; None leaves a member of the header out."""
    members = {"alg": "RS256", "jku": f"{ISSUER}/certs", "kid": KID, "typ": "JWT"} | header
    raw = json.dumps({name: value for name, value in members.items() if value is not None})
    payload = told if isinstance(told, bytes) else json.dumps(told).encode()
    part = f"{b64encode(raw.encode())}.{b64encode(payload)}".encode()
    signature = (signer or key()).sign(part, padding.PKCS1v15(), hashes.SHA256())
    return part + b"." + b64encode(signature).encode()


def judge(
    raw: bytes,
    keys: MaaKeys | None = None,
    *,
    policy: AppraisalPolicy | None = POLICY,
    runtime_data: bytes | None = None,
    nonce: bytes | None = NONCE,
    nonce_required: bool = True,
    now: int = NOW,
) -> AttestationResult:
    """Appraise a token as its relying party does."""
    appraisal = Appraisal("maa")
    try:
        appraise_maa(
            appraisal,
            MaaEvidence(raw, runtime_data),
            keys or key_set(),
            policy=policy,
            nonce=nonce,
            nonce_required=nonce_required,
            now=now,
        )
    except VerifierError as error:
        appraisal.fail("genuine", error)
    return appraisal.result()
