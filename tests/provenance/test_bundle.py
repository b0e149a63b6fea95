"""Sigstore bundles: genuine ones say who signed what; every forged one is refused."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import sys

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.vendors import NOW
from verifier.cache import Cache
from verifier.errors import Reason, VerifierError

if importlib.util.find_spec("sigstore") is None:
    pytest.skip("extra `provenance` is not installed", allow_module_level=True)

from tests.kit import sigstore as kit
from verifier.provenance import bundle
from verifier.provenance.signed import MAX_BUNDLE, MAX_ROOT, Signed

DIGEST = hashlib.sha256(b"a unified kernel image").digest()
MEASUREMENT = hashlib.sha384(b"a launch").digest()


@pytest.fixture(scope="module")
def house():
    return kit.instance()


@pytest.fixture(scope="module")
def plain(house):
    return house.sign(DIGEST)


@pytest.fixture(scope="module")
def attested(house):
    return house.attest(kit.statement({"sha384": MEASUREMENT.hex(), "gitCommit": "00"}))


def refusal(raw, root, now=NOW):
    with pytest.raises(VerifierError) as caught:
        bundle.verify(raw, root, now=now)
    return caught.value.reason, str(caught.value)


def test_a_plain_signature(house, plain):
    """A signature over an artefact proves its SHA-256, the signer, the source and the time."""
    expected = Signed(
        identity=kit.IDENTITY,
        issuer=kit.ISSUER,
        repository=kit.REPOSITORY,
        ref=kit.REF,
        predicate_type=None,
        digests=frozenset({("sha256", DIGEST)}),
        times=(kit.SIGNED,),
    )

    assert expected == bundle.verify(kit.raw(plain), house.trusted_root(), now=NOW)


def test_a_statement(house, attested):
    """An in-toto statement proves its subjects' digests, each by its hash, and its type."""
    signed = bundle.verify(kit.raw(attested), house.trusted_root(), now=NOW)

    assert frozenset({("sha384", MEASUREMENT)}) == signed.digests
    assert signed.predicate_type == kit.PREDICATE


def test_a_timestamp_in_place_of_the_logs_promise(house):
    """A timestamp authority of the trusted root vouches for the time as well as the log does."""
    made = house.sign(DIGEST, promise=False, stamped=kit.SIGNED)

    signed = bundle.verify(kit.raw(made), house.trusted_root(), now=NOW)

    assert signed.times == (kit.SIGNED,)


@pytest.mark.parametrize(
    "name",
    [
        x509.RFC822Name("release@example.org"),
        x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.7"), kit.utf8("jane")),
    ],
)
def test_people_and_user_names(house, name):
    """A person's certificate names an address or a user name, and no source."""
    signer = kit.Signer(names=(name,), extensions={8: None, 12: None, 14: None})

    signed = bundle.verify(kit.raw(house.sign(DIGEST, signer)), house.trusted_root(), now=NOW)

    assert signed.identity in {"release@example.org", "jane"}
    assert (signed.issuer, signed.repository, signed.ref) == (kit.ISSUER, None, None)


@pytest.mark.parametrize(
    ("signer", "told"),
    [
        ({"names": (x509.DNSName("example.org"),)}, "one name expected"),
        (
            {"names": (x509.RFC822Name("a@example.org"), x509.RFC822Name("b@example.org"))},
            "one name expected, 2 seen",
        ),
        (
            {"names": (x509.OtherName(x509.ObjectIdentifier("1.2.3"), kit.utf8("jane")),)},
            "one name expected",
        ),
        ({"extensions": {1: None, 8: None}}, "one issuer expected, 0 seen"),
        ({"extensions": {1: b"https://other.example"}}, "one issuer expected, 2 seen"),
        ({"extensions": {8: b"no DER"}}, "certificate: "),
        ({"extensions": {12: b"\x0c\x01\xff"}}, "certificate: "),
        ({"extensions": {14: kit.utf8("x") + b"\0"}}, "certificate: "),
    ],
)
def test_certificates_that_do_not_say_who(house, signer, told):
    """A certificate with another than one name, one issuer and readable sources is refused."""
    made = house.sign(DIGEST, kit.Signer(**signer))

    reason, text = refusal(kit.raw(made), house.trusted_root())

    assert Reason.PROVENANCE_INVALID is reason
    assert told in text


