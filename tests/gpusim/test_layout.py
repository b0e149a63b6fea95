"""The simulated NVIDIA has the bytes of the real one: reports, certificates, RIMs."""

import base64
import json
import re

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary.simulator import certificates
from ostiary.simulator.nvidia import devices
from ostiary.simulator.nvidia.report import Block, Field, Report
from ostiary.simulator.nvidia.rim import RimText
from tests.kit import corpus, nvgpu
from tests.kit.gpus import SHAPES
from verifier.nvgpu import opaque, spdm

FOLDER = corpus.EVIDENCE / "nvidia"
needs_corpus = pytest.mark.skipif(not FOLDER.is_dir(), reason=corpus.ABSENT)
FULL = FOLDER / "hopper/h100-550.90.07-full"
SWITCH = FOLDER / "ls10/ls10-96.10.55-full"
HGX = FOLDER / "hgx/hgx8-h100-4xls10-ppcie-590.12"


def rewritten(raw):
    """Return a report that gpu-core's parser read, written again by the simulator."""
    parsed = spdm.parse(raw)
    fields = opaque.parse(parsed.opaque)
    again = Report(
        parsed.nonce,
        parsed.responder_nonce,
        tuple(Block(index, block.value, block.kind) for index, block in parsed.blocks.items()),
        tuple(Field(kind, field.data) for kind, field in fields.fields.items()),
        parsed.slot,
    )
    return again.unsigned() + parsed.signature


def hgx(name):
    return [base64.b64decode(each["evidence"]) for each in json.loads((HGX / name).read_text())]


@needs_corpus
@pytest.mark.parametrize("path", [FULL, SWITCH], ids=["gpu", "switch"])
def test_a_real_report_is_written_again_byte_for_byte(path):
    """Parsed by the verifier, printed by the simulator: the same bytes."""
    raw = (path / "report.bin").read_bytes()

    assert rewritten(raw) == raw


@needs_corpus
def test_a_real_set_is_written_again_byte_for_byte():
    """All eight GPUs and four switches of the recorded protected-PCIe machine."""
    for name in ("gpu_evidence.json", "switch_evidence.json"):
        for raw in hgx(name):
            assert rewritten(raw) == raw


@needs_corpus
@pytest.mark.parametrize("place", ["gpus", "switches"])
def test_a_simulated_set_has_the_layout_of_the_real_one(place):
    """Same length, same blocks, same opaque fields in the same order and sizes."""
    ours = getattr(nvgpu.make(8, "ppcie"), place)
    real = hgx("gpu_evidence.json" if place == "gpus" else "switch_evidence.json")

    for device, raw in zip(ours, real, strict=True):
        mine, theirs = spdm.parse(device.report(nvgpu.NONCE)), spdm.parse(raw)
        shapes = [
            [(kind, len(field.data)) for kind, field in opaque.parse(each.opaque).fields.items()]
            for each in (mine, theirs)
        ]
        sizes = [
            [(index, block.kind, len(block.value)) for index, block in each.blocks.items()]
            for each in (mine, theirs)
        ]
        assert shapes[0] == shapes[1]
        assert sizes[0] == sizes[1]
        assert len(device.report(nvgpu.NONCE)) == len(raw)


def told(certificate):
    """Return what does not differ between two devices: the form of names and of extensions."""
    shown = x509.load_der_x509_certificate(certificate)
    names = [
        [(a.oid.dotted_string, a._type.name, len(a.value)) for a in name]
        for name in (shown.subject, shown.issuer)
    ]
    extensions = [
        (e.oid.dotted_string, e.critical, len(e.value.public_bytes())) for e in shown.extensions
    ]
    return names, extensions, shown.signature_algorithm_oid.dotted_string


@needs_corpus
@pytest.mark.parametrize("path", [FULL, SWITCH], ids=["gpu", "switch"])
def test_certificates_have_the_form_of_the_real_ones(path):
    """Names, string types, extensions, their order, sizes and criticality, all five levels."""
    real = x509.load_pem_x509_certificates((path / "chain.pem").read_bytes())
    whole = nvgpu.make(8, "ppcie")
    device = whole.gpus[0] if path is FULL else whole.switches[0]

    for mine, theirs in zip(device.identity.chain, real, strict=True):
        assert told(mine) == told(theirs.public_bytes(Encoding.DER))


