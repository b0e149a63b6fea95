"""Reports parse exactly or not at all, and print back what was parsed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.snp import reason_of, splice
from verifier.errors import Reason, VerifierError
from verifier.snp.claims import decode_policy, platform_info_bits, report_claims
from verifier.snp.report import KEY_NONE, KEY_VCEK, KEY_VLEK, REPORT_SIZE, VERSIONS, SnpReport

U8 = st.integers(0, 2**8 - 1)
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
SCALAR = st.integers(0, 2**384 - 1)
FIRMWARE = st.tuples(U8, U8, U8)


def octets(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


@st.composite
def reports(draw: st.DrawFn) -> SnpReport:
    """Draw any report that is well formed."""
    version = draw(st.sampled_from(VERSIONS))
    cpuid = [draw(U8) if version >= 3 else 0 for _ in range(3)]
    vectors = [draw(U64) if version >= 5 else 0 for _ in range(2)]
    key = draw(st.sampled_from([KEY_VCEK, KEY_VLEK, KEY_NONE]))
    return SnpReport(
        version=version,
        guest_svn=draw(U32),
        policy=draw(U64),
        family_id=draw(octets(16)),
        image_id=draw(octets(16)),
        vmpl=draw(U32),
        current_tcb=draw(octets(8)),
        platform_info=draw(U64),
        signer_info=draw(st.integers(0, 3)) | key << 2,
        report_data=draw(octets(64)),
        measurement=draw(octets(48)),
        host_data=draw(octets(32)),
        id_key_digest=draw(octets(48)),
        author_key_digest=draw(octets(48)),
        report_id=draw(octets(32)),
        report_id_ma=draw(octets(32)),
        reported_tcb=draw(octets(8)),
        cpuid_fam=cpuid[0],
        cpuid_mod=cpuid[1],
        cpuid_step=cpuid[2],
        chip_id=draw(octets(64)),
        committed_tcb=draw(octets(8)),
        current_version=draw(FIRMWARE),
        committed_version=draw(FIRMWARE),
        launch_tcb=draw(octets(8)),
        launch_mit_vector=vectors[0],
        current_mit_vector=vectors[1],
        signature_r=draw(SCALAR),
        signature_s=draw(SCALAR),
    )


def blank(version: int) -> bytes:
    """Return the plainest report of a version: everything that may be zero is zero."""
    return splice(splice(bytes(REPORT_SIZE), 0, bytes([version])), 0x34, b"\x01")


@given(report=reports())
@settings(max_examples=60, deadline=None)
def test_round_trip(report: SnpReport) -> None:
    """Print then parse gives the same report, and parse then print the same bytes."""
    raw = report.to_bytes()

    assert len(raw) == REPORT_SIZE
    assert SnpReport.parse(raw) == report
    assert SnpReport.parse(raw).to_bytes() == raw


@given(raw=st.binary(max_size=64) | octets(REPORT_SIZE))
@settings(max_examples=60, deadline=None)
def test_arbitrary_bytes(raw: bytes) -> None:
    """Anything at all is a report that prints back, or our error."""
    try:
        report = SnpReport.parse(raw)
    except VerifierError:
        return
    assert report.to_bytes() == raw


@given(report=reports(), offset=st.integers(0, REPORT_SIZE - 1), value=U8)
@settings(max_examples=200, deadline=None)
def test_edited_bytes(report: SnpReport, offset: int, value: int) -> None:
    """A byte put into a good report is either seen by the parser or refused, never ignored."""
    raw = splice(report.to_bytes(), offset, bytes([value]))
    try:
        parsed = SnpReport.parse(raw)
    except VerifierError:
        return
    assert parsed.to_bytes() == raw


RESERVED = {
    2: [(0x4C, 0x50), (0x188, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x1F8, 0x2A0)],
    3: [(0x4C, 0x50), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x1F8, 0x2A0)],
    4: [(0x4C, 0x50), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x1F8, 0x2A0)],
    5: [(0x4C, 0x50), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x208, 0x2A0)],
}
SIGNATURE_RESERVED = [(0x2A0 + 48, 0x2A0 + 72), (0x2E8 + 48, 0x2E8 + 72), (0x330, 0x4A0)]


@pytest.mark.parametrize("version", VERSIONS)
def test_must_be_zero(version: int) -> None:
    """Every reserved byte must be zero, and every other byte may be what it likes."""
    raw = blank(version)
    refused: set[tuple[int, Reason]] = set()
    for offset in range(REPORT_SIZE):
        try:
            SnpReport.parse(splice(raw, offset, bytes([raw[offset] ^ 0x80])))
        except VerifierError as error:
            refused.add((offset, error.reason))

    reserved = {
        offset
        for first, end in RESERVED[version] + SIGNATURE_RESERVED
        for offset in range(first, end)
    }
    # Version and algorithm have one good value; SIGNER_INFO uses five of its 32 bits.
    fixed = {*range(0x34, 0x38), *range(0x48, 0x4C)}
    assert refused == {(offset, Reason.MALFORMED) for offset in reserved | fixed} | {
        (offset, Reason.REPORT_VERSION_NOT_ALLOWED) for offset in range(4)
    }


@pytest.mark.parametrize("version", [0, 1, 6, 7, 0x80000002, 0xFFFFFFFF])
def test_unknown_version(version: int) -> None:
    """A report whose layout is not known is refused by its version."""
    with pytest.raises(VerifierError) as raised:
        SnpReport.parse(splice(blank(3), 0, version.to_bytes(4, "little")))

    assert reason_of(raised) is Reason.REPORT_VERSION_NOT_ALLOWED


@pytest.mark.parametrize("algorithm", [0, 2, 0x101])
def test_unknown_algorithm(algorithm: int) -> None:
    """Only ECDSA P-384 with SHA-384 is known."""
    with pytest.raises(VerifierError) as raised:
        SnpReport.parse(splice(blank(3), 0x34, algorithm.to_bytes(4, "little")))

    assert reason_of(raised) is Reason.MALFORMED


@pytest.mark.parametrize("key", range(8))
def test_signing_key(key: int) -> None:
    """SIGNING_KEY 0, 1 and 7 have names; the others are reserved and refused."""
    raw = splice(blank(3), 0x48, bytes([key << 2]))
    names = {0: "VCEK", 1: "VLEK", 7: "none"}

    if key in names:
        assert SnpReport.parse(raw).signing_key_name == names[key]
    else:
        with pytest.raises(VerifierError, match="reserved"):
            SnpReport.parse(raw)


def test_signer_info_flags() -> None:
    """SIGNER_INFO's two flags are read from their own bits."""
    author = SnpReport.parse(splice(blank(3), 0x48, b"\x01"))
    mask = SnpReport.parse(splice(blank(3), 0x48, b"\x02"))

    assert (author.author_key_en, author.mask_chip_key) == (True, False)
    assert (mask.author_key_en, mask.mask_chip_key) == (False, True)


