"""Event logs and TPM quotes for tests: good ones, and what it takes to bend them."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.kit import corpus
from verifier.eventlog import tcg
from verifier.eventlog.boot import (
    CALLING,
    EXIT_INVOKED,
    EXIT_RETURNED,
    GLOBAL_VARIABLE,
    SECURITY_DATABASE,
)
from verifier.eventlog.log import Event, EventLog, Format, Kind
from verifier.eventlog.replay import replay
from verifier.tpm import attest as attests
from verifier.tpm.attest import Attest, Selection, Signature

EVENTLOG_NAMES = corpus._names(("eventlog",))

CMDLINE = "root=/dev/mapper/root ro roothash=" + "ab" * 32


def variable(vendor: bytes, name: str, value: bytes) -> bytes:
    """Return UEFI_VARIABLE_DATA."""
    return struct.pack("<16sQQ", vendor, len(name), len(value)) + name.encode("utf-16-le") + value


def tag(number: int, text: bytes) -> bytes:
    return struct.pack("<II", number, len(text)) + text


@dataclass
class LogMaker:
    """Collects events; `log` is what a parser makes of them."""

    form: Format = "tcg2"
    banks: tuple[str, ...] = ("sha256",)
    events: list[Event] = field(default_factory=list)

    def add(
        self, register: int, kind: int, data: bytes, measured: bytes | None = None, name: str = ""
    ) -> LogMaker:
        """Append an event whose digests are of `measured`, or else of its data."""
        what = data if measured is None else measured
        digests = tuple(hashlib.new(bank, what).digest() for bank in self.banks)
        self.events.append(Event(len(self.events) + 1, register, kind, digests, data, name))
        return self

    @property
    def log(self) -> EventLog:
        if self.form in ("dstack", "aael"):
            return EventLog(self.form, self.banks, tuple(self.events), 0, len(self.events))
        kind: Any = "ccel" if self.form == "ccel" else "tcg"
        return tcg.parse(self.raw, kind=kind)

    @property
    def raw(self) -> bytes:
        return tcg.encode(EventLog(self.form, self.banks, tuple(self.events), 0, len(self.events)))

    def registers(self) -> dict[str, dict[int, bytes]]:
        return {bank: replay(self.log, bank) for bank in self.banks}


def security(
    maker: LogMaker, register: int, *, enabled: bytes = b"\x01", dbx: bytes = b"x"
) -> None:
    """Add the Secure Boot variables and their separator."""
    for vendor, name, value in (
        (GLOBAL_VARIABLE, "SecureBoot", enabled),
        (GLOBAL_VARIABLE, "PK", b"pk"),
        (GLOBAL_VARIABLE, "KEK", b"kek"),
        (SECURITY_DATABASE, "db", b"db"),
        (SECURITY_DATABASE, "dbx", dbx),
    ):
        maker.add(register, Kind.VARIABLE_DRIVER_CONFIG, variable(vendor, name, value))
    maker.add(register, Kind.SEPARATOR, bytes(4))


def tpm_log(banks: tuple[str, ...] = ("sha256",), form: Format = "tcg2") -> LogMaker:
    """Return a good boot: Secure Boot, shim, GRUB, kernel with its command line, initrd."""
    maker = LogMaker(form, banks)
    maker.add(0, 8, b"version")
    security(maker, 7)
    maker.add(4, Kind.EFI_ACTION, CALLING)
    for pcr in range(7):
        maker.add(pcr, Kind.SEPARATOR, bytes(4))
    maker.add(4, Kind.BOOT_SERVICES_APPLICATION, bytes(32), b"shim")
    maker.add(4, Kind.BOOT_SERVICES_APPLICATION, bytes(32), b"kernel")
    maker.add(8, Kind.IPL, b"kernel_cmdline: " + CMDLINE.encode() + b"\0", CMDLINE.encode())
    maker.add(9, Kind.EVENT_TAG, tag(0x8F3B22EC, b"Linux initrd\0"), b"initrd")
    return leave(maker, 5)


def ccel_log() -> LogMaker:
    """Return a good boot of a TD by the Linux EFI stub."""
    maker = LogMaker("ccel", ("sha384",))
    maker.add(-1, 0x8000000A, b"firmware")
    security(maker, 0)
    maker.add(1, Kind.BOOT_SERVICES_APPLICATION, bytes(32), b"kernel")
    maker.add(1, Kind.EFI_ACTION, CALLING)
    maker.add(1, Kind.SEPARATOR, bytes(4))
    options = CMDLINE.encode("utf-16-le") + b"\0\0"
    maker.add(2, Kind.EVENT_TAG, tag(0x8F3B22ED, b"LOADED_IMAGE::LoadOptions\0"), options)
    maker.add(2, Kind.EVENT_TAG, tag(0x8F3B22EC, b"Linux initrd\0"), b"initrd")
    return leave(maker, 1)


def leave(maker: LogMaker, register: int) -> LogMaker:
    maker.add(register, Kind.EFI_ACTION, EXIT_INVOKED)
    return maker.add(register, Kind.EFI_ACTION, EXIT_RETURNED)


# TPM.


@cache
def rsa_key(bits: int = 2048, exponent: int = 65537) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(exponent, bits)


@cache
def ec_key(curve: str = "secp256r1") -> ec.EllipticCurvePrivateKey:
    curves: dict[str, ec.EllipticCurve] = {
        "secp256r1": ec.SECP256R1(),
        "secp384r1": ec.SECP384R1(),
        "secp521r1": ec.SECP521R1(),
    }
    return ec.generate_private_key(curves[curve])


NONCE = b"nonce of a challenge"
PCRS = {index: hashlib.sha256(bytes([index])).digest() for index in range(24)}


def bitmap(indices: Iterable[int], size: int = 3) -> bytes:
    return sum(1 << index for index in indices).to_bytes(size, "little")


def attest(
    pcrs: dict[str, dict[int, bytes]] | None = None,
    nonce: bytes = NONCE,
    digest_hash: str = "sha256",
    **changes: Any,
) -> Attest:
    """Return a quote's TPMS_ATTEST over these PCRs."""
    banks = {"sha256": PCRS} if pcrs is None else pcrs
    digest = hashlib.new(digest_hash)
    for values in banks.values():
        for index in sorted(values):
            digest.update(values[index])
    told: dict[str, Any] = {
        "qualified_signer": b"\x00\x0b" + bytes(32),
        "extra_data": nonce,
        "clock": 1,
        "reset_count": 2,
        "restart_count": 3,
        "safe": 1,
        "firmware_version": 4,
        "selections": tuple(Selection(bank, bitmap(values)) for bank, values in banks.items()),
        "pcr_digest": digest.digest(),
    }
    return Attest(**{**told, **changes})


