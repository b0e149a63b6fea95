"""A software NVIDIA: device root to attestation key, RIM root to RIM signer, CRLs.

Guarantees: names, serials, extensions, their order and the encodings of times as in the chains that
real Hopper GPUs, LS10 switches and NVIDIA's RIMs carry (all P-384 with SHA-384), under keys made
here. Checks nothing: negative tests reissue any certificate with other contents.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ostiary.simulator import certificates, der, store
from ostiary.simulator.certificates import (
    Certificate,
    EcdsaSha384Signer,
    Extension,
    Revoked,
    key_id,
    name,
)
from ostiary.simulator.nvidia import identity
from ostiary.simulator.nvidia.identity import (
    CORPORATION,
    COUNTRY,
    FOREVER,
    PDI_SIZE,
    Chip,
    Identity,
)
from ostiary.simulator.store import SimulatorError

Role = Literal[
    "device_root",
    "identity",
    "gh100_ica",
    "ls10_ica",
    "rim_root",
    "gh100_rim_ca",
    "gh100_rim_l3",
    "gh100_rim_l4",
    "ls10_rim_ca",
    "ls10_rim_l3",
    "ls10_rim_l4",
]
ISSUERS: Final[Mapping[Role, Role]] = {
    "device_root": "device_root",
    "identity": "device_root",
    "gh100_ica": "identity",
    "ls10_ica": "identity",
    "rim_root": "rim_root",
    "gh100_rim_ca": "rim_root",
    "gh100_rim_l3": "gh100_rim_ca",
    "gh100_rim_l4": "gh100_rim_l3",
    "ls10_rim_ca": "rim_root",
    "ls10_rim_l3": "ls10_rim_ca",
    "ls10_rim_l4": "ls10_rim_l3",
}
"""Who issues whose certificate. A BROM is issued by its chip's ICA, a leaf by its BROM."""
RIM_CHAINS: Final[Mapping[Chip, tuple[Role, ...]]] = {
    "GH100": ("gh100_rim_l4", "gh100_rim_l3", "gh100_rim_ca", "rim_root"),
    "LS10": ("ls10_rim_l4", "ls10_rim_l3", "ls10_rim_ca", "rim_root"),
}
ICAS: Final[Mapping[Chip, Role]] = {"GH100": "gh100_ica", "LS10": "ls10_ica"}
_OCSP: Final = "http://ocsp.ndis.nvidia.com"
_CRL: Final = "http://crl.ndis.nvidia.com"
CRL_PATHS: Final[Mapping[str, Role]] = {
    "/crl/l1-root.crl": "device_root",
    "/crl/l2-gh100.crl": "identity",
    "/crl-corim/l1-corim": "rim_root",
}
_DAY: Final = 86_400
_YEAR: Final = 365 * _DAY


def _ca_name(common_name: str) -> bytes:
    return name(("CN", common_name), CORPORATION, COUNTRY)


SUBJECTS: Final[Mapping[Role, bytes]] = {
    "device_root": name(("CN", "NVIDIA Device Identity CA"), ("O", "NVIDIA")),
    "identity": name(("CN", "NVIDIA GH100 Identity"), CORPORATION),
    "gh100_ica": _ca_name("NVIDIA GH100 Provisioner ICA 1"),
    "ls10_ica": _ca_name("NVIDIA LS_10 Provisioner ICA 1"),
    "rim_root": name(COUNTRY, ("O", "NVIDIA"), ("CN", "NVIDIA CoRIM signing Root CA")),
    "gh100_rim_ca": _ca_name("NVIDIA Reference Value GH100 CA"),
    "gh100_rim_l3": _ca_name("NVIDIA Reference Value L3 GH100 002"),
    "gh100_rim_l4": name(
        COUNTRY, ("ST", "CA"), ("L", "Santa Clara"), CORPORATION, ("CN", "HCC RIM L4 Signer")
    ),
    "ls10_rim_ca": _ca_name("NVIDIA Reference Value LS10 CA"),
    "ls10_rim_l3": _ca_name("NVIDIA Reference Value L3 LS10 001"),
    "ls10_rim_l4": name(
        COUNTRY,
        ("ST", "CA"),
        ("L", "Santa Clara"),
        CORPORATION,
        ("CN", "NVIDIA Reference Value L4 LS10"),
    ),
}


