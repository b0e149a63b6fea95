"""A software AMD: per product a root (ARK), its ASK and ASVK, chip and cloud keys, and a CRL.

Guarantees: names, serials, extensions and encodings as in AMD 57230 and the certificates that AMD's
KDS serves (RSA-4096 with PSS, SHA-384, salt 48; VCEK and VLEK on P-384 with serial 0), under keys
made here. RSA keys take most of a second each, so those of a product are made on first use.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, final

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ostiary.simulator import certificates, der, store
from ostiary.simulator.certificates import (
    Certificate,
    Extension,
    Revoked,
    RsaPssSigner,
    name,
    spki_of,
)
from ostiary.simulator.snp import (
    CURRENT_TCB,
    PRODUCTS,
    Product,
    SnpReport,
    Tcb,
    new_chip_id,
    require_product,
    sign_report,
)
from ostiary.simulator.store import SimulatorError

CaRole = Literal["ark", "ask", "asvk"]
CA_ROLES: Final[tuple[CaRole, ...]] = ("ark", "ask", "asvk")
_ARC: Final = "1.3.6.1.4.1.3704.1"
_RSA_BITS: Final = 4096
_DAY: Final = 86_400
_YEAR: Final = 365 * _DAY
_SERIALS: Final[dict[CaRole, int]] = {"ark": 0x00, "ask": 0x01, "asvk": 0x101}
_BASES: Final[dict[Product, int]] = {"Milan": 0x10000, "Genoa": 0x20000, "Turin": 0x30000}
DEFAULT_CSP: Final = "CN=cc-simulated-1.example"


def amd_name(common_name: str) -> bytes:
    """Return a Name as AMD writes them."""
    return name(
        ("OU", "Engineering"),
        ("C", "US"),
        ("L", "Santa Clara"),
        ("ST", "CA"),
        ("O", "Advanced Micro Devices"),
        ("CN", common_name),
    )


def ca_common_name(role: CaRole, product: Product) -> str:
    """Return the common name of a product's CA."""
    prefix = {"ark": "ARK", "ask": "SEV", "asvk": "SEV-VLEK"}[role]
    return f"{prefix}-{product}"


def vek_extensions(
    product: Product,
    tcb: Tcb,
    *,
    hwid: bytes | None = None,
    csp: str | None = None,
    product_name: str | None = None,
    hwid_octets: bool = False,
) -> tuple[Extension, ...]:
    """Return a VCEK's or VLEK's extensions in AMD's order (AMD 57230).

    Args:
        product: decides the order and whether there is an FMC.
        tcb: security versions that the key was derived for.
        hwid: CHIP_ID (8 bytes on Turin), in VCEKs; None leaves it out.
        csp: cloud provider's id, in VLEKs; None leaves it out.
        product_name: None for the one that such certificates carry.
        hwid_octets: wrap HWID into a DER OCTET STRING, as some certificates have it.
    """
    turin = product == "Turin"
    stepping = "-B0" if product == "Milan" and csp is None else ""
    said = f"{product}{stepping}" if product_name is None else product_name
    rows: list[tuple[str, bytes]] = [
        ("1", der.integer(1 if turin else 0)),
        ("2", der.ia5(said)),
    ]
    if turin:
        rows.append(("3.9", der.integer(tcb.fmc)))
    rows += [("3.1", der.integer(tcb.bootloader)), ("3.2", der.integer(tcb.tee))]
    if turin:
        rows.append(("3.3", der.integer(tcb.snp)))
    spares = ("3.5", "3.6", "3.7") if turin else ("3.4", "3.5", "3.6", "3.7")
    rows += [(arc, der.integer(0)) for arc in spares]
    if not turin:
        rows.append(("3.3", der.integer(tcb.snp)))
    rows.append(("3.8", der.integer(tcb.microcode)))
    if hwid is not None:
        rows.append(("4", der.octets(hwid) if hwid_octets else hwid))
    if csp is not None:
        rows.append(("5", der.ia5(csp)))
    return tuple(Extension(f"{_ARC}.{arc}", value) for arc, value in rows)


@final
@dataclass(frozen=True, slots=True, repr=False)
class Chip:
    """A key that signs reports, and its chain: VEK, ASK or ASVK, ARK (DER)."""

    product: Product
    tcb: Tcb
    chip_id: bytes
    """64 bytes; zero for a VLEK, whose reports hide the chip."""
    key: ec.EllipticCurvePrivateKey
    chain: tuple[bytes, bytes, bytes]
    vlek: bool = False

    def sign(self, report: SnpReport) -> bytes:
        """Return the report signed by this key, its fields as they are."""
        return sign_report(report, self.key)