FLIPPED = kit.b64(bytes(64))
MATERIAL = "verificationMaterial"
ENTRY = f"{MATERIAL}.tlogEntries.0"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("mediaType", "application/vnd.dev.sigstore.bundle+json;version=9"),
        ("messageSignature.signature", FLIPPED),
        ("messageSignature.messageDigest.digest", kit.b64(bytes(32))),
        ("messageSignature.messageDigest.algorithm", "SHA2_512"),
        ("messageSignature.messageDigest", ...),
        ("messageSignature", ...),
        (f"{MATERIAL}.certificate", ...),
        (f"{MATERIAL}.certificate.rawBytes", kit.b64(b"\x30\x00")),
        (f"{MATERIAL}.tlogEntries", []),
        (f"{ENTRY}.integratedTime", str(kit.SIGNED + 1)),
        (f"{ENTRY}.integratedTime", str(NOW + 1)),
        (f"{ENTRY}.integratedTime", ...),
        (f"{ENTRY}.integratedTime", "-1"),
        (f"{ENTRY}.inclusionPromise", ...),
        (f"{ENTRY}.inclusionPromise.signedEntryTimestamp", FLIPPED),
        (f"{ENTRY}.inclusionProof", ...),
        (f"{ENTRY}.inclusionProof.checkpoint", ...),
        (f"{ENTRY}.inclusionProof.rootHash", kit.b64(bytes(32))),
        (f"{ENTRY}.inclusionProof.hashes.0", kit.b64(bytes(32))),
        (f"{ENTRY}.inclusionProof.checkpoint.envelope", "example\n2\nAAAA\n\n— example AAAA\n"),
        (f"{ENTRY}.kindVersion.kind", "dsse"),
        (f"{ENTRY}.kindVersion.version", "0.0.9"),
        (f"{ENTRY}.canonicalizedBody", kit.b64(b"{}")),
        (f"{ENTRY}.logId.keyId", kit.b64(bytes(32))),
    ],
)
def test_tampered_bundles(house, plain, path, value):
    """Whatever is changed or taken away, the bundle is refused."""
    reason, _ = refusal(kit.changed(plain, path, value), house.trusted_root())

    assert Reason.PROVENANCE_INVALID is reason


def test_another_bundles_parts(house, plain, attested):
    """Certificate, log entry and signature of different bundles do not make one."""
    other = house.sign(DIGEST, kit.Signer(repository="https://github.com/evil/guest-image"))
    root = house.trusted_root()
    for path in (MATERIAL, f"{MATERIAL}.certificate", ENTRY, "messageSignature"):
        value = other
        for each in path.split("."):
            value = value[int(each) if each.isdigit() else each]

        assert Reason.PROVENANCE_INVALID is refusal(kit.changed(plain, path, value), root)[0]
    moved = kit.changed(plain, MATERIAL, attested[MATERIAL])
    assert Reason.PROVENANCE_INVALID is refusal(moved, root)[0]


def test_a_changed_statement(house, attested):
    """A statement that was changed after it was signed is refused."""
    payload = kit.b64(json.dumps(kit.statement({"sha384": "00" * 48})).encode())

    reason, _ = refusal(
        kit.changed(attested, "dsseEnvelope.payload", payload), house.trusted_root()
    )

    assert Reason.PROVENANCE_INVALID is reason


@pytest.mark.parametrize(
    "options",
    [
        {"logged": kit.SIGNED + kit.LIFETIME},
        {"logged": kit.SIGNED - 3600},
        {"promise": False},
        {"promise": False, "stamped": kit.SIGNED + kit.LIFETIME},
        {"stamped": kit.SIGNED + kit.LIFETIME},
        {"promise": False, "stamped": NOW + 1},
    ],
)
def test_expired_certificates(house, options):
    """A certificate counts only at a vouched-for time within its ten minutes."""
    reason, _ = refusal(kit.raw(house.sign(DIGEST, **options)), house.trusted_root())

    assert Reason.PROVENANCE_INVALID is reason


def test_signed_later_than_now(house, plain):
    """A bundle from the future is refused, whatever the machine's clock says."""
    reason, text = refusal(kit.raw(plain), house.trusted_root(), now=kit.SIGNED - 1)

    assert (reason, "later than now" in text) == (Reason.PROVENANCE_INVALID, True)


@pytest.mark.parametrize("name", ["tlogs", "ctlogs", "certificateAuthorities"])
def test_retired_keys(house, plain, name):
    """A key of the trusted root counts for the time that it was valid, and no longer."""
    still = house.trusted_root(**{name: kit.SIGNED})
    retired = house.trusted_root(**{name: kit.SIGNED - 1})

    assert bundle.verify(kit.raw(plain), still, now=NOW).times
    assert refusal(kit.raw(plain), retired)[0] in {
        Reason.PROVENANCE_INVALID,
        Reason.PROVENANCE_ROOT,
    }


def test_a_retired_timestamp_authority(house):
    """So does a timestamp authority."""
    made = kit.raw(house.sign(DIGEST, promise=False, stamped=kit.SIGNED))

    reason, _ = refusal(made, house.trusted_root(timestampAuthorities=kit.SIGNED - 1))

    assert Reason.PROVENANCE_INVALID is reason


def test_another_sigstore(plain):
    """A bundle of another instance is refused, though that instance is called the same."""
    reason, _ = refusal(kit.raw(plain), kit.instance("impostor").trusted_root())

    assert Reason.PROVENANCE_INVALID is reason