def authority_info_access() -> Extension:
    """Return authorityInfoAccess with NVIDIA's OCSP address (RFC 5280 §4.2.2.1)."""
    place = der.sequence(der.oid("1.3.6.1.5.5.7.48.1"), der.implicit(6, _OCSP.encode()))
    return Extension("1.3.6.1.5.5.7.1.1", der.sequence(place))


def _constraints(role: Role, spki: bytes, issuer: bytes) -> tuple[Extension, ...]:
    """Return the extensions of a CA or RIM signer, in the order that NVIDIA writes them."""
    ids = (certificates.subject_key_id(spki), certificates.authority_key_id(issuer))
    usage = certificates.key_usage(certificates.KEY_CERT_SIGN, certificates.CRL_SIGN)
    ca = certificates.basic_constraints(ca=True)
    if role == "device_root":
        return (ca, usage, *ids)
    if role == "rim_root":
        return (*ids, ca, usage)
    if role.endswith("l4"):
        no_ca = certificates.basic_constraints(ca=False)
        signs = certificates.key_usage(certificates.DIGITAL_SIGNATURE)
        return (*ids, no_ca, signs, authority_info_access())
    if role.endswith("l3"):
        last = certificates.basic_constraints(ca=True, path_length=0)
        return (last, usage, authority_info_access(), *ids)
    path = next(path for path, issues in CRL_PATHS.items() if issues == ISSUERS[role])
    distribution = certificates.crl_distribution_point(_CRL + path)
    return (ca, usage, distribution, authority_info_access(), *ids)


def _window(role: Role, created: int) -> tuple[int, int]:
    """Return the validity of a CA or RIM signer."""
    start = created - 3 * _YEAR
    if role.endswith("l4"):
        return created - 30 * _DAY, created - 30 * _DAY + 2 * _YEAR
    if role.endswith("l3"):
        return created - _YEAR, created + 3 * _YEAR
    if role == "rim_root":
        return start, start + 30 * _YEAR
    return start + 60 * _DAY, start + 10 * _YEAR if "rim" in role else FOREVER


def _certificate(role: Role, spkis: Mapping[Role, bytes], created: int) -> Certificate:
    start, end = _window(role, created)
    spki = spkis[role]
    return Certificate(
        subject=SUBJECTS[role],
        issuer=SUBJECTS[ISSUERS[role]],
        serial=int.from_bytes(key_id(spki)[:16], "big") & ~(1 << 127) | 1 << 126,
        not_before=start,
        not_after=end,
        spki=spki,
        extensions=_constraints(role, spki, spkis[ISSUERS[role]]),
        generalized=role.endswith(("rim_ca", "l3")),
    )


