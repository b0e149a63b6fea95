"""NVIDIA's collateral: asked for once, kept as signed, carried in bundles, handed on whole."""

from __future__ import annotations

import base64
import hashlib
import json
from itertools import pairwise
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary.simulator import certificates
from ostiary.simulator.nvidia import devices
from ostiary.simulator.nvidia.devices import DeviceSet
from ostiary.simulator.nvidia.pki import FakeNvidia, Role
from ostiary.simulator.services import Reply
from tests.kit import nvrim
from tests.kit.corpus import ABSENT
from tests.kit.nvrim import Place, Rules
from tests.kit.vendors import NOW
from verifier import dsse
from verifier.anchors import PINNED
from verifier.collateral import bundle, gpus, nvidia, parts
from verifier.collateral.gpus import FoundGpus
from verifier.collateral.parts import Name, Part
from verifier.collateral.vet import vet
from verifier.collateral.vet_nvidia import ocsp_digest, spki_digest
from verifier.collateral.web import Budget
from verifier.errors import Reason, VerifierError
from verifier.nvgpu import needs as nvgpu_needs
from verifier.nvgpu import revocation, rim
from verifier.nvgpu.device import DeviceEvidence, DeviceKind
from verifier.nvgpu.needs import Needs
from verifier.result import Appraisal, Verdict

real = pytest.mark.skipif(not nvrim.REAL.is_dir(), reason=ABSENT)
DRIVER_ID = "NV_GPU_DRIVER_GH100_590.12"
ICA_CHAIN = tuple(map(nvrim.certificate, ("gh100_ica", "identity", "device_root")))


def evidence(whole: DeviceSet) -> list[DeviceEvidence]:
    return [
        DeviceEvidence(DeviceKind(each.kind), each.report(nvrim.NONCE), each.chain)
        for each in whole.devices
    ]


def needs(count: int = 1, mode: Any = None) -> Needs:
    whole = devices.device_set(nvrim.vendor(), count, mode)
    return nvgpu_needs.read(evidence(whole), now=NOW, anchors=nvrim.anchors())


def gathered(place: Place, wanted: Needs, **options: Any) -> FoundGpus:
    revoked = options.pop("revocation", True)
    return place.run(lambda stored: gpus.gather(stored, wanted, revocation=revoked), **options)


def refused(reason: Reason, call: Any, match: str | None = None) -> None:
    with pytest.raises(VerifierError, match=match) as caught:
        call()
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("count", "mode", "ocsp", "rims"),
    [(1, "spt", 6, 2), (8, "mpt", 13, 2), (8, "ppcie", 21, 3)],
)
def test_each_thing_is_asked_for_once(
    place: Place, count: int, mode: str, ocsp: int, rims: int
) -> None:
    """However many devices need it: 8 GPUs take 13 OCSP answers, and would take 16 at most."""
    found = gathered(place, needs(count, mode))
    assert (len(found.endorsements.rims), len(found.endorsements.ocsp)) == (rims, ocsp)
    assert place.ocsp == ocsp
    assert [n for path, n in place.server.asked.items() if path.startswith("/v1/rim/")] == [
        1
    ] * rims
    if mode == "mpt":
        assert place.ocsp <= 16
    assert len(found.parts) == rims + ocsp
    assert found.digest == hashlib.sha256(found.raw).digest()


def test_an_hgx_board_with_all_signers_apart_takes_sixteen_answers() -> None:
    """8 BROM, ICA and identity, and 3 signers of each of two RIMs: 16 questions and no more."""
    driver = rim.read(nvrim.good_rim())[0].certificates
    other = FakeNvidia.create(NOW)
    vbios = rim.read(nvrim.text_rim("vbios", fake=other))[0].certificates
    asked = gpus.subjects((*needs(8, "mpt").chains, driver, vbios))
    assert len(asked) == 16
    assert len(gpus.subjects((*needs(8, "mpt").chains, driver, driver))) == 13


