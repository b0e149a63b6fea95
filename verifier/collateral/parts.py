"""Parts of collateral: one signed thing each, under a name that says what it covers.

    intel/tcb/<tdx|sgx>/<fmspc>/<standard|early>      TCB info, with its signer's chain
    intel/qe/<tdx|sgx>/<standard|early>               QE identity, with its signer's chain
    intel/pck-crl/<platform|processor>                CRL, with its issuer's chain
    intel/root-crl                                    CRL, with the root
    amd/<product>/<vcek|vlek>/chain                   ASK or ASVK, and ARK
    amd/<product>/<vcek|vlek>/crl                     CRL, with the ARK
    amd/<product>/vcek/<chip id>/<tcb>                VCEK, with ASK and ARK
    amd/<product>/vlek/<tcb>                          VLEK, with ASVK and ARK
    nvidia/rim/<id>                                   RIM, which holds its own chain
    nvidia/ocsp/<SHA-256 of a certID>                 OCSP response, with the certificate's chain
    nvidia/crl/<SHA-256 of the issuer's key>          CRL, with its issuer's chain

Guarantees: a `Name` has exactly one spelling and is a safe relative path. Standard and early TCB
info never share a name: both are signed and current at the same moment, so one must not pass for
the other. A `Part` is made by `vet` alone, so its dates are those of bytes whose signature held.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal, final

from verifier.errors import Reason, VerifierError
from verifier.tdx.windows import Windows
from verifier.wire.framing import lp

Update = Literal["standard", "early"]
"""Intel's two sets of TCB info and QE identity (PCS API v4, parameter `update`)."""
Tee = Literal["tdx", "sgx"]
PckCa = Literal["platform", "processor"]
Vek = Literal["vcek", "vlek"]

_PRODUCT: Final = "Milan|Genoa|Turin"


@final
class Role(Enum):
    """What a part is; the value is the shape of its name."""

    TCB = r"intel/tcb/(tdx|sgx)/([0-9a-f]{12})/(standard|early)"
    QE = r"intel/qe/(tdx|sgx)/(standard|early)"
    PCK_CRL = r"intel/pck-crl/(platform|processor)"
    ROOT_CRL = r"intel/root-crl"
    AMD_CHAIN = rf"amd/({_PRODUCT})/(vcek|vlek)/chain"
    AMD_CRL = rf"amd/({_PRODUCT})/(vcek|vlek)/crl"
    VCEK = rf"amd/({_PRODUCT})/vcek/([0-9a-f]{{128}})/([0-9a-f]{{16}})"
    VLEK = rf"amd/({_PRODUCT})/vlek/([0-9a-f]{{16}})"
    NV_RIM = r"nvidia/rim/([A-Z0-9][A-Z0-9_.]{0,127})"
    NV_OCSP = r"nvidia/ocsp/([0-9a-f]{64})"
    NV_CRL = r"nvidia/crl/([0-9a-f]{64})"


_SHAPES: Final = tuple((role, re.compile(role.value, re.ASCII)) for role in Role)


@final
@dataclass(frozen=True, slots=True)
class Name:
    """The name of a part. `fields` are the variable pieces, in order."""

    text: str
    role: Role
    fields: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Name:
        """Return the name in `text`.

        Raises:
            VerifierError: `malformed` if it is no part's name.
        """
        for role, shape in _SHAPES:
            match = shape.fullmatch(text)
            if match is not None:
                return cls(text, role, tuple(str(field) for field in match.groups()))
        raise VerifierError(Reason.MALFORMED, f"{text[:200]!r} is not the name of a part")


def tcb(tee: Tee, fmspc: bytes, update: Update) -> Name:
    """Return the name of TCB info."""
    return Name.parse(f"intel/tcb/{tee}/{fmspc.hex()}/{update}")


def qe(tee: Tee, update: Update) -> Name:
    """Return the name of a QE identity."""
    return Name.parse(f"intel/qe/{tee}/{update}")


def pck_crl(ca: PckCa) -> Name:
    """Return the name of a PCK CA's CRL."""
    return Name.parse(f"intel/pck-crl/{ca}")


ROOT_CRL: Final = Name.parse("intel/root-crl")


def amd_chain(product: str, vek: Vek) -> Name:
    """Return the name of a product's ASK (or ASVK) and ARK."""
    return Name.parse(f"amd/{product}/{vek}/chain")


def amd_crl(product: str, vek: Vek) -> Name:
    """Return the name of a product's CRL."""
    return Name.parse(f"amd/{product}/{vek}/crl")


def vcek(product: str, chip_id: bytes, reported_tcb: bytes) -> Name:
    """Return the name of one chip's VCEK (CHIP_ID 64 bytes, TCB_VERSION 8 bytes)."""
    return Name.parse(f"amd/{product}/vcek/{chip_id.hex()}/{reported_tcb.hex()}")


def vlek(product: str, reported_tcb: bytes) -> Name:
    """Return the name of a cloud's VLEK (TCB_VERSION 8 bytes)."""
    return Name.parse(f"amd/{product}/vlek/{reported_tcb.hex()}")


def nv_rim(rim_id: str) -> Name:
    """Return the name of a reference manifest (RIM), by the service's id."""
    return Name.parse(f"nvidia/rim/{rim_id}")


def nv_ocsp(digest: bytes) -> Name:
    """Return the name of an OCSP response, by SHA-256 of the certID (see `nvidia.ocsp_name`)."""
    return Name.parse(f"nvidia/ocsp/{digest.hex()}")


def nv_crl(issuer_spki: bytes) -> Name:
    """Return the name of one of NVIDIA's CRLs, by SHA-256 of its issuer's SPKI."""
    return Name.parse(f"nvidia/crl/{issuer_spki.hex()}")


@final
@dataclass(frozen=True, slots=True)
class Part:
    """One part whose signatures held. Build it with `vet.vet` only.

    `chain` is PEM, leaf first. `windows` are the validity dates of everything in it. `number` is
    tcbEvaluationDataNumber or the CRL number, 0 where there is none; `issued` is issueDate,
    thisUpdate or notBefore; `fetched` is when it was received. Times are unix seconds.
    """

    name: Name
    body: bytes
    chain: bytes
    windows: Windows
    number: int
    issued: int
    fetched: int
    digest: bytes = field(init=False, repr=False, compare=False)
    """SHA-256 over the exact bytes of body and chain."""

    def __post_init__(self) -> None:
        digest = hashlib.sha256(lp(self.body) + lp(self.chain)).digest()
        object.__setattr__(self, "digest", digest)

    def is_current(self, now: int) -> bool:
        """Tell whether everything in it is valid at `now`, ends included, with no grace."""
        return self.windows.start <= now <= self.windows.end

    def may_serve(self, now: int) -> bool:
        """Tell whether it may be handed on at `now`: it is current, or it is a RIM that was.

        A RIM whose signer has ended is refused by the appraisal, unless a policy admits this very
        document: so it is not the store's to throw away.
        """
        late = self.name.role is Role.NV_RIM and self.windows.start <= now
        return late or self.is_current(now)

    def check(self, now: int) -> None:
        """Refuse a part that may not be handed on at `now` (unix seconds).

        Raises:
            VerifierError: the reason of the first window that it misses.
        """
        if not self.may_serve(now):
            self.windows.check(now)

    def is_older_than(self, other: Part) -> bool:
        """Tell whether this would be a step back from `other`, a part of the same name."""
        return self.number < other.number or self.issued < other.issued
