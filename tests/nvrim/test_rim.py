"""RIMs: whose they are, what they are about, when they may be used, and which of two counts."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary.simulator import certificates as made
from ostiary.simulator.certificates import EcdsaSha384Signer
from ostiary.simulator.nvidia.pki import FakeNvidia
from tests.kit import nvrim
from tests.kit.corpus import ABSENT
from tests.kit.vendors import NOW
from verifier.anchors import PINNED, Anchors
from verifier.cache import Cache
from verifier.errors import Reason, VerifierError
from verifier.nvgpu import rim, swid, xmldsig
from verifier.nvgpu.endorsements import MAX_RIM

FULL = "hopper/h100-550.90.07-full/"
DRIVER = FULL + "NV_GPU_DRIVER_GH100_550.90.07.swidtag.xml"
VBIOS = FULL + "NV_GPU_VBIOS_1010_0200_882_96009F0001.swidtag.xml"
MARCH_2026 = 1_772_323_200
NOVEMBER_2026 = 1_795_132_800
real = pytest.mark.skipif(not nvrim.REAL.is_dir(), reason=ABSENT)


def check(raw: bytes, *, now: int = NOW, anchors: Anchors | None = None, **more: Any) -> rim.Rim:
    return rim.verify(raw, now=now, anchors=anchors or nvrim.anchors(), **more)


def refused(raw: bytes, reason: Reason, match: str | None = None, **more: Any) -> None:
    with pytest.raises(VerifierError, match=match) as caught:
        check(raw, **more)
    assert caught.value.reason is reason


def digest(raw: bytes) -> bytes:
    return hashlib.sha256(raw).digest()


@pytest.mark.parametrize(
    ("kind", "rim_id"),
    [
        ("driver", "NV_GPU_DRIVER_GH100_590.12"),
        ("vbios", "NV_GPU_VBIOS_*_9600A50001"),
        ("switch", "NV_SWITCH_BIOS_*_9610730001"),
    ],
)
def test_an_honest_rim_is_read(kind: Any, rim_id: str) -> None:
    """Kind, name, values, certificates and dates of a simulated RIM are those it was made with."""
    found = check(nvrim.good_rim(kind))
    assert (found.kind, found.id, found.version) == (kind, rim_id, nvrim.VERSIONS[kind])
    assert len(found.golden) == 64
    assert found.simulated
    assert found.expired is None
    assert [issuer for _, issuer in found.subjects] == list(found.certificates[1:])
    assert found.issued == NOW - 30 * nvrim.DAY
    assert found.claims()["sha256"] == digest(nvrim.good_rim(kind)).hex()


def test_a_simulated_root_is_not_nvidias() -> None:
    """Without a simulator's roots its RIMs are refused."""
    refused(nvrim.good_rim(), Reason.ROOT_UNKNOWN, anchors=PINNED)


def test_a_cache_changes_nothing_but_time() -> None:
    """A second look at the same bytes gives the same, and judges root and date again."""
    cache = Cache()
    first = check(nvrim.good_rim(), cache=cache)
    assert check(nvrim.good_rim(), cache=cache) == first
    assert len(cache) == 1
    refused(nvrim.good_rim(), Reason.ROOT_UNKNOWN, anchors=PINNED, cache=cache)
    late = first.expires + 1
    refused(nvrim.good_rim(), Reason.RIM_EXPIRED, now=late, cache=cache)


def test_the_last_second_is_within() -> None:
    """A RIM is good in the last second of its signer and refused in the next."""
    end = check(nvrim.good_rim()).expires
    assert check(nvrim.good_rim(), now=end).expires == end
    refused(nvrim.good_rim(), Reason.RIM_EXPIRED, now=end + 1)
    start = NOW - 30 * nvrim.DAY
    assert check(nvrim.good_rim(), now=start).expires == end
    refused(nvrim.good_rim(), Reason.COLLATERAL_NOT_YET_VALID, now=start - 1)


