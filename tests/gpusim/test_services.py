"""The simulated RIM service, OCSP responder and CRLs, over real HTTP."""

import base64
import hashlib
import json

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from ostiary.simulator.nvidia import devices, rim
from ostiary.simulator.nvidia.ocsp import Answer
from ostiary.simulator.nvidia.pki import CRL_PATHS, FakeNvidia
from ostiary.simulator.nvidia.rim import RimText
from ostiary.simulator.nvidia.services import NvidiaServices, subjects
from ostiary.simulator.services import Reply, Vendors, serving
from ostiary.simulator.store import SimulatorError
from tests.kit import nvgpu
from tests.kit.gpus import services
from tests.kit.nvgpu import NOW


@pytest.fixture
def known():
    return services()


@pytest.fixture
def server(known):
    with serving(Vendors(lambda: NOW, nvidia=known)) as running:
        yield running


def asked(chain, level, *, digest=None, nonce=b"n" * 16):
    """Return an OCSP request (DER) about one certificate of a chain."""
    subject, issuer = (x509.load_der_x509_certificate(each) for each in chain[level : level + 2])
    builder = ocsp.OCSPRequestBuilder().add_certificate(subject, issuer, digest or hashes.SHA384())
    if nonce:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.build()


def post(server, request):
    body = request.public_bytes(Encoding.DER)
    reply = httpx.post(server.url, content=body)
    assert reply.headers["content-type"] == "application/ocsp-response"
    return ocsp.load_der_ocsp_response(reply.content)


def test_a_rim_is_served_as_nvidia_serves_it(server, known):
    """Members, base64 and the digest of the document."""
    wanted = rim.driver_id(devices.DRIVER)
    told = httpx.get(f"{server.url}/v1/rim/{wanted}").json()
    document = base64.b64decode(told["rim"])

    assert set(told) == {"id", "rim", "sha256", "request_id", "rim_format"}
    assert told["id"] == wanted == "NV_GPU_DRIVER_GH100_590.12"
    assert told["sha256"] == hashlib.sha256(document).hexdigest()
    assert document == known.rims[wanted]


def test_the_ids_are_listed_and_others_not_found(server, known):
    """One list; 404 for what was not published."""
    assert httpx.get(f"{server.url}/v1/rim/ids").json()["ids"] == sorted(known.rims)
    assert httpx.get(f"{server.url}/v1/rim/NV_GPU_DRIVER_GH100_1.2").status_code == 404
    assert httpx.get(f"{server.url}/elsewhere").status_code == 404
    assert httpx.post(f"{server.url}/elsewhere", content=b"x").status_code == 404


def test_a_service_may_lie_about_the_digest(server, known):
    """For whoever must notice."""
    known.wrong_digest = True
    told = httpx.get(f"{server.url}/v1/rim/{rim.vbios_id(devices.VBIOS)}").json()

    assert told["sha256"] != hashlib.sha256(base64.b64decode(told["rim"])).hexdigest()


@pytest.mark.parametrize("digest", ["SHA1", "SHA256", "SHA384"])
@pytest.mark.parametrize("level", [1, 2, 3])
def test_ocsp_answers_what_was_asked(server, level, digest):
    """CertID by the hash of the question, its nonce, a day's life, a responder of the issuer."""
    chain = nvgpu.make(1).gpus[0].identity.chain
    request = asked(chain, level, digest=getattr(hashes, digest)())
    answer = post(server, request)

    assert answer.certificate_status is ocsp.OCSPCertStatus.GOOD
    assert answer.serial_number == request.serial_number
    assert answer.issuer_key_hash == request.issuer_key_hash
    assert answer.issuer_name_hash == request.issuer_name_hash
    nonce = answer.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce
    assert nonce == b"n" * 16
    span = answer.next_update_utc - answer.this_update_utc
    assert span.total_seconds() == 86_400
    responder = answer.certificates[0]
    responder.verify_directly_issued_by(x509.load_der_x509_certificate(chain[level + 1]))


def test_a_question_without_a_nonce_is_answered_without_one(server):
    """The responder invents none."""
    answer = post(server, asked(nvgpu.make(1).gpus[0].identity.chain, 1, nonce=b""))

    assert [each.oid for each in answer.extensions] == []


def test_a_status_is_what_the_responder_remembers(server, known):
    """Revoked, on hold, unknown; by serial number."""
    identity = nvgpu.make(1).gpus[0].identity
    request = asked(identity.chain, 1)
    seen = []
    for status in ("revoked", "hold", "unknown"):
        known.responder.statuses[identity.brom_serial] = status
        answer = post(server, request)
        seen.append((answer.certificate_status, answer.revocation_reason))

    assert seen == [
        (ocsp.OCSPCertStatus.REVOKED, x509.ReasonFlags.key_compromise),
        (ocsp.OCSPCertStatus.REVOKED, x509.ReasonFlags.certificate_hold),
        (ocsp.OCSPCertStatus.UNKNOWN, None),
    ]