def sign(raw: bytes, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | None = None) -> bytes:
    """Return the TPMT_SIGNATURE of a key over raw attest bytes."""
    key = rsa_key() if key is None else key
    if isinstance(key, rsa.RSAPrivateKey):
        plain = key.sign(raw, padding.PKCS1v15(), hashes.SHA256())
        return attests.encode_signature(Signature(attests.RSASSA, "sha256", (plain,)))
    name = {256: "sha256", 384: "sha384"}[key.key_size]
    algorithm = hashes.SHA256() if name == "sha256" else hashes.SHA384()
    r, s = decode_dss_signature(key.sign(raw, ec.ECDSA(algorithm)))
    size = key.key_size // 8
    parts = (r.to_bytes(size, "big"), s.to_bytes(size, "big"))
    return attests.encode_signature(Signature(attests.ECDSA, name, parts))


ATTRIBUTES = 0x00050072


def tpmt_public(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | None = None,
    attributes: int = ATTRIBUTES,
    scheme: Sequence[int] | None = None,
    tail: bytes | None = None,
) -> bytes:
    """Return the TPMT_PUBLIC of a restricted signing key; `tail` replaces what follows scheme."""
    key = rsa_key() if key is None else key
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.public_key().public_numbers()
        modulus = numbers.n.to_bytes(key.key_size // 8, "big")
        kind, words = 0x0001, (0x10, 0x14, 0x0B)
        rest = struct.pack(">HIH", key.key_size, 0, len(modulus)) + modulus
    else:
        point = key.public_key().public_numbers()
        size = key.key_size // 8
        kind, words = 0x0023, (0x10, 0x18, 0x0B if size == 32 else 0x0C)
        curve = 3 if size == 32 else 4
        rest = struct.pack(">HH", curve, 0x10) + b"".join(
            struct.pack(">H", size) + value.to_bytes(size, "big") for value in (point.x, point.y)
        )
    head = struct.pack(">HHIH", kind, 0x0B, attributes, 0)
    return head + struct.pack(">HHH", *(scheme or words)) + (rest if tail is None else tail)