def test_what_was_found_judges_the_set(place: Place) -> None:
    """What comes back says of each certificate that it is good."""
    wanted = needs(2)
    found = gathered(place, wanted)
    appraisal = Appraisal("gpu")
    for chain in wanted.chains:
        pairs = list(pairwise(chain))
        revocation.judge(appraisal, "revocation", pairs, found.endorsements, Rules(), now=NOW)
    assert appraisal.result().verdict is Verdict.ACCEPT
    held = rim.find(
        found.endorsements.rims,
        "driver",
        "GH100",
        devices.DRIVER,
        now=NOW,
        anchors=nvrim.anchors(),
    )
    assert held.id == DRIVER_ID


def test_what_is_kept_is_not_asked_for_again(place: Place) -> None:
    """A second time nothing is asked; at a site that is cut off the store is enough."""
    wanted = needs(2)
    first = gathered(place, wanted)
    before = sum(place.server.asked.values())
    again = gathered(place, wanted)
    assert again.endorsements == first.endorsements
    assert gathered(place, wanted, fetch=False).digest == first.digest
    assert sum(place.server.asked.values()) == before


def test_answers_are_asked_for_again_once_they_end(place: Place) -> None:
    """An OCSP answer lives for a day, and in the next second it is asked for anew."""
    wanted = needs()
    gathered(place, wanted)
    place.clock.now = NOW - 3600 + nvrim.DAY - 1
    gathered(place, wanted)
    assert place.ocsp == 6
    place.clock.now += 1
    gathered(place, wanted)
    assert place.ocsp == 12


def test_a_revocation_is_kept_and_handed_on(place: Place) -> None:
    """What a responder says of a certificate is the appraisal's to judge."""
    serial = nvrim.vendor().serial("gh100_ica")
    place.known.responder.statuses[serial] = "revoked"
    found = gathered(place, needs())
    appraisal = Appraisal("gpu")
    revocation.judge(
        appraisal, "r", [nvrim.pair("gh100_ica")], found.endorsements, Rules(), now=NOW
    )
    assert appraisal.result().reasons == (Reason.CERTIFICATE_REVOKED,)


def test_what_nobody_has_is_left_out(place: Place) -> None:
    """A RIM that the service lacks, or an empty store, is left to the appraisal to miss."""
    place.known.rims.pop(DRIVER_ID)
    found = gathered(place, needs())
    assert len(found.endorsements.rims) == 1
    empty = gathered(place, Needs(("NV_GPU_DRIVER_GH100_1.1",), ()), fetch=False)
    assert empty.endorsements.rims == ()


def test_without_revocation_nobody_is_asked(place: Place) -> None:
    """A caller that judges no revocation takes RIMs only."""
    found = gathered(place, needs(), revocation=False)
    assert (len(found.endorsements.rims), place.ocsp) == (2, 0)


def test_a_list_stands_in_for_ca_levels(place: Place) -> None:
    """Where OCSP does not answer, CAs are covered by lists; a device is not."""
    place.server.fail("/v1", Reply(503))
    chain = ICA_CHAIN
    gathered(place, Needs((), (chain,)))
    place.server.heal()
    place.folder = place.folder.with_name("other")
    place.known.responder.statuses.clear()
    broken = Reply(200, b"x", {"Content-Type": "text/html"})
    place.server.faults = [("/?", 1, broken)]
    place.server.vendors.nvidia = _without_ocsp(place)
    found = gathered(place, Needs((), (chain,)))
    assert (len(found.endorsements.ocsp), len(found.endorsements.crls)) == (0, 2)
    brom = needs().chains[0]
    refused(Reason.COLLATERAL_UNAVAILABLE, lambda: gathered(place, Needs((), (brom,))))
    place.server.fail("/crl/", Reply(503))
    place.folder = place.folder.with_name("third")
    refused(Reason.COLLATERAL_UNAVAILABLE, lambda: gathered(place, Needs((), (chain,))))