@final
@dataclass(frozen=True, slots=True, repr=False)
class FakeNvidia:
    """The vendor: its keys and certificates. Make one with `create`, keep it with `save`."""

    created: int
    keys: Mapping[Role, ec.EllipticCurvePrivateKey]
    certificates: Mapping[Role, bytes]

    @classmethod
    def create(cls, now: int) -> FakeNvidia:
        """Return a new vendor with fresh keys, its certificates valid around `now`."""
        keys = {role: ec.generate_private_key(ec.SECP384R1()) for role in ISSUERS}
        signers = {role: EcdsaSha384Signer(key) for role, key in keys.items()}
        spkis = {role: signer.spki for role, signer in signers.items()}
        issued = {
            role: _certificate(role, spkis, now).issue(signers[ISSUERS[role]]) for role in ISSUERS
        }
        return cls(now, keys, issued)

    def save(self, folder: Path) -> None:
        """Write keys (0600) and certificates into a folder that holds no such vendor yet.

        Raises:
            SimulatorError: it cannot be written, or a vendor is there already.
        """
        store.make_folder(folder)
        for role in ISSUERS:
            store.write_key(folder / f"nvidia-{role}.key.pem", self.keys[role])
            store.write_new(folder / f"nvidia-{role}.der", self.certificates[role])
        store.write_new(folder / "nvidia.json", json.dumps({"created": self.created}).encode())

    @classmethod
    def load(cls, folder: Path) -> FakeNvidia:
        """Return the vendor that `save` left.

        Raises:
            SimulatorError: a file is missing or not what `save` writes.
        """
        path = folder / "nvidia.json"
        try:
            created = int(json.loads(store.read(path))["created"])
        except (ValueError, KeyError, TypeError) as error:
            raise SimulatorError(f"{path} is not what a saved vendor has") from error
        keys = {role: store.read_ec_key(folder / f"nvidia-{role}.key.pem") for role in ISSUERS}
        issued = {role: store.read(folder / f"nvidia-{role}.der") for role in ISSUERS}
        return cls(created, keys, issued)

    def reissue(self, role: Role, **changes: Any) -> FakeNvidia:  # noqa: ANN401 - Certificate's fields
        """Return this vendor with one certificate issued anew, with other `Certificate` fields."""
        spkis = {each: self.signer(each).spki for each in ISSUERS}
        changed = replace(_certificate(role, spkis, self.created), **changes)
        issued = {**self.certificates, role: changed.issue(self.signer(ISSUERS[role]))}
        return FakeNvidia(self.created, self.keys, issued)

    def signer(self, role: Role) -> EcdsaSha384Signer:
        """Return the signer of a role."""
        return EcdsaSha384Signer(self.keys[role])

    @property
    def device_root_pin(self) -> bytes:
        """SHA-256 of the device root's SubjectPublicKeyInfo."""
        return hashlib.sha256(self.signer("device_root").spki).digest()

    @property
    def rim_root_pin(self) -> bytes:
        """SHA-256 of the RIM root's SubjectPublicKeyInfo."""
        return hashlib.sha256(self.signer("rim_root").spki).digest()

    def serial(self, role: Role) -> int:
        """Return the serial number of a role's certificate."""
        return x509.load_der_x509_certificate(self.certificates[role]).serial_number

    def device(
        self,
        chip: Chip,
        fwid: bytes,
        *,
        pdi: bytes | None = None,
        brom_key: ec.EllipticCurvePrivateKey | None = None,
        **changes: Any,  # noqa: ANN401 - Certificate's fields
    ) -> Identity:
        """Return a device that left the factory, with a leaf for the firmware that it runs.

        Args:
            chip: decides names and issuer.
            fwid: digest of the firmware, 48 bytes.
            pdi: None for a new one.
            brom_key: None for a new one; a device keeps its own when its firmware changes.
            changes: other `Certificate` fields of the leaf.
        """
        own = secrets.token_bytes(PDI_SIZE) if pdi is None else pdi
        ica = ICAS[chip]
        above, issuer = self.signer(ica), SUBJECTS[ica]
        rom = EcdsaSha384Signer(brom_key or ec.generate_private_key(ec.SECP384R1()))
        at = self.created - 5 * _YEAR
        parent = identity.brom(chip, own, rom.spki, issuer=issuer, above=above.spki, at=at)
        key = ec.generate_private_key(ec.SECP384R1())
        leaf = identity.leaf(chip, own, fwid, EcdsaSha384Signer(key).spki, parent=parent)
        roles: tuple[Role, ...] = (ica, "identity", "device_root")
        issued = (replace(leaf, **changes).issue(rom), parent.issue(above))
        chain = (*issued, *(self.certificates[role] for role in roles))
        return Identity(chip, own, fwid, rom.key, key, chain)

    def crl(
        self,
        role: Role,
        now: int,
        *,
        revoked: Sequence[int] = (),
        reason: int = 1,
        this_update: int | None = None,
        next_update: int | None = None,
        signed_by: Role | None = None,
    ) -> bytes:
        """Return a CA's CRL (DER), issued a day before `now` and good for 90 days."""
        start = now - _DAY if this_update is None else this_update
        return certificates.issue_crl(
            issuer=SUBJECTS[role],
            this_update=start,
            next_update=start + 90 * _DAY if next_update is None else next_update,
            revoked=[Revoked(serial, start, reason) for serial in revoked],
            extensions=(
                certificates.authority_key_id(self.signer(role).spki),
                certificates.crl_number(1),
            ),
            signer=self.signer(signed_by or role),
        )