def _ca_extensions(
    role: CaRole, product: Product, spki: bytes, ark: bytes
) -> tuple[Extension, ...]:
    kind = "vlek" if role == "asvk" else "vcek"
    uri = f"https://kdsintf.amd.com/{kind}/v1/{product}/crl"
    distribution = certificates.crl_distribution_point(uri)
    if role == "ark":
        return (
            certificates.key_usage(certificates.KEY_CERT_SIGN, certificates.CRL_SIGN),
            certificates.subject_key_id(spki),
            certificates.basic_constraints(ca=True),
            distribution,
        )
    return (
        certificates.subject_key_id(spki),
        certificates.authority_key_id(ark),
        certificates.basic_constraints(ca=True, path_length=0),
        certificates.key_usage(certificates.KEY_CERT_SIGN),
        distribution,
    )


@final
@dataclass(slots=True, repr=False)
class FakeAmd:
    """The vendor. Certificates of a product exist from the first time that they are asked for.

    Not for several threads at once: the first use makes keys.
    """

    created: int
    _keys: dict[tuple[Product, CaRole], rsa.RSAPrivateKey] = field(default_factory=dict)
    _issued: dict[tuple[Product, CaRole], bytes] = field(default_factory=dict)

    @classmethod
    def create(cls, now: int) -> FakeAmd:
        """Return a new vendor whose certificates will be valid around `now`."""
        return cls(now)

    def save(self, folder: Path, products: Iterable[str] = PRODUCTS) -> None:
        """Write keys (0600) and certificates of these products, making what is not there yet.

        Raises:
            SimulatorError: it cannot be written, or a vendor is there already.
        """
        store.make_folder(folder)
        names = [require_product(product) for product in products]
        for product in names:
            for role in CA_ROLES:
                stem = f"amd-{product}-{role}"
                store.write_new(folder / f"{stem}.der", self.certificate(product, role))
                store.write_key(folder / f"{stem}.key.pem", self._keys[product, role])
        head = {"created": self.created, "products": names}
        store.write_new(folder / "amd.json", json.dumps(head).encode())

    @classmethod
    def load(cls, folder: Path) -> FakeAmd:
        """Return the vendor that `save` left, with the products that it saved.

        Raises:
            SimulatorError: a file is missing or not what `save` writes.
        """
        path = folder / "amd.json"
        try:
            head = json.loads(store.read(path))
            vendor = cls(int(head["created"]))
            names = [require_product(product) for product in head["products"]]
        except (ValueError, KeyError, TypeError) as error:
            raise SimulatorError(f"{path} is not what a saved vendor has") from error
        for product in names:
            for role in CA_ROLES:
                stem = f"amd-{product}-{role}"
                vendor._issued[product, role] = store.read(folder / f"{stem}.der")
                vendor._keys[product, role] = store.read_rsa_key(folder / f"{stem}.key.pem")
        return vendor

    def key(self, product: Product, role: CaRole) -> rsa.RSAPrivateKey:
        """Return a CA's key, made on first use."""
        if (product, role) not in self._keys:
            made = rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
            self._keys[product, role] = made
        return self._keys[product, role]

    def certificate(self, product: Product, role: CaRole) -> bytes:
        """Return a CA's certificate (DER), made on first use."""
        if (product, role) not in self._issued:
            self._issued[product, role] = self.issue_ca(product, role)
        return self._issued[product, role]

    def issue_ca(self, product: Product, role: CaRole, **changes: Any) -> bytes:  # noqa: ANN401 - Certificate's fields
        """Return a CA certificate (DER) with other `Certificate` fields; keeps nothing."""
        ark = spki_of(self.key(product, "ark").public_key())
        spki = spki_of(self.key(product, role).public_key())
        start = self.created - 5 * _YEAR + _SERIALS[role]
        said = Certificate(
            subject=amd_name(ca_common_name(role, product)),
            issuer=amd_name(ca_common_name("ark", product)),
            serial=_BASES[product] + _SERIALS[role],
            not_before=start,
            not_after=start + 25 * _YEAR,
            spki=spki,
            extensions=_ca_extensions(role, product, spki, ark),
        )
        return replace(said, **changes).issue(self._signer(product, "ark", trailer_field=True))

    def _signer(
        self, product: Product, role: CaRole, *, trailer_field: bool = False
    ) -> RsaPssSigner:
        return RsaPssSigner(self.key(product, role), trailer_field=trailer_field)

    def root_pin(self, product: Product) -> bytes:
        """Return SHA-256 of a product's ARK certificate (DER)."""
        return hashlib.sha256(self.certificate(product, "ark")).digest()

    def crl(
        self,
        product: Product,
        now: int,
        *,
        revoked: Sequence[int] = (),
        this_update: int | None = None,
        next_update: int | None = None,
        signed_by: CaRole = "ark",
    ) -> bytes:
        """Return a product's CRL (DER), issued a day before `now` and good for a year.

        `revoked` are serials of ASK or ASVK; chip keys all have serial 0 and cannot be listed.
        """
        start = now - _DAY if this_update is None else this_update
        return certificates.issue_crl(
            issuer=amd_name(ca_common_name("ark", product)),
            this_update=start,
            next_update=start + _YEAR if next_update is None else next_update,
            revoked=[Revoked(serial, start) for serial in revoked],
            extensions=(
                certificates.authority_key_id(spki_of(self.key(product, "ark").public_key())),
                certificates.crl_number(6),
            ),
            signer=self._signer(product, signed_by),
        )

    def vcek(
        self,
        product: Product,
        *,
        tcb: Tcb | None = None,
        chip_id: bytes | None = None,
        extensions: Callable[[tuple[Extension, ...]], tuple[Extension, ...]] | None = None,
        **changes: Any,  # noqa: ANN401 - Certificate's fields
    ) -> Chip:
        """Return a chip of a product, with its VCEK.

        Args:
            product: which generation.
            tcb: levels in the certificate; None for the current ones.
            chip_id: 64 bytes; None for a random one.
            extensions: bends the extensions, for negative tests.
            changes: other `Certificate` fields.
        """
        level = CURRENT_TCB[product] if tcb is None else tcb
        chip = new_chip_id(product) if chip_id is None else chip_id
        hwid = chip[:8] if product == "Turin" else chip
        said = vek_extensions(product, level, hwid=hwid)
        bent = said if extensions is None else extensions(said)
        key, issued = self._issue_vek(product, "ask", bent, changes)
        chain = (issued, self.certificate(product, "ask"), self.certificate(product, "ark"))
        return Chip(product, level, chip, key, chain)

    def vlek(
        self,
        product: Product,
        *,
        csp: str = DEFAULT_CSP,
        tcb: Tcb | None = None,
        extensions: Callable[[tuple[Extension, ...]], tuple[Extension, ...]] | None = None,
        **changes: Any,  # noqa: ANN401 - Certificate's fields
    ) -> Chip:
        """Return a cloud provider's key for a product, with its VLEK. Arguments as for `vcek`."""
        level = CURRENT_TCB[product] if tcb is None else tcb
        said = vek_extensions(product, level, csp=csp)
        bent = said if extensions is None else extensions(said)
        key, issued = self._issue_vek(product, "asvk", bent, changes)
        chain = (issued, self.certificate(product, "asvk"), self.certificate(product, "ark"))
        return Chip(product, level, bytes(64), key, chain, vlek=True)

    def _issue_vek(
        self,
        product: Product,
        issuer: CaRole,
        extensions: tuple[Extension, ...],
        changes: dict[str, Any],
    ) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
        cloud = issuer == "asvk"
        key = ec.generate_private_key(ec.SECP384R1())
        start = self.created - 30 * _DAY
        said = Certificate(
            subject=amd_name("SEV-VLEK" if cloud else "SEV-VCEK"),
            issuer=amd_name(ca_common_name(issuer, product)),
            serial=0,
            not_before=start,
            not_after=start + (1 if cloud else 7) * _YEAR,
            spki=spki_of(key.public_key()),
            extensions=extensions,
        )
        return key, replace(said, **changes).issue(self._signer(product, issuer))


def report_of(chip: Chip, report: SnpReport, **changes: Any) -> SnpReport:  # noqa: ANN401 - SnpReport's fields
    """Return a report's fields as this chip reports them: its levels, id and signing key.

    `changes` win over the chip.
    """
    own: dict[str, Any] = {
        "reported_tcb": chip.tcb,
        "current_tcb": chip.tcb,
        "committed_tcb": chip.tcb,
        "launch_tcb": chip.tcb,
        "chip_id": chip.chip_id,
        "signer_info": 0x4 if chip.vlek else 0,
    }
    return replace(report, **(own | changes))