def _without_ocsp(place: Place) -> Any:
    """Return the same services, whose responder is out of order."""

    class Silent:
        def get(self, path: str) -> Any:
            return place.known.get(path)

        def post(self, path: str, body: bytes) -> Any:
            assert (path, bool(body)) == ("/", True)
            return "application/ocsp-response", bytes.fromhex("30030a0103")

    return Silent()


def test_a_device_of_another_root_asks_nobody(place: Place) -> None:
    """Before anybody is asked, a device's chain must end in a pinned root, every link signed."""
    stranger = FakeNvidia.create(NOW)
    whole = devices.device_set(stranger, 1)
    refused(
        Reason.ROOT_UNKNOWN,
        lambda: nvgpu_needs.read(evidence(whole), now=NOW, anchors=nvrim.anchors()),
        "not pinned",
    )
    theirs = PINNED.with_simulated(nvidia_device=[stranger.device_root_pin])
    chain = nvgpu_needs.read(evidence(whole), now=NOW, anchors=theirs).chains
    refused(Reason.ROOT_UNKNOWN, lambda: gathered(place, Needs((), chain)))
    bent = (ICA_CHAIN[0], *ICA_CHAIN)
    refused(Reason.CHAIN_INVALID, lambda: gathered(place, Needs((), (bent,))))
    refused(Reason.CHAIN_INVALID, lambda: gathered(place, Needs((), (ICA_CHAIN[:1],))))
    assert not place.server.asked


def rim_part(place: Place, **options: Any) -> Part:
    return place.run(lambda stored: stored.part(parts.nv_rim(DRIVER_ID)), **options)


def test_a_rim_whose_signer_has_ended_is_handed_on(place: Place) -> None:
    """The store keeps it, asks again from time to time, and leaves the judgement to policy."""
    path = f"/v1/rim/{DRIVER_ID}"
    part = rim_part(place)
    end = part.windows.end
    assert rim.read(part.body)[0].issued == part.issued
    place.clock.now = end + 1
    assert rim_part(place).body == part.body
    assert place.server.asked[path] == 2  # NVIDIA may have signed it anew
    place.clock.now += 3600
    rim_part(place)
    assert place.server.asked[path] == 2
    place.clock.now += 1
    place.server.fail("/v1/rim/", Reply(503))
    assert rim_part(place).body == part.body
    assert rim_part(place, fetch=False).body == part.body
    refused(Reason.COLLATERAL_EXPIRED, lambda: rim_part(place, force=True))
    held = place.store.get(part.name)
    assert held is not None
    assert not held.is_current(place.clock.now)
    assert held.may_serve(place.clock.now)
    refused(Reason.CERTIFICATE_INVALID, lambda: held.check(NOW - 400 * nvrim.DAY))


def test_a_rim_that_is_signed_anew_takes_its_place(place: Place) -> None:
    """The newest issue is kept, and never stepped back from."""
    old = rim_part(place)
    start = NOW + 10 * nvrim.DAY
    fake = nvrim.vendor().reissue(
        "gh100_rim_l4", not_before=start, not_after=start + 700 * nvrim.DAY
    )
    place.known.rims[DRIVER_ID] = nvrim.text_rim(fake=fake, salt="b")
    place.clock.now = start + 1
    new = rim_part(place, force=True)
    assert new.body != old.body
    place.known.rims[DRIVER_ID] = old.body
    refused(Reason.COLLATERAL_UNAVAILABLE, lambda: rim_part(place, force=True), "too_old")
    kept = place.store.get(new.name)
    assert kept is not None
    assert kept.body == new.body


def test_a_service_that_gives_something_else_is_refused(place: Place) -> None:
    """Another SHA-256, a document about something else, another's signature: none is kept."""
    place.known.wrong_digest = True
    refused(Reason.COLLATERAL_UNAVAILABLE, lambda: rim_part(place), "sha256 of other bytes")
    place.known.wrong_digest = False
    for document, why in (
        (nvrim.good_rim("vbios"), "it is about NV_GPU_VBIOS"),
        (nvrim.text_rim(version="590.13"), "590.13"),
        (nvrim.text_rim(fake=FakeNvidia.create(NOW)), "root_unknown"),
        (b"<a/>", "collateral_malformed"),
    ):
        place.known.rims[DRIVER_ID] = document
        refused(Reason.COLLATERAL_UNAVAILABLE, lambda: rim_part(place), why)
    assert place.store.get(parts.nv_rim(DRIVER_ID)) is None