def test_an_ended_signer_is_admitted_by_the_documents_digest_alone() -> None:
    """Whoever admits this very document gets it, marked as one whose signer has ended."""
    raw = nvrim.good_rim()
    end = check(raw).expires
    found = check(raw, now=end + 1, pinned_expired=frozenset({digest(raw)}))
    assert found.expired == end
    assert found.expires > end
    assert found.claims()["signer_expired"] is True
    refused(raw, Reason.RIM_EXPIRED, now=end + 1, pinned_expired=frozenset({digest(b"x")}))
    after = NOW + 40 * 365 * nvrim.DAY
    refused(
        raw,
        Reason.RIM_EXPIRED,
        "root's time",
        now=after,
        pinned_expired=frozenset({digest(raw)}),
    )


def test_a_huge_rim_is_refused() -> None:
    """Size is looked at before anything else, by every way in."""
    refused(b" " * (MAX_RIM + 1), Reason.TOO_LARGE)
    with pytest.raises(VerifierError):
        rim.read(b" " * (MAX_RIM + 1))


def chain(*roles: Any) -> list[bytes]:
    return [nvrim.vendor().certificates[role] for role in roles]


OWN = ("gh100_rim_l4", "gh100_rim_l3", "gh100_rim_ca", "rim_root")


@pytest.mark.parametrize(
    ("roles", "match"),
    [
        (OWN[:3], "4 certificates"),
        ((*OWN, "rim_root"), "4 certificates"),
        ((OWN[0], OWN[2], OWN[1], OWN[3]), "issuer"),
        ((OWN[0], OWN[0], OWN[2], OWN[3]), "issuer"),
        ((OWN[0], OWN[1], OWN[2], "device_root"), "issuer"),
        (("gh100_rim_l3", "gh100_rim_ca", "rim_root", "rim_root"), "path length|end entity|CA"),
        (("ls10_rim_l4", *OWN[1:]), "issuer"),
    ],
)
def test_another_chain_is_refused(roles: tuple[str, ...], match: str) -> None:
    """Signer, L3, CA and root stand in this order, each issued by the next."""
    raw = nvrim.text_rim(certificates=chain(*roles))
    refused(raw, Reason.CHAIN_INVALID, match)


def test_a_signer_that_is_a_ca_is_refused() -> None:
    """The one who signs documents issues no certificates."""
    fake = nvrim.vendor().reissue(
        "gh100_rim_l4",
        extensions=(
            made.basic_constraints(ca=True),
            made.key_usage(made.KEY_CERT_SIGN, made.DIGITAL_SIGNATURE),
        ),
    )
    refused(nvrim.text_rim(fake=fake), Reason.CHAIN_INVALID, "path length|CA certificate as end")


def test_a_signer_of_another_curve_is_refused() -> None:
    """Every key of a RIM's chain is P-384."""
    key = ec.generate_private_key(ec.SECP256R1())
    fake = nvrim.vendor().reissue("gh100_rim_l4", spki=EcdsaSha384Signer(key).spki)
    refused(nvrim.text_rim(fake=fake), Reason.CHAIN_INVALID, "P-384")


def test_a_whole_forged_chain_is_refused() -> None:
    """Somebody else's NVIDIA, the same in every name, has another root key."""
    raw = nvrim.text_rim(fake=FakeNvidia.create(NOW))
    refused(raw, Reason.ROOT_UNKNOWN, "is not pinned")


def test_a_certificate_that_is_none_is_refused() -> None:
    """What stands in KeyInfo must be certificates."""
    refused(nvrim.text_rim(certificates=[b"x"] * 4), Reason.CERTIFICATE_INVALID)


def test_a_document_signed_by_another_key_is_refused() -> None:
    """NVIDIA's certificates around somebody else's signature do not help."""
    raw = nvrim.text_rim()
    other = nvrim.RimText("driver", nvrim.DRIVER).sign(
        nvrim.vendor(), nvrim.vendor().keys["gh100_rim_l3"]
    )
    assert raw != other
    refused(other, Reason.COLLATERAL_SIGNATURE)


SAID: dict[str, dict[str, Any]] = {
    "no number": {"version": "x"},
    "switch version for a driver": {"edition": "SWITCH"},
    "another edition": {"edition": "CPU"},
    "another manufacturer": {"manufacturer": "1"},
    "two sizes": {"golden": {0: (bytes(47),)}},
}


@pytest.mark.parametrize("name", SAID)
def test_a_signed_document_about_something_else_is_refused(name: str) -> None:
    """A document that NVIDIA's keys sign, but that is no RIM that we know, has no meaning."""
    refused(nvrim.text_rim(**SAID[name]), Reason.COLLATERAL_MALFORMED)


