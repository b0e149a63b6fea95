"""RIMs, OCSP answers and NRAS tokens for tests: the simulated NVIDIA's, bent where a test asks."""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ostiary.simulator.nvidia.devices import DRIVER, SWITCH_BIOS, VBIOS
from ostiary.simulator.nvidia.ocsp import Answer, Responder
from ostiary.simulator.nvidia.pki import ISSUERS, FakeNvidia, Role
from ostiary.simulator.nvidia.rim import RimText
from ostiary.simulator.nvidia.services import NvidiaServices
from ostiary.simulator.services import Vendors, VendorServer
from tests.kit.collateral import LIMITS, Clock
from tests.kit.corpus import EVIDENCE
from tests.kit.vendors import NOW
from verifier.anchors import Anchors
from verifier.collateral.nvidia import NvidiaService
from verifier.collateral.sources import Services, Stored
from verifier.collateral.store import Store
from verifier.collateral.web import Budget, Web
from verifier.nvgpu import nras
from verifier.nvgpu.endorsements import GpuEndorsements
from verifier.nvgpu.rim import Rim

REAL: Final = EVIDENCE / "nvidia"
VERSIONS: Final = {"driver": DRIVER, "vbios": VBIOS, "switch": SWITCH_BIOS}
DAY: Final = 86_400
T = TypeVar("T")


def real(name: str) -> bytes:
    """Return a file of NVIDIA's part of the corpus."""
    return (REAL / name).read_bytes()


@functools.cache
def vendor() -> FakeNvidia:
    """Return the session's NVIDIA."""
    return FakeNvidia.create(NOW)


@functools.cache
def responder() -> Responder:
    """Return the session's OCSP responder, to which every certificate is good."""
    return Responder(vendor())


def anchors(fake: FakeNvidia | None = None) -> Anchors:
    """Return the real roots and the simulated NVIDIA's."""
    own = fake or vendor()
    return Anchors().with_simulated(
        nvidia_device=[own.device_root_pin], nvidia_rim=[own.rim_root_pin]
    )


@functools.cache
def good_rim(kind: Any = "driver") -> bytes:
    """Return an honest RIM."""
    return RimText(kind, VERSIONS[kind]).sign(vendor())


def text_rim(kind: Any = "driver", fake: FakeNvidia | None = None, **changes: Any) -> bytes:
    """Return a RIM that says something else, or is signed by another vendor."""
    version = changes.pop("version", VERSIONS[kind])
    return RimText(kind, version, **changes).sign(fake or vendor())


@functools.cache
def certificate(role: Role) -> x509.Certificate:
    """Return a certificate of the session's NVIDIA."""
    return x509.load_der_x509_certificate(vendor().certificates[role])


def pair(role: Role) -> tuple[x509.Certificate, x509.Certificate]:
    """Return a certificate and its issuer."""
    return certificate(role), certificate(ISSUERS[role])


def answered(role: Role, *, at: int = NOW, by: Any = "sha384", **said: Any) -> bytes:
    """Return an OCSP answer about a role's certificate."""
    return responder().respond(vendor().serial(role), ISSUERS[role], at, Answer(**said), by)


def endorsed(*ocsp: bytes, crls: Sequence[bytes] = ()) -> GpuEndorsements:
    """Return endorsements of OCSP answers and lists."""
    return GpuEndorsements(ocsp=tuple(ocsp), crls=tuple(crls))


def pem(*chain: x509.Certificate) -> bytes:
    """Return certificates as PEM."""
    return b"".join(each.public_bytes(Encoding.PEM) for each in chain)


@dataclass(frozen=True)
class Rules:
    """What a policy says of revocation."""

    require_revocation: bool = True
    allow_hold_rim: bool = False
    ocsp_grace: int = 0


def changed(rim: Rim, **fields: Any) -> Rim:
    """Return a RIM with other fields, as no signature would let it be."""
    values = {name: getattr(rim, name) for name in Rim.__dataclass_fields__}
    return Rim(**(values | fields))


NONCE: Final = bytes(range(32))
KID: Final = "nv-eat-kid-prod-1"


@functools.cache
def nras_key() -> ec.EllipticCurvePrivateKey:
    """Return the key that the simulated NRAS signs with."""
    return ec.generate_private_key(ec.SECP384R1())