def test_kinds_of_payload(house):
    """Only in-toto statements are read."""
    made = house.attest(kit.statement({"sha256": "00" * 32}), kind="text/plain")

    assert Reason.PROVENANCE_INVALID is refusal(kit.raw(made), house.trusted_root())[0]


@pytest.mark.parametrize(
    "payload",
    [
        b"no JSON",
        b'{"_type":1,"_type":2}',
        b"[]",
        kit.statement({"sha256": "00" * 32}, _type="https://in-toto.io/Statement/v9"),
        kit.statement({"sha256": "00" * 32}, predicate=""),
        kit.statement({"sha256": "00" * 32}, subject={}),
        kit.statement({"sha256": "00" * 32}, subject=[1]),
        kit.statement({"sha256": "00" * 32}, subject=[{"name": "x"}]),
        kit.statement({"gitCommit": "00"}),
        kit.statement({"sha256": "00" * 31}),
        kit.statement({"sha256": "0G" * 32}),
        kit.statement({"sha256": "AB" * 32}),
        kit.statement({}, subject=[{"digest": {"sha256": 1}}]),
        b"[" * 100_000,
    ],
)
def test_statements_that_say_nothing(house, payload):
    """A genuine bundle about something that is no statement proves nothing."""
    reason, _ = refusal(kit.raw(house.attest(payload)), house.trusted_root())

    assert Reason.PROVENANCE_INVALID is reason


@pytest.mark.parametrize(
    "root",
    [
        b"",
        b"[]",
        b"{}",
        b" " * (MAX_ROOT + 1),
        b'{"tlogs": [{}]}',
        b'{"tlogs": [{"publicKey": {"validFor": {"start": "when"}}}]}',
        b'{"mediaType": "text/plain"}',
        b"[" * 100_000,
    ],
)
def test_trusted_roots_that_cannot_be_read(plain, root):
    """What is no trusted root is refused as that."""
    assert Reason.PROVENANCE_ROOT is refusal(kit.raw(plain), root)[0]


def test_too_large(house):
    """A bundle beyond the limit is not even read."""
    reason, text = refusal(b" " * (MAX_BUNDLE + 1), house.trusted_root())

    assert (reason, "limit" in text) == (Reason.PROVENANCE_INVALID, True)


def test_too_many_times(house):
    """A bundle with more timestamps than anybody needs is refused."""
    made = house.sign(DIGEST, stamped=kit.SIGNED)
    stamps = made[MATERIAL]["timestampVerificationData"]["rfc3161Timestamps"] * 9

    raw = kit.changed(made, f"{MATERIAL}.timestampVerificationData.rfc3161Timestamps", stamps)

    assert Reason.PROVENANCE_INVALID is refusal(raw, house.trusted_root())[0]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_bytes(data):
    """Cutting a bundle, or changing a byte of it, raises nothing but our own error."""
    house = kit.instance()
    raw = bytearray(kit.raw(_good()))
    at = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        del raw[at:]
    else:
        raw[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        signed = bundle.verify(bytes(raw), house.trusted_root(), now=NOW)
    except VerifierError as error:
        assert error.reason is Reason.PROVENANCE_INVALID  # noqa: PT017 - both outcomes are fine
    else:
        assert frozenset({("sha256", DIGEST)}) == signed.digests


@functools.cache
def _good():
    return kit.instance().sign(DIGEST)


def test_without_the_extra_it_says_so(house, plain, monkeypatch):
    """Without `sigstore` installed a bundle is refused, and the extra is named."""
    monkeypatch.setitem(sys.modules, "sigstore.models", None)

    reason, text = refusal(kit.raw(plain), house.trusted_root())

    assert Reason.PROVENANCE_UNAVAILABLE is reason
    assert "ostiary[provenance]" in text


def test_a_bundle_is_verified_once(house, plain, monkeypatch):
    """What was verified is remembered for these bytes under this root, and judged by each now."""
    cache, raw, root = Cache(), kit.raw(plain), house.trusted_root()
    signed = bundle.verify(raw, root, now=NOW, cache=cache)
    with pytest.raises(VerifierError, match="later than now"):
        bundle.verify(raw, root, now=kit.SIGNED - 1, cache=cache)
    with pytest.raises(VerifierError):
        bundle.verify(raw, kit.Instance.create().trusted_root(), now=NOW, cache=cache)
    with pytest.raises(VerifierError):
        bundle.verify(
            kit.changed(plain, "messageSignature.signature", "AA=="), root, now=NOW, cache=cache
        )
    assert len(cache) == 1
    assert bundle.available()
    monkeypatch.setitem(sys.modules, "sigstore.models", None)
    assert not bundle.available()
    assert bundle.verify(raw, root, now=NOW, cache=cache) is signed