EDITS: dict[str, tuple[bytes, bytes]] = {
    "another root": (b"SoftwareIdentity", b"SoftwareEntity"),
    "another namespace": (b"/2015/schema.xsd", b"/2009/schema.xsd"),
    "no Entity": (
        b'<ns0:Entity name="NVIDIA Corporation" role="softwareCreator tagCreator"/>',
        b"",
    ),
    "two Payloads": (b"</ns0:Payload>", b"</ns0:Payload><ns0:Payload/>"),
    "a patch": (b'patch="false"', b'patch="true"'),
    "a supplement": (b'supplemental="false"', b'supplemental="true"'),
    "another name": (b'name="GH100"', b'name="GH200"'),
    "another product": (b'product="GH100"', b'product="gh 100"'),
    "contents of Meta": (
        b'FirmwareManufacturerId="5703"/>',
        b'FirmwareManufacturerId="5703"><ns0:a/></ns0:Meta>',
    ),
    "an attribute of Payload": (b"<ns0:Payload ", b'<ns0:Payload a="b" '),
    "something else in Payload": (b"</ns0:Payload>", b"<ns0:File/></ns0:Payload>"),
    "contents of a Resource": (b'size="48"/>', b'size="48">x</ns0:Resource>'),
    "an index twice": (b'index="1"', b'index="0"'),
    "an index that is none": (b'index="1"', b'index="01"'),
    "a large index": (b'index="1"', b'index="256"'),
    "another type": (b'type="Measurement"', b'type="File"'),
    "active in between": (b'active="False"', b'active="false"'),
    "no alternative": (b'alternatives="1"', b'alternatives="0"'),
    "more alternatives": (b'alternatives="1"', b'alternatives="2"'),
    "many alternatives": (b'alternatives="1"', b'alternatives="65"'),
    "a further attribute": (b'type="Measurement"', b'type="Measurement" min_svn="1"'),
    "another size": (b'size="48"', b'size="32"'),
    "no hexadecimal": (b'Hash0="0', b'Hash0="g'),
    "a short value": (b'Hash0="0', b'Hash0="'),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_document_of_another_form_is_refused(name: str) -> None:
    """Whoever signed it: what has other parts or attributes is not read as a RIM."""
    old, new = EDITS[name]
    raw = nvrim.good_rim()
    assert old in raw
    text = raw.replace(old, new) if name == "another root" else raw.replace(old, new, 1)
    if name == "another namespace":
        text = raw.replace(old, new)
    root = xmldsig.read(text, "RIM", limit=MAX_RIM).root
    with pytest.raises(VerifierError) as caught:
        swid.read(root)
    assert caught.value.reason is Reason.COLLATERAL_MALFORMED
    assert not rim.is_about(text, "driver", "GH100", nvrim.DRIVER)


def find(*raws: bytes, version: str = nvrim.DRIVER, **more: Any) -> rim.Rim:
    given_now = more.pop("now", NOW)
    return rim.find(
        raws, "driver", "GH100", version, now=given_now, anchors=nvrim.anchors(), **more
    )


def not_found(reason: Reason, *raws: bytes, **more: Any) -> None:
    with pytest.raises(VerifierError) as caught:
        find(*raws, **more)
    assert caught.value.reason is reason


def later(days: int, salt: str) -> bytes:
    """Return a RIM of the same id, its signer's certificate so many days younger."""
    start = NOW - 30 * nvrim.DAY + days * nvrim.DAY
    fake = nvrim.vendor().reissue(
        "gh100_rim_l4", not_before=start, not_after=start + 700 * nvrim.DAY
    )
    return nvrim.text_rim(fake=fake, salt=salt)


def test_the_right_document_is_found_among_others() -> None:
    """Documents about something else are passed over; letters of either case are the same."""
    others = (nvrim.good_rim("vbios"), nvrim.good_rim("switch"), b"rubbish")
    assert find(*others, nvrim.good_rim()).kind == "driver"
    not_found(Reason.COLLATERAL_MISSING, *others)
    not_found(Reason.COLLATERAL_MISSING, nvrim.good_rim(), version="590.13")
    found = rim.find(
        (nvrim.good_rim("vbios"),),
        "vbios",
        "gh100",
        nvrim.VBIOS.lower(),
        now=NOW,
        anchors=nvrim.anchors(),
    )
    assert found.version == nvrim.VBIOS


def test_of_two_versions_of_one_id_the_later_counts() -> None:
    """NVIDIA has signed two documents of one id with different values: the newest issue counts."""
    old, new = nvrim.good_rim(), later(5, "b")
    assert find(old, new).sha256 == digest(new)
    assert find(new, old).sha256 == digest(new)


def test_a_pin_chooses_among_two_versions() -> None:
    """An operator's pin names the document for good, older or not."""
    old, new = nvrim.good_rim(), later(5, "b")
    assert find(old, new, pins=frozenset({digest(old)})).sha256 == digest(old)
    not_found(Reason.COLLATERAL_MISMATCH, old, new, pins=frozenset({digest(b"x")}))


def test_two_versions_issued_at_once_need_a_pin() -> None:
    """Nothing tells which of two from one moment counts, unless they say the same."""
    one, other = nvrim.good_rim(), nvrim.text_rim(salt="b")
    not_found(Reason.COLLATERAL_MISMATCH, one, other)
    assert find(one, nvrim.text_rim()).golden == find(one).golden
    assert find(one, other, pins=frozenset({digest(other)})).sha256 == digest(other)


def test_a_bad_document_does_not_hide_a_good_one() -> None:
    """Of several about one thing, those that do not hold are passed over, and told if none does."""
    bad = nvrim.good_rim().replace(b'active="False"', b'active="True"', 1)
    assert find(bad, nvrim.good_rim()).kind == "driver"
    not_found(Reason.COLLATERAL_SIGNATURE, b"rubbish", bad, bad)
    end = find(nvrim.good_rim()).expires
    not_found(Reason.RIM_EXPIRED, nvrim.good_rim(), now=end + 1)
    admitted = frozenset({digest(nvrim.good_rim())})
    assert find(nvrim.good_rim(), now=end + 1, pinned_expired=admitted).expired == end


def test_ids_are_those_of_the_service() -> None:
    """Names as NVIDIA's service has them, in upper case."""
    assert rim.driver_id("GH100", "550.90.07") == "NV_GPU_DRIVER_GH100_550.90.07"
    assert rim.driver_id("GB100", "575.32") == "NV_GPU_CC_DRIVER_GB100_575.32"
    assert rim.driver_id("GB100", "575.32", "gb202") == "NV_GPU_CC_DRIVER_GB202_575.32"
    assert (
        rim.vbios_id("g525", "0220", "886", "97.00.88.00.0f")
        == "NV_GPU_VBIOS_G525_0220_886_970088000F"
    )
    assert rim.switch_id("96.10.55.00.01") == "NV_SWITCH_BIOS_5612_0002_890_9610550001"


@given(st.text(max_size=150))
@settings(max_examples=100, deadline=None)
def test_ids_are_safe_in_paths(text: str) -> None:
    """What is no plain name is refused: ids go into URLs and file names."""
    try:
        name = rim.check_id(text)
    except VerifierError as error:
        assert error.reason is Reason.MALFORMED  # noqa: PT017 - both ends are right
        return
    assert re.fullmatch(r"[A-Z0-9][A-Z0-9_.]{0,127}", name)
    assert name == text.upper()


def test_a_name_is_held_against_the_document() -> None:
    """As much of a service's name as a document says must fit."""
    driver, vbios = check(nvrim.good_rim()), check(nvrim.good_rim("vbios"))
    assert rim.may_be(driver, "NV_GPU_DRIVER_GH100_590.12")
    assert rim.may_be(driver, "NV_GPU_CC_DRIVER_GH100_590.12")
    assert not rim.may_be(driver, "NV_GPU_DRIVER_GH100_590.13")
    assert rim.may_be(vbios, "NV_GPU_VBIOS_G520_0200_885_9600A50001")
    assert not rim.may_be(vbios, "NV_GPU_VBIOS_G520_0200_885_9600A50002")
    assert not rim.may_be(vbios, driver.id)


@given(st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_refused_by_name(raw: bytes) -> None:
    """Nothing but our error leaves the reader, and rubbish is about nothing."""
    with pytest.raises(VerifierError):
        check(raw)
    assert not rim.is_about(raw, "driver", "GH100", nvrim.DRIVER)


def accepted(raw: bytes) -> Any:
    try:
        found = check(raw)
    except VerifierError:
        return None
    return (found.kind, found.id, found.version, dict(found.golden), found.issued)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_flipped_bit_never_gives_another_meaning(data: st.DataObject) -> None:
    """One bit anywhere, certificates included: refused, or the same values and dates."""
    raw = bytearray(nvrim.good_rim())
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8
    assert accepted(bytes(raw)) in (None, accepted(nvrim.good_rim()))


def real_rims() -> list[str]:
    found = [*nvrim.REAL.glob("*/*/*.xml"), *nvrim.REAL.glob("*/*/*.swidtag")]
    return sorted(str(path.relative_to(nvrim.REAL)) for path in found)


BAD = {"driver_mismatch_badsig.xml", "incorrect_signature_driver_rim.xml"}


@real
@pytest.mark.parametrize("name", real_rims())
def test_every_real_rim_gives_what_its_case_says(name: str) -> None:
    """In its signer's time each RIM of the corpus holds, but the two with bad signatures."""
    raw = nvrim.real(name)
    bad = name.rsplit("/", maxsplit=1)[1] in BAD
    if bad:
        refused(raw, Reason.COLLATERAL_SIGNATURE, now=MARCH_2026, anchors=PINNED)
        return
    found, _ = rim.read(raw)
    at = found.issued + 1
    held = check(raw, now=at, anchors=PINNED)
    assert not held.simulated
    active = [index for index, golden in held.golden.items() if golden.active]
    expected = {
        "driver": [7, *range(21, 41)],
        "vbios": [*range(7), *range(8, 13)],
        "switch": [*range(31)],
    }
    assert active == expected[held.kind]
    assert held.claims()["signer_expired"] is False
    refused(raw, Reason.RIM_EXPIRED, now=held.expires + 1, anchors=PINNED)
    pinned = frozenset({digest(raw)})
    late = check(raw, now=held.expires + 1, anchors=PINNED, pinned_expired=pinned)
    assert late.expired == held.expires


@real
def test_the_real_driver_rim_has_ended_today() -> None:
    """The 550.90.07 driver's RIM is good in March 2026 and refused in November."""
    raw = nvrim.real(DRIVER)
    assert check(raw, now=MARCH_2026, anchors=PINNED).id == "NV_GPU_DRIVER_GH100_550.90.07"
    refused(raw, Reason.RIM_EXPIRED, now=NOVEMBER_2026, anchors=PINNED)
    assert check(nvrim.real(VBIOS), now=NOVEMBER_2026, anchors=PINNED).kind == "vbios"


@real
def test_the_two_real_versions_of_one_id() -> None:
    """NVIDIA signed 96.00.5E.00.01 twice: they differ at index 9, and the later one counts."""
    folder = "hopper/h100-535.86.09-rim-mismatch/"
    old, new = (
        nvrim.real(folder + name)
        for name in ("vbios_PROD_2023.swidtag.xml", "vbios_mismatch_signed.xml")
    )
    wanted: Any = ("vbios", "GH100", "96.00.5E.00.01")
    at: Any = {"now": 1_735_689_600, "anchors": PINNED}
    one, other = (rim.find((raw,), *wanted, **at) for raw in (old, new))
    assert (one.tag_id, one.version, one.id) == (other.tag_id, other.version, other.id)
    assert [i for i in one.golden if one.golden[i] != other.golden[i]] == [9]
    assert rim.find((new, old), *wanted, **at).sha256 == digest(new)
    pins = frozenset({digest(old)})
    assert rim.find((new, old), *wanted, **at, pins=pins).sha256 == digest(old)


@real
def test_bits_of_a_real_rims_certificates() -> None:
    """A sample of flipped bits over a whole real RIM: none gives another meaning."""
    raw = nvrim.real(DRIVER)

    def meaning(text: bytes) -> Any:
        try:
            found = check(text, now=MARCH_2026, anchors=PINNED)
        except VerifierError:
            return None
        return (found.id, dict(found.golden), found.issued, found.expires)

    good = meaning(raw)
    for bit in range(3, 8 * len(raw), 1259):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        assert meaning(bytes(flipped)) in (None, good)