def told(**changes: Any) -> bytes:
    raw = nvrim.good_rim()
    answer = {
        "id": DRIVER_ID,
        "rim": base64.b64encode(raw).decode(),
        "sha256": hashlib.sha256(raw).hexdigest().upper(),
    }
    return json.dumps({k: v for k, v in (answer | changes).items() if v is not None}).encode()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": "NV_GPU_DRIVER_GH100_590.13"}, Reason.COLLATERAL_MISMATCH),
        ({"id": None}, Reason.COLLATERAL_MISMATCH),
        ({"sha256": hashlib.sha256(b"").hexdigest()}, Reason.COLLATERAL_MISMATCH),
        ({"sha256": None}, Reason.COLLATERAL_MALFORMED),
        ({"rim": None}, Reason.COLLATERAL_MALFORMED),
        ({"rim": "*"}, Reason.COLLATERAL_MALFORMED),
        ({"rim": "\u00e9"}, Reason.COLLATERAL_MALFORMED),
    ],
)
def test_an_answer_is_about_what_was_asked(changes: dict[str, Any], reason: Reason) -> None:
    """Id and SHA-256 are those of the question and of the bytes."""
    assert nvidia.rim_of(told(), DRIVER_ID) == nvrim.good_rim()
    refused(reason, lambda: nvidia.rim_of(told(**changes), DRIVER_ID))


@given(st.binary(max_size=100))
@settings(max_examples=50, deadline=None)
def test_any_answer_is_refused_by_name(raw: bytes) -> None:
    """Nothing but our error leaves the reader of the service's answers."""
    with pytest.raises(VerifierError):
        nvidia.rim_of(raw, DRIVER_ID)


def ocsp_name(role: Role = "gh100_ica") -> Name:
    return parts.nv_ocsp(ocsp_digest(*nvrim.pair(role)))


def crl_name() -> Name:
    return parts.nv_crl(spki_digest(nvrim.certificate("identity")))


def checked(name: Name, body: bytes, chain: bytes) -> Part:
    return vet(name, body, chain, nvrim.anchors(), fetched=NOW)


def test_dates_of_a_part_are_those_in_it() -> None:
    """An answer's window is its own, its responder's and its chain's; a list's the same."""
    chain = nvrim.pem(*ICA_CHAIN)
    answer = checked(ocsp_name(), nvrim.answered("gh100_ica"), chain)
    assert (answer.issued, answer.windows.start) == (NOW - 3600, NOW - 3600)
    assert answer.windows.end == NOW - 3600 + nvrim.DAY - 1
    assert {window.what.rsplit(": ")[-1] for window in answer.windows.each} == {
        "answer",
        "responder",
        *(c.subject.rfc4514_string().split("CN=")[1].split(",")[0] for c in ICA_CHAIN),
    }
    crl = checked(crl_name(), nvrim.vendor().crl("identity", NOW), chain)
    assert (crl.number, crl.issued) == (1, NOW - nvrim.DAY)


