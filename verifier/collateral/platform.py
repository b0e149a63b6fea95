"""Which parts a platform needs, and how its endorsements are put together from them.

Guarantees: what evidence says of its platform decides only what is looked for. A quote's PCK chain
must end in a pinned root first, so that nobody can make a broker ask for families that do not
exist. Every part is required: nothing missing is skipped.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, final

from cryptography.hazmat.primitives.serialization import Encoding

from verifier import x509
from verifier.anchors import Anchors
from verifier.cache import Cache
from verifier.collateral import Found, parts
from verifier.collateral.certificate_table import VCEK, VLEK, find
from verifier.collateral.parts import Name, Part, PckCa, Role, Tee, Update, Vek
from verifier.collateral.vet import signed_text
from verifier.errors import Reason, VerifierError
from verifier.snp import SnpEndorsements, product
from verifier.snp.endorsements import parse_vek
from verifier.snp.report import SnpReport
from verifier.tdx import pck
from verifier.tdx.collateral import TdxCollateral, to_json
from verifier.tdx.pck import PckChain
from verifier.tdx.quote import Quote
from verifier.wire.framing import lp_list
from verifier.x509 import MAX_CERTIFICATE


@final
@dataclass(frozen=True, slots=True)
class IntelPlatform:
    """A family of Intel machines: whose TCB info, and whose PCK CRL."""

    tee: Tee
    fmspc: bytes
    ca: PckCa

    def documents(self, update: Update) -> tuple[Name, Name, Name]:
        """Return the names of TCB info, QE identity and PCK CRL; the root CRL comes after."""
        return (
            parts.tcb(self.tee, self.fmspc, update),
            parts.qe(self.tee, update),
            parts.pck_crl(self.ca),
        )


@final
@dataclass(frozen=True, slots=True)
class AmdPlatform:
    """An AMD machine, or one of a cloud. `vek` is the certificate that came along, or empty."""

    product: str
    kind: Vek
    chip_id: bytes
    tcb: bytes
    vek: bytes = b""

    def vek_name(self) -> Name:
        """Return the name of its VCEK or VLEK.

        Raises:
            VerifierError: `collateral_missing` for a hidden chip: no VCEK can be asked for.
        """
        if self.kind == "vlek":
            return parts.vlek(self.product, self.tcb)
        if not any(self.chip_id):
            raise VerifierError(
                Reason.COLLATERAL_MISSING,
                "the report hides its CHIP_ID, so no VCEK can be asked for: hand it over",
            )
        return parts.vcek(self.product, self.chip_id, self.tcb)


def of_quote(quote: Quote[Any], tee: Tee, anchors: Anchors, cache: Cache) -> IntelPlatform:
    """Return the platform of a quote, from its PCK chain, whose signatures are checked first.

    Raises:
        VerifierError: as `pck.load_chain`.
    """
    digest = hashlib.sha256(quote.cert_data).digest()
    chain = cache.recall(PckChain, digest, lambda: pck.load_chain(quote.cert_data, anchors))
    pck.check_pinned(chain.root, anchors, "PCK root")
    # There are two PCK CAs, and `load_chain` knows no third.
    ca: PckCa = "platform" if chain.issuer == pck.PCK_CA_NAMES[0] else "processor"
    return IntelPlatform(tee, chain.sgx.fmspc, ca)


def of_report(report: SnpReport, handed_over: bytes) -> AmdPlatform:
    """Return the platform of a report, with the VEK from the certificate table if it is there.

    Raises:
        VerifierError: `product_mismatch`; `collateral_missing` for a report of version 2, which
            names no product, without a VEK that does; `malformed` for a broken table.
    """
    kind: Vek = "vlek" if report.signing_key_name == "VLEK" else "vcek"
    vek = find(handed_over, VLEK if kind == "vlek" else VCEK) if handed_over else b""
    if len(vek) > MAX_CERTIFICATE:
        raise VerifierError(Reason.TOO_LARGE, f"certificate table: a VEK of {len(vek)} bytes")
    if report.has_cpuid:
        name = product.from_cpuid(report.cpuid_fam, report.cpuid_mod).product
    elif vek:
        name = parse_vek(x509.load_der(vek, "VEK")).generation.product
    else:
        raise VerifierError(
            Reason.COLLATERAL_MISSING, "a report of version 2 names no product: hand its VEK over"
        )
    return AmdPlatform(name, kind, report.chip_id, report.reported_tcb, vek)


def pem(der: bytes) -> bytes:
    """Return one certificate as PEM, for the chain of a part."""
    return x509.load_der(der, "certificate").public_bytes(Encoding.PEM)


def last_of(chain: bytes) -> bytes:
    """Return the last certificate of a PEM chain, as PEM: its root."""
    return pem(x509.split_pem(chain, "chain", limit=3)[-1])


def tdx_endorsements(tcb: Part, qe: Part, pck_crl: Part, root_crl: Part) -> Found:
    """Return Intel's endorsements from their four parts."""
    info, info_signature = signed_text(tcb.body, Role.TCB, tcb.name.text)
    identity, identity_signature = signed_text(qe.body, Role.QE, qe.name.text)
    collateral = TdxCollateral(
        pck_crl_issuer_chain=pck_crl.chain.decode("ascii"),
        root_ca_crl=root_crl.body,
        pck_crl=pck_crl.body,
        tcb_info_issuer_chain=tcb.chain.decode("ascii"),
        tcb_info=info,
        tcb_info_signature=info_signature,
        qe_identity_issuer_chain=qe.chain.decode("ascii"),
        qe_identity=identity,
        qe_identity_signature=identity_signature,
    )
    raw = to_json(collateral)
    return Found(collateral, hashlib.sha256(raw).digest(), raw)


def snp_endorsements(vek: bytes, chain: Part, crl: Part) -> Found:
    """Return AMD's endorsements from a VEK (DER) and two parts."""
    ask, ark = x509.split_pem(chain.body, chain.name.text, limit=2)
    raw = lp_list((vek, ask, ark, crl.body))
    endorsements = SnpEndorsements(vek=vek, ask=ask, ark=ark, crl=crl.body)
    return Found(endorsements, hashlib.sha256(raw).digest(), raw)
