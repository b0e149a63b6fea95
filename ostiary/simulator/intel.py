"""A software Intel: root, PCK and TCB-signing CAs, platforms, and the collateral that vouches.

Guarantees: names, extensions, encodings and signatures as in Intel's own certificates and PCS API
v4 answers, under keys made here. The certificates are what `created` and the keys determine, so a
loaded vendor is the saved one. Says "SIMULATED" nowhere in the bytes (they must be exact): what
tells them apart is the root, which no verifier trusts unless a process was told to.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from ostiary.simulator import certificates, store, tcb
from ostiary.simulator.certificates import Certificate, EcdsaSigner, Revoked, name
from ostiary.simulator.pck import CaRole, Platform, SgxExtension, pck_extensions
from ostiary.simulator.store import SimulatorError

Role = Literal["root", "platform_ca", "processor_ca", "tcb_signing"]
ROLES: Final[tuple[Role, ...]] = ("root", "platform_ca", "processor_ca", "tcb_signing")

FMSPC: Final = bytes.fromhex("b0c06f5a0000")
"""The simulated platform's family: made up, so that no real TCB info is taken for its own."""

_COMMON_NAMES: Final[dict[Role, str]] = {
    "root": "Intel SGX Root CA",
    "platform_ca": "Intel SGX PCK Platform CA",
    "processor_ca": "Intel SGX PCK Processor CA",
    "tcb_signing": "Intel SGX TCB Signing",
}
_ROOT_CRL_URI: Final = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
_END_OF_2049: Final = 2_524_607_999
_YEAR: Final = 365 * tcb.DAY


def intel_name(common_name: str) -> bytes:
    """Return a Name as Intel writes them."""
    return name(
        ("CN", common_name),
        ("O", "Intel Corporation"),
        ("L", "Santa Clara"),
        ("ST", "CA"),
        ("C", "US"),
    )