def test_what_is_no_question_of_ours_is_malformed(server):
    """Bytes that are no request, and a request about another vendor's certificate."""
    stranger = devices.device_set(FakeNvidia.create(NOW), 1).gpus[0].identity.chain
    bodies = [b"garbage", asked(stranger, 1).public_bytes(Encoding.DER)]
    for body in bodies:
        answer = ocsp.load_der_ocsp_response(httpx.post(server.url, content=body).content)
        assert answer.response_status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST


def test_answers_can_be_bent(known):
    """Signer, dates, nonce and serial number, each by itself."""
    responder = known.responder
    read = lambda **said: ocsp.load_der_ocsp_response(  # noqa: E731 - short
        responder.respond(7, "gh100_ica", NOW, Answer(**said))
    )

    assert read(no_next_update=True).next_update_utc is None
    assert read(serial=8).serial_number == 8
    assert read(signer="issuer").certificates == []
    assert read(signer="other_issuer").certificates[0].issuer != read().certificates[0].issuer
    shown = read(signer="no_right").certificates[0]
    with pytest.raises(x509.ExtensionNotFound):
        shown.extensions.get_extension_for_class(x509.ExtendedKeyUsage)


def test_crls_are_where_the_certificates_say(server, known):
    """Each CA's CRL at the path of its distribution point, with what was revoked."""
    known.crl_revoked.add(known.vendor.serial("gh100_ica"))
    for path, role in CRL_PATHS.items():
        crl = x509.load_der_x509_crl(httpx.get(server.url + path).content)
        assert crl.is_signature_valid(known.vendor.keys[role].public_key())
        serials = [each.serial_number for each in crl]
        assert serials == [known.vendor.serial("gh100_ica")]


def test_an_hgx_board_needs_at_most_sixteen_answers_for_its_gpus():
    """Eight boot ROMs, two CAs, three levels of RIM signers: each once."""
    vendor = nvgpu.vendor()

    assert len(subjects(vendor, nvgpu.make(8, "mpt"))) == 8 + 2 + 3
    assert len(subjects(vendor, nvgpu.make(8, "ppcie"))) == 12 + 3 + 6


def test_the_server_fails_on_demand_and_takes_no_endless_bodies(server):
    """Faults reach POST too; a body must say its length, and a short one."""
    server.fail("/", Reply(503), times=1)

    assert httpx.post(server.url, content=b"x").status_code == 503
    assert httpx.post(server.url, content=b"x" * 20_000).status_code == 413
    assert httpx.post(server.url, content=iter([b"x"])).status_code == 413


def test_a_server_without_nvidia_takes_no_posts():
    """Intel and AMD answer to GET only."""
    with serving(Vendors(lambda: NOW)) as running:
        assert httpx.post(running.url, content=b"x").status_code == 404
        assert httpx.get(f"{running.url}/v1/rim/ids").status_code == 404


def test_a_vendor_is_kept_and_loaded(tmp_path):
    """Same keys and certificates; a second vendor in the folder is refused."""
    vendor = nvgpu.vendor()
    vendor.save(tmp_path)
    again = FakeNvidia.load(tmp_path)

    assert again.certificates == vendor.certificates
    assert again.device_root_pin == vendor.device_root_pin
    assert again.rim_root_pin == vendor.rim_root_pin
    with pytest.raises(SimulatorError, match="never overwritten"):
        vendor.save(tmp_path)
    (tmp_path / "nvidia.json").write_text(json.dumps([]))
    with pytest.raises(SimulatorError, match="saved vendor"):
        FakeNvidia.load(tmp_path)


def test_any_certificate_can_be_issued_anew():
    """With other contents, under the same keys."""
    vendor = nvgpu.vendor()
    other = vendor.reissue("gh100_rim_l4", not_after=NOW - 1)

    shown = x509.load_der_x509_certificate(other.certificates["gh100_rim_l4"])
    assert shown.not_valid_after_utc.timestamp() == NOW - 1
    assert other.certificates["rim_root"] == vendor.certificates["rim_root"]


def test_a_rim_can_say_anything():
    """Other golden values, another digest, another key, further KeyInfo."""
    vendor = nvgpu.vendor()
    services_known = NvidiaServices(vendor, lambda: NOW)
    text = RimText("driver", "1.2", golden={5: [b"\1" * 48, b"\2" * 48]}, digest=bytes(48))
    signed = services_known.publish("driver", "1.2", text.sign(vendor, vendor.keys["identity"]))

    assert b'index="5" active="True" alternatives="2"' in signed
    assert base64.b64encode(bytes(48)) in signed