def test_a_part_about_something_else_is_not_kept() -> None:
    """A name says which certificate an answer is about, and which key signed a list."""
    chain = nvrim.pem(*ICA_CHAIN)
    answer, crl = nvrim.answered("gh100_ica"), nvrim.vendor().crl("identity", NOW)
    mismatch = Reason.COLLATERAL_MISMATCH
    refused(mismatch, lambda: checked(ocsp_name("identity"), answer, chain))
    other = nvrim.answered("gh100_ica", serial=1)
    refused(mismatch, lambda: checked(ocsp_name(), other, chain))
    refused(
        mismatch,
        lambda: checked(ocsp_name(), nvrim.answered("gh100_ica", no_next_update=True), chain),
    )
    refused(mismatch, lambda: checked(parts.nv_crl(bytes(32)), crl, chain))
    refused(
        Reason.CRL_INVALID,
        lambda: checked(crl_name(), nvrim.vendor().crl("device_root", NOW), chain),
    )
    refused(Reason.REVOCATION_INVALID, lambda: checked(ocsp_name(), b"x", chain))
    refused(Reason.CHAIN_INVALID, lambda: checked(ocsp_name(), answer, nvrim.pem(ICA_CHAIN[0])))
    refused(
        Reason.ROOT_UNKNOWN,
        lambda: vet(ocsp_name(), answer, chain, PINNED, fetched=NOW),
    )
    refused(
        Reason.COLLATERAL_MALFORMED,
        lambda: checked(parts.nv_rim(DRIVER_ID), nvrim.good_rim(), chain),
        "own chain",
    )


def test_names_have_one_spelling() -> None:
    """Names are safe paths, and what is no name of NVIDIA's is refused."""
    for text in (
        f"nvidia/rim/{DRIVER_ID}",
        f"nvidia/ocsp/{bytes(32).hex()}",
        f"nvidia/crl/{bytes(32).hex()}",
    ):
        assert Name.parse(text).text == text
    for text in (
        "nvidia/rim/..",
        "nvidia/rim/a/b",
        "nvidia/rim/nv",
        "nvidia/ocsp/00",
        "nvidia/rim/",
    ):
        refused(Reason.MALFORMED, lambda text=text: Name.parse(text))


def test_an_answer_without_our_nonce_is_refused(place: Place) -> None:
    """An answer that anybody could have kept from before is not taken from the network."""

    class Replays:
        def get(self, path: str) -> Any:
            return place.known.get(path)

        def post(self, _path: str, _body: bytes) -> Any:
            return "application/ocsp-response", nvrim.answered("gh100_ica", nonce=b"n" * 32)

    replays: Any = Replays()
    place.server.vendors.nvidia = replays
    service_error = "does not carry the nonce"
    chain = nvrim.pem(*ICA_CHAIN)
    refused(
        Reason.COLLATERAL_UNAVAILABLE,
        lambda: place.run(lambda stored: stored.part(ocsp_name(), lambda: chain)),
        service_error,
    )


def test_a_question_without_an_issuer_is_not_asked(place: Place) -> None:
    """Whoever asks about a certificate has its issuer's, too."""
    for name in (ocsp_name(), crl_name()):
        refused(
            Reason.COLLATERAL_UNAVAILABLE,
            lambda name=name: place.run(
                lambda stored: stored.part(name, lambda: nvrim.pem(ICA_CHAIN[0]))
            ),
            "no issuer",
        )
    assert not place.server.asked


def test_a_list_is_where_the_certificate_says() -> None:
    """The path comes from the certificate, the host never."""
    assert nvidia.crl_path(ICA_CHAIN[0]) == "/crl/l2-gh100.crl"
    assert nvidia.crl_path(nvrim.certificate("gh100_rim_ca")) == "/crl-corim/l1-corim"
    refused(
        Reason.CRL_MISSING, lambda: nvidia.crl_path(nvrim.certificate("gh100_rim_l3")), "no CRL"
    )


def test_a_list_that_nobody_can_fetch_is_missing() -> None:
    """A distribution point without a path of HTTP names nothing that we ask for."""
    for text in ("urn:x", "ldap:"):
        fake = nvrim.vendor().reissue(
            "gh100_ica", extensions=(certificates.crl_distribution_point(text),)
        )
        certificate = x509.load_der_x509_certificate(fake.certificates["gh100_ica"])
        refused(Reason.CRL_MISSING, lambda c=certificate: nvidia.crl_path(c), "can be fetched")


