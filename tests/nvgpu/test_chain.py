"""A device chain is five certificates of one device under a pinned root, or refused."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ostiary.simulator import certificates, der
from ostiary.simulator.certificates import Extension, spki_of
from ostiary.simulator.nvidia.pki import FakeNvidia
from tests.kit import nvgpu, nvgpu_forge
from tests.kit.nvgpu_forge import CA, COMPOSITE, FWID, ISSUES, SIGNS, TCB_INFO, FwidWriter, digest
from verifier.anchors import PINNED
from verifier.cache import Cache
from verifier.errors import Reason, VerifierError
from verifier.nvgpu import chain
from verifier.nvgpu.identity import DeviceKind

GOOD = nvgpu.make().gpus[0].identity
P256 = spki_of(ec.generate_private_key(ec.SECP256R1()).public_key())


def refused(pem: bytes, reason: Reason = Reason.CHAIN_INVALID) -> str:
    with pytest.raises(VerifierError) as caught:
        chain.load(pem)
    assert caught.value.reason is reason, caught.value
    return str(caught.value)


def pem(*ders: bytes) -> bytes:
    return certificates.pem(*ders).encode()


def test_good_chain() -> None:
    """A device's chain names chip, kind and id, and ends in the root that was pinned."""
    found = chain.load(GOOD.chain_pem)
    who = found.identity

    assert (who.chip, who.arch, who.kind) == ("GH100", "hopper", DeviceKind.GPU)
    assert (who.device_id, who.pdi) == (b"\x41" + GOOD.pdi, GOOD.pdi)
    assert found.fwid == GOOD.fwid
    assert [subject for subject, _ in found.subjects] == list(found.certificates[1:4])
    found.check_root(nvgpu.anchors())
    assert found.check_dates(nvgpu.NOW) > nvgpu.NOW


@pytest.mark.parametrize(
    ("chip", "arch"),
    [("GH100", "hopper"), ("GB100", "blackwell"), ("GR100", "rubin"), ("GX100", "unknown")],
)
def test_architecture_is_the_chips(chip: str, arch: str) -> None:
    """The architecture comes from the name in the certificates, and nobody else says it."""
    assert chain.load(nvgpu_forge.device(chip).chain).identity.arch == arch


def test_switch_chain() -> None:
    """A switch is told by its own certificates though it stands under GH100's identity CA."""
    who = chain.load(nvgpu.make(8, "ppcie").switches[0].chain).identity

    assert (who.chip, who.arch, who.kind) == ("LS10", "ls10", DeviceKind.SWITCH)


def test_root_must_be_pinned() -> None:
    """The root is believed by its key: another's is refused, the same key issued again is not."""
    with pytest.raises(VerifierError) as caught:
        chain.load(GOOD.chain_pem).check_root(PINNED)
    assert caught.value.reason is Reason.ROOT_UNKNOWN
    again = nvgpu.vendor().reissue("device_root", serial=77).device("GH100", FWID)
    assert again.chain[4] != GOOD.chain[4]
    chain.load(again.chain_pem).check_root(nvgpu.anchors())


def test_dates() -> None:
    """Before the youngest certificate and after the one that ends first the chain is refused."""
    found = chain.load(GOOD.chain_pem)

    with pytest.raises(VerifierError) as caught:
        found.check_dates(max(start for start, _ in found.windows) - 1)
    assert caught.value.reason is Reason.CERTIFICATE_INVALID
    short = nvgpu.vendor().reissue("identity", not_after=nvgpu.NOW).device("GH100", FWID)
    ended = chain.load(short.chain_pem)
    assert ended.check_dates(nvgpu.NOW) == nvgpu.NOW
    with pytest.raises(VerifierError) as caught:
        ended.check_dates(nvgpu.NOW + 1)
    assert caught.value.reason is Reason.CERTIFICATE_EXPIRED


def test_cache_remembers_success_only() -> None:
    """The same bytes are checked once, issuers are shared, and what failed is not kept."""
    cache = Cache()
    first, other = GOOD.chain_pem, nvgpu.make(2).gpus[0].chain

    assert chain.load(first, cache) is chain.load(first, cache)
    shared = chain.load(other, cache).certificates[2:]
    assert all(
        a is b for a, b in zip(shared, chain.load(first, cache).certificates[2:], strict=True)
    )
    before = len(cache)
    for bad in (pem(*GOOD.chain[:4], GOOD.chain[3]), pem(GOOD.chain[1], *GOOD.chain[1:])):
        with pytest.raises(VerifierError):
            chain.load(bad, cache)
    # Issuers that hold are kept though the leaf below them does not.
    assert len(cache) == before


def test_number_and_order() -> None:
    """Exactly leaf to root: none missing, none more, none moved, and nothing between."""
    ders = GOOD.chain
    for some, count in ((ders[:4], 4), (ders[1:], 4), (ders[4:], 1), ((), 0)):
        assert f"5 certificates expected, {count} seen" in refused(pem(*some))
    refused(pem(*ders, ders[4]))
    refused(pem(ders[0], ders[2], ders[1], *ders[3:]))
    refused(b"x" + GOOD.chain_pem)


def test_brom_is_no_signer() -> None:
    """A chain of five that starts at the boot ROM's key is refused: that key signs no reports."""
    forged = nvgpu_forge.device(usage=(CA, ISSUES))

    assert "a CA certificate as end entity" in refused(forged.chain)


def test_links_must_be_signed() -> None:
    """Certificates of the right names by another vendor's keys are refused, at each place."""
    theirs = FakeNvidia.create(nvgpu.NOW).device("GH100", FWID, pdi=GOOD.pdi).chain
    for place in range(5):
        mixed = list(GOOD.chain)
        mixed[place] = theirs[place]
        assert "issuer" in refused(pem(*mixed))


