"""A fake AMD that issues anything asked of it: good evidence, and every wrong kind for tests.

The keys are new in every run and shared by all products; each product still has its own names and
its own pinned ARK. `Forge.evidence` is the one function to call: what a test does not mention is as
AMD would have it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from ostiary.simulator import certificates as issue
from ostiary.simulator import der
from tests.kit.snp import AMAZON
from verifier.anchors import PINNED, Anchors
from verifier.snp import SnpEndorsements
from verifier.snp.product import Generation
from verifier.snp.report import KEY_VCEK, KEY_VLEK, SIGNED_SIZE, SnpReport

NOW = 1_772_845_473
DAY = 86_400
ARC = "1.3.6.1.4.1.3704.1."

_CPUID = {"Milan": (0x19, 0x01, 1), "Genoa": (0x19, 0x11, 1), "Turin": (0x1A, 0x02, 1)}
_TCB = {
    "Milan": "04000000000018db",
    "Genoa": "0a00000000001754",
    "Turin": "0101010400000051",
}
_PRODUCT_NAMES = {"Milan": "Milan-B0", "Genoa": "Genoa", "Turin": "Turin"}
_PART_OIDS = {"bootloader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8", "fmc": "3.9"}


@cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """Return the RSA key of that name, made on first use; `small` has 2,048 bits."""
    return rsa.generate_private_key(65537, 2048 if name == "small" else 4096)


@cache
def ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    """Return the P-384 key of that name, made on first use."""
    del name
    return ec.generate_private_key(ec.SECP384R1())


def amd_name(common_name: str) -> bytes:
    """Return a Name as AMD writes it."""
    return issue.name(
        ("OU", "Engineering"),
        ("C", "US"),
        ("L", "Santa Clara"),
        ("ST", "CA"),
        ("O", "Simulated Micro Devices"),
        ("CN", common_name),
    )


def signer(name: str) -> issue.RsaPssSigner:
    """Return the signer with the RSA key of that name."""
    return issue.RsaPssSigner(rsa_key(name))


def ca_extensions(
    *, ca: bool = True, path_length: int | None = None, usage: tuple[int, ...]
) -> tuple[issue.Extension, ...]:
    """Return the extensions of an ARK, ASK or ASVK."""
    return (
        issue.basic_constraints(ca=ca, path_length=path_length),
        issue.key_usage(*usage),
    )


@cache
def ark(product: str) -> bytes:
    """Return the good ARK (DER) of a product."""
    return Forge.ark_body(product).issue(signer("ark"))


def pinned() -> Anchors:
    """Return the real anchors and the good ARK of each fake product."""
    pins = {product: hashlib.sha256(ark(product)).digest() for product in _TCB}
    return PINNED.with_simulated(amd=pins)


@dataclass(frozen=True)
class Evidence:
    """A report with what is needed to judge it."""

    report: bytes
    endorsements: SnpEndorsements


@dataclass(frozen=True)
class Forge:
    """One chip of one generation that signs with one kind of key and writes one report version."""

    generation: Generation
    key: int = KEY_VCEK
    version: int = 5

    def __str__(self) -> str:
        return f"{self.product}-{'VLEK' if self.key else 'VCEK'}-v{self.version}"

    @property
    def product(self) -> str:
        return self.generation.product

    @property
    def tcb(self) -> bytes:
        return bytes.fromhex(_TCB[self.product])

    @property
    def chip_id(self) -> bytes:
        size = self.generation.hwid_size
        return bytes(range(1, size + 1)) + bytes(64 - size)

    @property
    def issuer_name(self) -> str:
        return ("SEV-VLEK-" if self.key == KEY_VLEK else "SEV-") + self.product

    def report(self, **changes: Any) -> SnpReport:
        """Return an unsigned report that strict defaults accept, with fields changed."""
        family, model, stepping = _CPUID[self.product] if self.version >= 3 else (0, 0, 0)
        vector = 0x3F if self.version >= 5 else 0
        report = SnpReport(
            version=self.version,
            guest_svn=2,
            policy=0x3001F,
            family_id=bytes(16),
            image_id=bytes(16),
            vmpl=0,
            current_tcb=self.tcb,
            platform_info=0x25,
            signer_info=self.key << 2,
            report_data=b"\x0d" * 64,
            measurement=b"\x0e" * 48,
            host_data=bytes(32),
            id_key_digest=bytes(48),
            author_key_digest=bytes(48),
            report_id=b"\x12" * 32,
            report_id_ma=b"\xff" * 32,
            reported_tcb=self.tcb,
            cpuid_fam=family,
            cpuid_mod=model,
            cpuid_step=stepping,
            chip_id=self.chip_id,
            committed_tcb=self.tcb,
            current_version=(1, 55, 29),
            committed_version=(1, 55, 29),
            launch_tcb=self.tcb,
            launch_mit_vector=vector,
            current_mit_vector=vector,
            signature_r=0,
            signature_s=0,
        )
        return replace(report, **changes)

    def sign(self, report: SnpReport, key: str = "vek") -> SnpReport:
        """Return the report signed by the P-384 key of that name."""
        signed = report.to_bytes()[:SIGNED_SIZE]
        r, s = decode_dss_signature(ec_key(key).sign(signed, ec.ECDSA(hashes.SHA384())))
        return replace(report, signature_r=r, signature_s=s)

    @staticmethod
    def ark_body(product: str) -> issue.Certificate:
        """Return what a good ARK says."""
        return issue.Certificate(
            subject=amd_name(f"ARK-{product}"),
            issuer=amd_name(f"ARK-{product}"),
            serial=0x10000,
            not_before=NOW - 1000 * DAY,
            not_after=NOW + 1000 * DAY,
            spki=signer("ark").spki,
            extensions=ca_extensions(usage=(issue.KEY_CERT_SIGN, issue.CRL_SIGN)),
        )

    def ask_body(self) -> issue.Certificate:
        """Return what a good ASK or ASVK says."""
        return issue.Certificate(
            subject=amd_name(self.issuer_name),
            issuer=amd_name(f"ARK-{self.product}"),
            serial=0x10001,
            not_before=NOW - 900 * DAY,
            not_after=NOW + 900 * DAY,
            spki=signer("ask").spki,
            extensions=ca_extensions(path_length=0, usage=(issue.KEY_CERT_SIGN,)),
        )

    def vek_values(self) -> dict[str, bytes]:
        """Return AMD's extensions of a good VCEK or VLEK, by the end of their OID."""
        tcb = self.generation.decode_tcb(self.tcb, "TCB")
        values = {"1": der.integer(0), "2": der.ia5(_PRODUCT_NAMES[self.product])}
        values |= {_PART_OIDS[part]: der.integer(svn) for part, svn in tcb.items()}
        values |= {spare: der.integer(0) for spare in ("3.5", "3.6", "3.7")}
        if self.key == KEY_VLEK:
            return values | {"5": der.ia5(AMAZON)}
        return values | {"4": self.chip_id[: self.generation.hwid_size]}

    def vek_body(self, values: Mapping[str, bytes]) -> issue.Certificate:
        """Return what a VCEK or VLEK with these extensions says; its serial is 0, as AMD's are."""
        return issue.Certificate(
            subject=amd_name("SEV-VLEK" if self.key == KEY_VLEK else "SEV-VCEK"),
            issuer=amd_name(self.issuer_name),
            serial=0,
            not_before=NOW - 30 * DAY,
            not_after=NOW + 365 * DAY,
            spki=issue.spki_of(ec_key("vek").public_key()),
            extensions=tuple(issue.Extension(ARC + end, raw) for end, raw in values.items()),
        )

    def crl(
        self,
        *,
        revoked: Iterable[int] = (),
        issuer: str | None = None,
        this_update: int = NOW - DAY,
        next_update: int | None = NOW + 30 * DAY,
        extensions: tuple[issue.Extension, ...] = (),
        key: str = "ark",
    ) -> bytes:
        """Return a CRL (DER); without arguments AMD's good one, empty."""
        return issue.issue_crl(
            issuer=amd_name(issuer or f"ARK-{self.product}"),
            this_update=this_update,
            next_update=next_update,
            revoked=[issue.Revoked(serial, NOW - DAY) for serial in revoked],
            extensions=(issue.crl_number(1), *extensions),
            signer=signer(key),
        )

    def evidence(
        self,
        *,
        report: Mapping[str, Any] | None = None,
        report_key: str = "vek",
        mangle: Callable[[SnpReport], SnpReport] | None = None,
        ark_changes: Mapping[str, Any] | None = None,
        ark_key: str = "ark",
        ask_changes: Mapping[str, Any] | None = None,
        ask_key: str = "ark",
        vek_changes: Mapping[str, Any] | None = None,
        vek_values: Mapping[str, bytes | None] | None = None,
        vek_key: str = "ask",
        crl: Mapping[str, Any] | None = None,
        with_crl: bool = True,
    ) -> Evidence:
        """Return signed evidence, changed as told.

        `*_changes` replace fields of a certificate before it is signed by the RSA key named in
        `*_key`; `vek_values` replaces AMD's extensions (None removes one); `mangle` works on the
        report after it was signed.
        """
        signed = self.sign(self.report(**(report or {})), report_key)
        values = dict(self.vek_values())
        for end, raw in (vek_values or {}).items():
            values.pop(end, None)
            if raw is not None:
                values[end] = raw
        ark_der = ark(self.product)
        if ark_changes is not None or ark_key != "ark":
            body = replace(self.ark_body(self.product), **(ark_changes or {}))
            ark_der = body.issue(signer(ark_key))
        ask_der = replace(self.ask_body(), **(ask_changes or {})).issue(signer(ask_key))
        vek_body = replace(self.vek_body(values), **(vek_changes or {}))
        return Evidence(
            (mangle(signed) if mangle else signed).to_bytes(),
            SnpEndorsements(
                vek_body.issue(signer(vek_key)),
                ask_der,
                ark_der,
                self.crl(**(crl or {})) if with_crl else None,
            ),
        )