def test_a_service_key_is_sent_and_never_told(place: Place) -> None:
    """NVIDIA's key for an operator goes into a header, and a bad one into no message."""
    assert nvidia.authorization("") == {}
    assert nvidia.authorization("abc") == {"authorization": "Bearer abc"}
    for bad in ("a b", "a\n", "\u00e9"):
        with pytest.raises(VerifierError) as caught:
            nvidia.authorization(bad)
        assert bad not in str(caught.value)
    assert rim_part(place, key="secret").name.text.endswith(DRIVER_ID)


def test_a_budget_bounds_what_is_asked(place: Place) -> None:
    """NVIDIA is sent so many questions and no more; the guest asks again later."""
    refused(
        Reason.COLLATERAL_UNAVAILABLE,
        lambda: gathered(place, needs(), budget=Budget(4, 0.001)),
        "budget",
    )
    assert sum(place.server.asked.values()) <= 4


def test_a_bundle_carries_everything(place: Place, tmp_path: Any) -> None:
    """RIMs, answers and lists cross an air gap under one signature, with their signed dates."""
    wanted = needs(2)
    first = gathered(place, wanted)
    key = Ed25519PrivateKey.generate()
    crl = checked(crl_name(), nvrim.vendor().crl("identity", NOW), nvrim.pem(*ICA_CHAIN))
    raw = bundle.write([*first.parts, crl], key, made=NOW)
    opened = bundle.opened(raw, [dsse.spki(key.public_key())])
    carried = bundle.parts_of(opened, nvrim.anchors(), now=NOW)
    place.folder = tmp_path / "site"
    bundle.take_in(place.store, carried)
    assert gathered(place, wanted, fetch=False).digest == first.digest
    refused(Reason.ROOT_UNKNOWN, lambda: bundle.parts_of(opened, PINNED, now=NOW))
    late = NOW + nvrim.DAY
    refused(Reason.COLLATERAL_EXPIRED, lambda: bundle.parts_of(opened, nvrim.anchors(), now=late))


def test_a_bundle_carries_a_rim_whose_signer_has_ended(place: Place) -> None:
    """A site's policy may admit this very document, so it can be brought there."""
    part = rim_part(place)
    key = Ed25519PrivateKey.generate()
    late = part.windows.end + 1
    raw = bundle.write([part], key, made=late)
    opened = bundle.opened(raw, [dsse.spki(key.public_key())])
    assert bundle.parts_of(opened, nvrim.anchors(), now=late)[0].body == part.body


@real
def test_a_real_rim_and_its_signers_are_parts() -> None:
    """A real RIM is kept under its id with its signed dates, and not under another's."""
    raw = nvrim.real("ls10/ls10-96.10.55-full/rim_signed_2026-05.xml")
    name = parts.nv_rim("NV_SWITCH_BIOS_5612_0002_890_9610550001")
    part = vet(name, raw, b"", PINNED, fetched=NOW)
    assert part.windows.end == 1_825_199_999
    other = parts.nv_rim("NV_SWITCH_BIOS_5612_0002_890_9610730001")
    refused(Reason.COLLATERAL_MISMATCH, lambda: vet(other, raw, b"", PINNED, fetched=NOW))


@real
def test_a_real_boards_needs() -> None:
    """The 8 GPUs and 4 switches of the recorded board: which RIMs, and which questions."""
    folder = "hgx/hgx8-h100-4xls10-ppcie-590.12"
    found: list[DeviceEvidence] = []
    for file, kind in (
        ("gpu_evidence.json", DeviceKind.GPU),
        ("switch_evidence.json", DeviceKind.SWITCH),
    ):
        for each in json.loads(nvrim.real(f"{folder}/{file}")):
            raw = (base64.b64decode(each[member]) for member in ("evidence", "certificate"))
            found.append(DeviceEvidence(kind, *raw))
    wanted = nvgpu_needs.read(found, now=NOW, anchors=PINNED)
    assert wanted.rim_ids[0] == DRIVER_ID
    assert len(wanted.rim_ids) == 3
    # 12 BROM, of which each has its own; the ICAs of GPUs and switches; one identity CA.
    asked = gpus.subjects(wanted.chains)
    assert 12 + 2 + 1 <= len(asked) <= 18