def test_issuers_must_be_authorities() -> None:
    """A boot ROM or an intermediate without the right to issue certificates is refused."""
    bent = nvgpu.vendor().reissue("identity", extensions=(SIGNS,)).device("GH100", FWID)

    assert "identity CA: not a CA" in refused(bent.chain_pem)
    assert "BROM: not a CA" in refused(nvgpu_forge.device(brom_usage=(ISSUES,)).chain)
    assert "BROM: may not sign" in refused(nvgpu_forge.device(brom_usage=(CA, SIGNS)).chain)


def test_keys_are_p384() -> None:
    """A key on another curve is refused, at the leaf and above it."""
    assert "leaf: a P-384 key" in refused(nvgpu_forge.device(leaf_spki=P256).chain)
    assert "BROM: a P-384 key" in refused(nvgpu_forge.device(brom_spki=P256).chain)


@pytest.mark.parametrize(
    ("usage", "told"),
    [
        ((), "digitalSignature expected, none seen"),
        ((SIGNS, CA), "end entity"),
        ((ISSUES,), "not that of a signer"),
    ],
)
def test_leaf_signs_and_nothing_else(usage: tuple[Extension, ...], told: str) -> None:
    """The attestation key may sign, says so, and may issue nothing."""
    assert told in refused(nvgpu_forge.device(usage=usage).chain)


@pytest.mark.parametrize("fwid", [nvgpu_forge.composite, nvgpu_forge.tcb_info])
def test_fwid_of_both_forms(fwid: FwidWriter) -> None:
    """The FWID is read from CompositeDeviceID, and is the first one of DiceTcbInfo."""
    assert chain.load(nvgpu_forge.device(fwid=fwid).chain).fwid == FWID


def composite(*parts: bytes, version: int = 1, after: bytes = b"") -> FwidWriter:
    def write(spki: bytes) -> list[Extension]:
        return [Extension(COMPOSITE, der.sequence(der.integer(version), spki, *parts) + after)]

    return write


OTHER_KEY = spki_of(ec.generate_private_key(ec.SECP384R1()).public_key())


NO_FWIDS: dict[str, FwidWriter] = {
    "another key": lambda _: [
        Extension(COMPOSITE, der.sequence(der.integer(1), OTHER_KEY, digest()))
    ],
    "none": composite(),
    "something after": composite(digest(), after=der.null()),
    "something inside": composite(digest(), der.null()),
    "version": composite(digest(), version=2),
    "size": composite(digest(FWID[:32])),
    "hash": composite(digest(algorithm="2.16.840.1.101.3.4.2.1")),
    "none in TCB info": lambda _: [Extension(TCB_INFO, der.sequence(der.tlv(0x80, b"NVIDIA")))],
    "size in TCB info": lambda _: [
        Extension(TCB_INFO, der.sequence(der.tlv(0xA6, digest(FWID[:47]))))
    ],
    "not DER": lambda _: [Extension(TCB_INFO, b"\x30")],
}


@pytest.mark.parametrize("wrong", NO_FWIDS)
def test_fwid_of_no_form(wrong: str) -> None:
    """An FWID of another device, size, hash or form is refused."""
    assert "leaf: FWID:" in refused(nvgpu_forge.device(fwid=NO_FWIDS[wrong]).chain)


def test_one_fwid() -> None:
    """A leaf without an FWID is refused, and so is one with two, of which none could count."""
    none = nvgpu_forge.device(fwid=lambda _: [])
    both = nvgpu_forge.device(fwid=lambda s: nvgpu_forge.composite(s) + nvgpu_forge.tcb_info(s))

    assert "0 seen" in refused(none.chain)
    assert "2 seen" in refused(both.chain)


@pytest.mark.parametrize(
    "leaf",
    ["GH100 A02 GSP FMC LF", "GB100 A01 GSP FMC LF", "GH100 A01 FSP FMC LF", "GH100", "gh100 \n"],
)
def test_leaf_and_brom_must_agree(leaf: str) -> None:
    """A leaf that names another chip, revision or processor than its boot ROM is refused."""
    assert "of one device expected" in refused(nvgpu_forge.device(leaf_cn=leaf).chain)
    assert "of one device expected" in refused(nvgpu_forge.device(brom_cn="GH100 BROM").chain)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("NVIDIA:GB100:48B02D0123456789", nvgpu_forge.SAN),
        ("NVIDIA:GH100:48B02D", nvgpu_forge.SAN),
        ("GH100", nvgpu_forge.SAN),
        ("NVIDIA:GH100:48B02D0123456789", "1.2.3.4"),
    ],
)
def test_alternative_name_must_agree(text: str, kind: str) -> None:
    """The leaf's subjectAltName names the same chip, in NVIDIA's form."""
    forged = nvgpu_forge.device(alternative=nvgpu_forge.names(text, kind))

    assert "subjectAltName" in refused(forged.chain)


def test_alternative_name_is_needed() -> None:
    """A leaf without a subjectAltName is refused."""
    other = Extension("1.2.3.4", der.null())

    assert "subjectAltName" in refused(nvgpu_forge.device(alternative=other).chain)


@pytest.mark.parametrize(
    ("chip", "serial"),
    [("GH100", 0x50_0123456789ABCDEF), ("LS_10", 0x41_0123456789ABCDEF), ("GH100", 0x41)],
)
def test_serial_number_must_be_the_kinds(chip: str, serial: int) -> None:
    """A BROM serial number that is not a GPU's on a GPU, or a switch's on a switch, is refused."""
    assert "serial number" in refused(nvgpu_forge.device(chip, serial=serial).chain)