def raw_signature(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """Return an ECDSA P-256 SHA-256 signature as r ‖ s, big-endian, 64 bytes."""
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _certificate(role: Role, spkis: Mapping[Role, bytes], created: int) -> Certificate:
    """Return what the certificate of a role says."""
    spki = spkis[role]
    start = created - 5 * _YEAR
    if role == "tcb_signing":
        usage = certificates.key_usage(certificates.DIGITAL_SIGNATURE, certificates.NON_REPUDIATION)
        constraints = certificates.basic_constraints(ca=False)
        window = (created - _YEAR, created + 6 * _YEAR)
    else:
        usage = certificates.key_usage(certificates.KEY_CERT_SIGN, certificates.CRL_SIGN)
        path_length = 1 if role == "root" else 0
        constraints = certificates.basic_constraints(ca=True, path_length=path_length)
        window = (start, _END_OF_2049) if role == "root" else (start + 310, start + 15 * _YEAR)
    return Certificate(
        subject=intel_name(_COMMON_NAMES[role]),
        issuer=intel_name(_COMMON_NAMES["root"]),
        serial=int.from_bytes(certificates.key_id(spki), "big"),
        not_before=window[0],
        not_after=window[1],
        spki=spki,
        extensions=(
            certificates.authority_key_id(spkis["root"]),
            certificates.crl_distribution_point(_ROOT_CRL_URI),
            certificates.subject_key_id(spki),
            usage,
            constraints,
        ),
    )


@final
@dataclass(frozen=True, slots=True, repr=False)
class FakeIntel:
    """The vendor: its keys and certificates. Make one with `create`, keep it with `save`."""

    created: int
    keys: Mapping[Role, ec.EllipticCurvePrivateKey]
    certificates: Mapping[Role, bytes]

    @classmethod
    def create(cls, now: int) -> FakeIntel:
        """Return a new vendor with fresh keys, its certificates valid around `now`."""
        keys = {role: ec.generate_private_key(ec.SECP256R1()) for role in ROLES}
        return cls._issue(now, keys)

    @classmethod
    def _issue(cls, now: int, keys: Mapping[Role, ec.EllipticCurvePrivateKey]) -> FakeIntel:
        spkis = {role: EcdsaSigner(key).spki for role, key in keys.items()}
        root = EcdsaSigner(keys["root"])
        issued = {role: _certificate(role, spkis, now).issue(root) for role in ROLES}
        return cls(now, keys, issued)

    def save(self, folder: Path) -> None:
        """Write keys (0600) and certificates into a folder that holds no vendor yet.

        Raises:
            SimulatorError: it cannot be written, or a vendor is there already.
        """
        store.make_folder(folder)
        for role in ROLES:
            store.write_key(folder / f"intel-{role}.key.pem", self.keys[role])
            store.write_new(folder / f"intel-{role}.der", self.certificates[role])
        store.write_new(folder / "intel.json", json.dumps({"created": self.created}).encode())

    @classmethod
    def load(cls, folder: Path) -> FakeIntel:
        """Return the vendor that `save` left.

        Raises:
            SimulatorError: a file is missing or not what `save` writes.
        """
        created = _read_created(folder / "intel.json")
        keys = {role: store.read_ec_key(folder / f"intel-{role}.key.pem") for role in ROLES}
        issued = {role: store.read(folder / f"intel-{role}.der") for role in ROLES}
        return cls(created, keys, issued)

    def reissue(self, role: Role, **changes: Any) -> FakeIntel:  # noqa: ANN401 - fields of Certificate
        """Return this vendor with one certificate issued anew, with other `Certificate` fields.

        The key stays unless `spki` says otherwise. For negative tests: dates, names, extensions.
        """
        spkis = {each: self.signer(each).spki for each in ROLES}
        changed = replace(_certificate(role, spkis, self.created), **changes)
        issued = {**self.certificates, role: changed.issue(self.signer("root"))}
        return FakeIntel(self.created, self.keys, issued)

    def signer(self, role: Role) -> EcdsaSigner:
        """Return the signer of a role."""
        return EcdsaSigner(self.keys[role])

    @property
    def root_pin(self) -> bytes:
        """SHA-256 of the root certificate (DER)."""
        return hashlib.sha256(self.certificates["root"]).digest()

    def chain(self, role: Role) -> str:
        """Return the PEM chain of a role: its certificate, then the root."""
        return certificates.pem(self.certificates[role], self.certificates["root"])

    def platform(
        self,
        *,
        ca: CaRole = "platform_ca",
        sgx: SgxExtension | None = None,
        sgx_der: bytes | None = None,
        **changes: Any,  # noqa: ANN401 - fields of Certificate
    ) -> Platform:
        """Return a new machine with a PCK certificate of its own.

        Args:
            ca: who issues the PCK certificate.
            sgx: what it says of the platform; None for the default, current platform.
            sgx_der: the extension's bytes instead, for negative tests.
            changes: other `Certificate` fields (serial, not_after, extensions, ...).
        """
        of_platform_ca = ca == "platform_ca"
        said = sgx or SgxExtension(
            ppid=secrets.token_bytes(16),
            components=tcb.SGX_CURRENT,
            pcesvn=tcb.PCESVN_CURRENT,
            fmspc=FMSPC,
            sgx_type=1 if of_platform_ca else 0,
            platform_instance_id=secrets.token_bytes(16) if of_platform_ca else None,
        )
        pck_key = ec.generate_private_key(ec.SECP256R1())
        spki = EcdsaSigner(pck_key).spki
        extensions = pck_extensions(
            ca_spki=self.signer(ca).spki,
            spki=spki,
            ca=ca,
            sgx=said.encode() if sgx_der is None else sgx_der,
        )
        pck = replace(
            Certificate(
                subject=intel_name("Intel SGX PCK Certificate"),
                issuer=intel_name(_COMMON_NAMES[ca]),
                serial=secrets.randbits(158) | 1 << 158,
                not_before=self.created - 30 * tcb.DAY,
                not_after=self.created + 7 * _YEAR,
                spki=spki,
                extensions=extensions,
            ),
            **changes,
        ).issue(self.signer(ca))
        chain = (pck, self.certificates[ca], self.certificates["root"])
        return Platform(said, pck_key, ec.generate_private_key(ec.SECP256R1()), chain)

    def sign_text(self, text: str) -> str:
        """Return the hex signature over a document's exact text, by the TCB signing key."""
        return raw_signature(self.keys["tcb_signing"], text.encode()).hex()

    def crl(
        self,
        role: Role,
        now: int,
        *,
        revoked: Sequence[int] = (),
        this_update: int | None = None,
        next_update: int | None = None,
        signed_by: Role | None = None,
    ) -> bytes:
        """Return the CRL (DER) of the root or of a PCK CA, issued a day before `now`.

        The root's CRL is good for a year, a PCK CA's for 30 days, unless told otherwise.
        """
        start = now - tcb.DAY if this_update is None else this_update
        length = _YEAR if role == "root" else tcb.VALIDITY
        return certificates.issue_crl(
            issuer=intel_name(_COMMON_NAMES[role]),
            this_update=start,
            next_update=start + length if next_update is None else next_update,
            revoked=[Revoked(serial, start) for serial in revoked],
            extensions=(
                certificates.crl_number(1),
                certificates.authority_key_id(self.signer(role).spki),
            ),
            signer=self.signer(signed_by or role),
        )

    def collateral(
        self,
        now: int,
        *,
        tee: tcb.Tee = "tdx",
        ca: CaRole = "platform_ca",
        tcb_info: tcb.Document | str | None = None,
        qe_identity: tcb.Document | str | None = None,
        revoked_pcks: Sequence[int] = (),
        revoked_intermediates: Sequence[int] = (),
        **replaced: str,
    ) -> dict[str, str]:
        """Return everything needed to judge a quote at `now`, in the members of PCS bundles.

        Args:
            now: unix seconds that the collateral is current at.
            tee: whose TCB info and QE identity.
            ca: whose PCK CRL.
            tcb_info: another document, or its exact text; signed here.
            qe_identity: another document, or its exact text; signed here.
            revoked_pcks: serials in the PCK CRL.
            revoked_intermediates: serials in the root CRL.
            replaced: members to put in as they are, whatever they say.
        """
        if tcb_info is None:
            tcb_info = tcb.tcb_info(now, fmspc=FMSPC, pceid=bytes(2), tee=tee)
        if qe_identity is None:
            qe_identity = tcb.qe_identity(now, tee=tee)
        info_text = tcb_info if isinstance(tcb_info, str) else tcb.to_text(tcb_info)
        identity_text = qe_identity if isinstance(qe_identity, str) else tcb.to_text(qe_identity)
        members = {
            "pck_crl_issuer_chain": self.chain(ca),
            "root_ca_crl": self.crl("root", now, revoked=revoked_intermediates).hex(),
            "pck_crl": self.crl(ca, now, revoked=revoked_pcks).hex(),
            "tcb_info_issuer_chain": self.chain("tcb_signing"),
            "tcb_info": info_text,
            "tcb_info_signature": self.sign_text(info_text),
            "qe_identity_issuer_chain": self.chain("tcb_signing"),
            "qe_identity": identity_text,
            "qe_identity_signature": self.sign_text(identity_text),
        }
        if unknown := replaced.keys() - members.keys():
            raise SimulatorError(f"collateral has no member {min(unknown)}")
        return members | replaced


def _read_created(path: Path) -> int:
    try:
        created = json.loads(store.read(path))["created"]
    except (ValueError, KeyError, TypeError) as error:
        raise SimulatorError(f"{path} is not what a saved vendor has") from error
    if type(created) is not int:
        raise SimulatorError(f"{path}: created is not an integer")
    return created