def test_policy_bits() -> None:
    """Each GUEST_POLICY bit has its own name, in the manual's order."""
    names = list(decode_policy(0))

    assert decode_policy(0x1F_37)["abi_major"] == 0x1F
    assert decode_policy(0x1F_37)["abi_minor"] == 0x37
    for index, name in enumerate(names[2:], 16):
        assert {n for n, value in decode_policy(1 << index).items() if value} == {name}


def test_platform_info_bits() -> None:
    """All 64 bits of PLATFORM_INFO are shown, those without a name by number."""
    names = list(platform_info_bits(2**64 - 1))

    assert len(set(names)) == 64
    assert names[5] == "alias_check_complete"
    assert names[6] == "reserved_6"
    assert names[63] == "reserved_63"


def test_claims_show_versions() -> None:
    """Firmware versions print as major.minor.build, whatever their order in the report."""
    raw = splice(splice(blank(5), 0x1E8, bytes([65, 55, 1])), 0x1EC, bytes([40, 54, 2]))

    claims = report_claims(SnpReport.parse(splice(raw, 0x200, b"\x3f")))

    assert (claims["cur_ver"], claims["com_ver"]) == ("1.55.65", "2.54.40")
    assert claims["current_mit_vector"] == "0x3f"
    assert claims["rsvd_1f8_2a0_zero"] is False