@needs_corpus
def test_constant_extensions_are_those_of_the_real_ones():
    """Key usages, constraints, OCSP and CRL addresses, byte for byte, down to the ICA."""
    real = x509.load_pem_x509_certificates((FULL / "chain.pem").read_bytes())
    ours = nvgpu.make(1).gpus[0].identity.chain
    of_keys = {"2.5.29.14", "2.5.29.35", "2.5.29.17", "2.23.133.5.4.1"}

    for mine, theirs in zip(ours, real, strict=True):
        values = [
            [e.value.public_bytes() for e in shown.extensions if e.oid.dotted_string not in of_keys]
            for shown in (x509.load_der_x509_certificate(mine), theirs)
        ]
        assert values[0] == values[1]


def certificates_of(text):
    found = re.findall(r"<ds:X509Certificate>([^<]+)<", text)
    return [base64.b64decode(each) for each in found]


def blanked(text):
    """Return a RIM with everything replaced that differs from one version to the next.

    What stays: which indices are active, and with how many alternatives.
    """
    for pattern, by in (
        (r"<ds:X509Certificate>[^<]+<", "<ds:X509Certificate>C<"),
        (r'tagId="[0-9a-f]{96}"', 'tagId="T"'),
        (r'ns2:Hash[0-9]+="[0-9a-f]{96}" ?', ""),
        (r'name="\w*Measurement_\w+"', 'name="M"'),
        (r"<ds:(DigestValue|SignatureValue)>[^<]+<", r"<ds:\1>V<"),
    ):
        text = re.sub(pattern, by, text)
    return text


@needs_corpus
@pytest.mark.parametrize(
    ("kind", "version", "path"),
    [
        ("driver", "550.90.07", FULL / "NV_GPU_DRIVER_GH100_550.90.07.swidtag.xml"),
        ("vbios", "96.00.9F.00.01", FULL / "NV_GPU_VBIOS_1010_0200_882_96009F0001.swidtag.xml"),
        ("switch", "96.10.55.00.01", SWITCH / "rim_signed_2026-05.xml"),
    ],
)
def test_rims_have_the_text_of_the_real_ones(kind, version, path):
    """Once values, certificates and signature are blanked, the two texts are the same."""
    real = path.read_text()
    ours = RimText(kind, version).sign(nvgpu.vendor()).decode()

    assert blanked(ours) == blanked(real)


@needs_corpus
@pytest.mark.parametrize("kind", ["driver", "switch"])
def test_rim_certificates_have_the_form_of_the_real_ones(kind):
    """Signer, L3, CA and root, as in the driver's and the switch's RIM."""
    names = {
        "driver": FULL / "NV_GPU_DRIVER_GH100_550.90.07.swidtag.xml",
        "switch": SWITCH / "rim_signed_2026-05.xml",
    }
    real = certificates_of(names[kind].read_text())
    ours = certificates_of(RimText(kind, "1.2").sign(nvgpu.vendor()).decode())

    for mine, theirs in zip(ours, real, strict=True):
        assert told(mine) == told(theirs)


@pytest.mark.parametrize(("count", "mode"), SHAPES)
def test_every_shape_reports_for_any_nonce(count, mode):
    """The signature is over a report that the verifier's parser reads whole."""
    whole = nvgpu.make(count, mode)

    assert len(whole.devices) == count + (4 if mode == "ppcie" else 0)
    for device in whole.devices:
        report = spdm.parse(device.report(b"\7" * 32))
        leaf = x509.load_der_x509_certificate(device.identity.chain[0])
        assert report.nonce == b"\7" * 32
        assert report.verifies(leaf.public_key())


@settings(max_examples=50, deadline=None)
@given(
    st.binary(min_size=32, max_size=32),
    st.lists(st.binary(max_size=64), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=32)), unique_by=lambda f: f[0]),
)
def test_what_is_written_is_read_again(nonce, values, fields):
    """print∘parse is the identity, for any blocks and fields."""
    report = Report(
        nonce,
        bytes(32),
        tuple(Block(index, value) for index, value in enumerate(values, 1)),
        tuple(Field(*field) for field in fields),
    )
    raw = report.unsigned() + bytes(96)

    assert rewritten(raw) == raw


def test_the_vbios_version_is_written_as_devices_write_it():
    """Four bytes reversed, then the last; from the reference."""
    assert devices.vbios_field("96.00.9F.00.01").hex() == "009f009601000000"


def test_a_name_has_nvidias_string_types():
    """Countries and serial numbers are PrintableString, the rest UTF8String."""
    written = certificates.name(("serialNumber", "41"), ("C", "US"), ("CN", "x"))

    assert b"\x13\x0241" in written
    assert b"\x13\x02US" in written
    assert b"\x0c\x01x" in written