def jwks(*keys: tuple[str, ec.EllipticCurvePrivateKey]) -> bytes:
    """Return a JWKS of these keys, or of the one that NRAS has."""
    each = []
    for kid, key in keys or ((KID, nras_key()),):
        told = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
        each.append(told | {"kid": kid, "alg": "ES384", "use": "sig"})
    return json.dumps({"keys": each}).encode()


def token(claims: dict[str, Any], *, key: Any = None, alg: str = "ES384", **header: Any) -> str:
    """Return a signed token."""
    headers = {"kid": KID, "typ": None} | header
    return jwt.encode(claims, key or nras_key(), algorithm=alg, headers=headers)


def times(now: int = NOW) -> dict[str, Any]:
    """Return the claims that every token of NRAS has."""
    return {
        "iss": nras.ISSUER,
        "iat": now,
        "nbf": now,
        "exp": now + 3600,
        "eat_nonce": NONCE.hex(),
    }


def device_claims(serial: int, **changes: Any) -> dict[str, Any]:
    """Return the claims of one good device."""
    good = {
        "measres": "success",
        "secboot": True,
        "dbgstat": "disabled",
        "ueid": str(serial),
        "hwmodel": "GH100 A01 GSP BROM",
    }
    return times() | good | changes


def nras_answer(
    serials: Sequence[int] = (11,),
    *,
    prefix: str = "GPU",
    overall: dict[str, Any] | None = None,
    sign: Callable[[dict[str, Any]], str] = token,
    bend: Callable[[list[dict[str, Any]]], None] | None = None,
) -> bytes:
    """Return NRAS's answer about these devices; `bend` changes claims before they are signed."""
    each = [device_claims(serial) for serial in serials]
    if bend is not None:
        bend(each)
    tokens = {f"{prefix}-{place}": sign(claims) for place, claims in enumerate(each)}
    return nras_of(tokens, overall=overall, sign=sign)


def nras_of(
    tokens: dict[str, str],
    *,
    overall: dict[str, Any] | None = None,
    sign: Callable[[dict[str, Any]], str] = token,
) -> bytes:
    """Return an answer of these tokens, covered by an overall one."""
    submods = {
        name: ["DIGEST", ["SHA-256", hashlib.sha256(each.encode()).hexdigest()]]
        for name, each in tokens.items()
    }
    claims = times() | {"submods": submods, "x-nvidia-overall-att-result": True} | (overall or {})
    return json.dumps([["JWT", sign(claims)], tokens]).encode()


def unsigned(claims: dict[str, Any]) -> str:
    """Return a token as `nvattest` makes it for itself: nobody signed it."""
    parts = ({"alg": "none"}, claims)
    return (
        ".".join(
            base64.urlsafe_b64encode(json.dumps(each).encode()).decode().rstrip("=")
            for each in parts
        )
        + "."
    )


@dataclass
class Place:
    """Running services of the session's NVIDIA, and a store to fill from them."""

    server: VendorServer
    known: NvidiaServices
    folder: Path
    clock: Clock = field(default_factory=Clock)

    @property
    def store(self) -> Store:
        """Return the store as another process would open it."""
        return Store(self.folder, anchors())

    @property
    def ocsp(self) -> int:
        """How many OCSP questions were asked."""
        return self.server.asked["/"]

    @asynccontextmanager
    async def stored(
        self, *, fetch: bool = True, budget: Budget | None = None, key: str = "", **options: Any
    ) -> AsyncIterator[Stored]:
        """Give a source over these services and this store."""
        web = Web(LIMITS)
        url = self.server.url
        service = NvidiaService(web, url, url, url, key=key, budget=budget or Budget(1000, 1000))
        source = Stored(
            Store(self.folder, anchors()),
            Services(nvidia=service) if fetch else Services(),
            anchors(),
            self.clock,
            **{"remember_s": 0.0} | options,
        )
        try:
            yield source
        finally:
            await source.aclose()
            await web.aclose()

    def run(self, use: Callable[[Stored], Coroutine[Any, Any, T]], **options: Any) -> T:
        """Return what `use` makes of a source."""

        async def within() -> T:
            async with self.stored(**options) as source:
                return await use(source)

        return asyncio.run(within())


def place_of(server: VendorServer, folder: Path) -> Place:
    """Return services that know the session's NVIDIA, as new, on a running server."""
    clock = Clock()
    known = NvidiaServices.published(vendor(), clock)
    server.vendors = Vendors(clock, nvidia=known)
    server.heal()
    server.asked.clear()
    return Place(server, known, folder, clock)
