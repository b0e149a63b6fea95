"""A VEK vouches for one product, one kind of key, one TCB, and one chip or cloud."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ostiary.simulator import der
from tests.kit.snp import AMAZON
from tests.kit.snp_forge import (
    Forge,
    amd_name,
)
from tests.kit.snp_judge import every_forge, every_vcek, every_vlek, judge, strict
from verifier.errors import Reason
from verifier.result import Verdict
from verifier.snp.product import MILAN, TURIN
from verifier.snp.report import KEY_VCEK, KEY_VLEK


@every_forge
def test_key_of_the_other_kind(forge: Forge) -> None:
    """A VLEK in the VCEK's place is refused by SIGNING_KEY's path, and the other way round."""
    other = forge.evidence(report={"signer_info": (KEY_VLEK - forge.key) << 2})

    assert judge(other).reasons == (Reason.CHAIN_INVALID,)


@every_forge
def test_leaf_name_of_the_other_kind(forge: Forge) -> None:
    """Under the right issuer a VEK of the other kind's name is refused as well."""
    leaf = "SEV-VCEK" if forge.key == KEY_VLEK else "SEV-VLEK"

    assert judge(forge.evidence(vek_changes={"subject": amd_name(leaf)})).reasons == (
        Reason.CHAIN_INVALID,
    )


@every_forge
def test_issuer_of_the_other_kind(forge: Forge) -> None:
    """A VEK of the right name under the other kind's issuer is refused as well."""
    issuer = amd_name(replace(forge, key=KEY_VLEK - forge.key).issuer_name)
    evidence = forge.evidence(ask_changes={"subject": issuer}, vek_changes={"issuer": issuer})

    result = judge(evidence)

    assert result.reasons == (Reason.CHAIN_INVALID,)
    assert result.checks[-1].seen.startswith("ASK name")


@pytest.mark.parametrize("name", ["VCEK", "SEV-VCEK ", "sev-vcek", "SEV-VCEK-Milan"])
def test_leaf_name(name: str) -> None:
    """The leaf's name is exactly SEV-VCEK."""
    evidence = Forge(MILAN).evidence(vek_changes={"subject": amd_name(name)})

    assert judge(evidence).reasons == (Reason.CHAIN_INVALID,)


@every_forge
@pytest.mark.parametrize("step", [1, -1])
def test_certificate_tcb_off_by_one(forge: Forge, step: int) -> None:
    """Each TCB part of the VEK must equal REPORTED_TCB's, neither above nor below."""
    ends = {"bootloader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8", "fmc": "3.9"}
    for part, svn in forge.generation.decode_tcb(forge.tcb, "TCB").items():
        if svn + step < 0:
            continue
        values = {ends[part]: der.integer(svn + step)}
        result = judge(forge.evidence(vek_values=values))
        assert result.reasons == (Reason.TCB_MISMATCH,), part


@every_forge
def test_reported_tcb_off_by_one(forge: Forge) -> None:
    """Another REPORTED_TCB is refused even where CURRENT and COMMITTED match the VEK."""
    for index in forge.generation.tcb_parts.values():
        reported = bytearray(forge.tcb)
        reported[index] += 1
        result = judge(forge.evidence(report={"reported_tcb": bytes(reported)}))
        assert result.reasons == (Reason.TCB_MISMATCH,), index


@every_forge
def test_current_tcb_is_not_compared(forge: Forge) -> None:
    """The VEK is for REPORTED_TCB: one that matches CURRENT_TCB instead is refused."""
    newer = forge.tcb[:7] + bytes([forge.tcb[7] + 1])
    values = {"3.8": der.integer(newer[7])}
    firmware = {"current_tcb": newer, "committed_tcb": newer}

    good = forge.evidence(report=firmware)
    bad = forge.evidence(report=firmware, vek_values=values)

    assert judge(good).verdict is Verdict.ACCEPT
    assert judge(bad).reasons == (Reason.TCB_MISMATCH,)


@every_forge
def test_layout_of_another_generation(forge: Forge) -> None:
    """A TCB in another generation's layout is refused before anything is compared."""
    other = Forge(MILAN if forge.generation is TURIN else TURIN).tcb
    for name in ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"):
        assert judge(forge.evidence(report={name: other})).reasons == (Reason.MALFORMED,), name


@every_forge
def test_cpuid_of_another_product(forge: Forge) -> None:
    """CPUID and VEK must speak of one product, and the CPUID of one that is known."""
    cpuids = [(0x19, 0x01), (0x19, 0x11), (0x19, 0xA0), (0x1A, 0x02), (0x1A, 0x50), (0x17, 0x31)]
    for family, model in cpuids:
        changes = {"cpuid_fam": family, "cpuid_mod": model}
        good = forge.report()
        if (good.cpuid_fam, good.cpuid_mod) == (family, model):
            continue
        result = judge(forge.evidence(report=changes))
        if (forge.product, model) == ("Genoa", 0xA0):
            assert result.verdict is Verdict.ACCEPT
        else:
            # Between Turin and the others the TCB does not even parse.
            assert result.reasons in ((Reason.PRODUCT_MISMATCH,), (Reason.MALFORMED,))


@every_forge
def test_names_of_another_product(forge: Forge) -> None:
    """VEK, ASK and ARK must all name the report's product."""
    other = "Genoa" if forge.product == "Milan" else "Milan"
    ask = forge.issuer_name.replace(forge.product, other)
    ark_name = amd_name(f"ARK-{other}")
    wrong = [
        forge.evidence(
            ask_changes={"subject": amd_name(ask)}, vek_changes={"issuer": amd_name(ask)}
        ),
        forge.evidence(
            ark_changes={"subject": ark_name, "issuer": ark_name},
            ask_changes={"issuer": ark_name},
        ),
        forge.evidence(vek_values={"2": der.ia5("Venice")}),
    ]
    if forge.generation is not TURIN:
        wrong.append(forge.evidence(vek_values={"2": der.ia5(other)}))

    assert [judge(evidence).reasons for evidence in wrong] == [(Reason.PRODUCT_MISMATCH,)] * len(
        wrong
    )


@every_vcek
def test_hwid(forge: Forge) -> None:
    """A VCEK has a HWID of its generation's length, its own chip's, and no CSP id."""
    size = forge.generation.hwid_size
    other = bytes([forge.chip_id[0] ^ 1]) + forge.chip_id[1:size]
    last = forge.chip_id[: size - 1] + bytes([forge.chip_id[size - 1] ^ 1])
    shapes: list[tuple[dict[str, bytes | None], Reason]] = [
        ({"4": None}, Reason.CERTIFICATE_INVALID),
        ({"4": forge.chip_id[: size - 1]}, Reason.CERTIFICATE_INVALID),
        ({"4": forge.chip_id[:size] + b"\x00"}, Reason.CERTIFICATE_INVALID),
        ({"4": bytes(8 if size == 64 else 64)}, Reason.CERTIFICATE_INVALID),
        ({"5": der.ia5(AMAZON)}, Reason.CERTIFICATE_INVALID),
        ({"4": other}, Reason.CHIP_ID_MISMATCH),
        ({"4": last}, Reason.CHIP_ID_MISMATCH),
        ({"4": bytes(size)}, Reason.CHIP_ID_MISMATCH),
    ]
    for values, reason in shapes:
        assert judge(forge.evidence(vek_values=values)).reasons == (reason,), values


@every_vcek
def test_wrapped_hwid(forge: Forge) -> None:
    """A HWID in an OCTET STRING is the same chip's."""
    hwid = forge.chip_id[: forge.generation.hwid_size]

    assert judge(forge.evidence(vek_values={"4": der.octets(hwid)})).verdict is Verdict.ACCEPT


@pytest.mark.parametrize("version", [3, 5])
def test_turin_chip_id_tail(version: int) -> None:
    """On Turin the 56 bytes of CHIP_ID behind the HWID are zero."""
    forge = Forge(TURIN, KEY_VCEK, version)
    for index in (8, 63):
        chip_id = bytearray(forge.chip_id)
        chip_id[index] = 1
        result = judge(forge.evidence(report={"chip_id": bytes(chip_id)}))
        assert result.reasons == (Reason.CHIP_ID_MISMATCH,)


@every_forge
def test_masked_chip_id(forge: Forge) -> None:
    """A hidden CHIP_ID is refused by default, admitted by name, and never counts as an identity."""
    evidence = forge.evidence(report={"chip_id": bytes(64)})

    assert judge(evidence).reasons == (Reason.CHIP_ID_MASKED,)
    admitted = judge(evidence, policy=strict(allow_masked_chip_id=True))
    assert admitted.verdict is Verdict.ACCEPT
    listed = strict(allow_masked_chip_id=True, chip_ids=(bytes(64),))
    assert judge(evidence, policy=listed).reasons == (Reason.PLATFORM_NOT_ALLOWED,)


@every_vlek
def test_vlek_identity(forge: Forge) -> None:
    """A VLEK names its cloud and no chip."""
    size = forge.generation.hwid_size
    no_csp = forge.evidence(vek_values={"5": None})
    with_hwid = forge.evidence(vek_values={"4": forge.chip_id[:size]})

    assert judge(no_csp).reasons == (Reason.CERTIFICATE_INVALID,)
    assert judge(with_hwid).reasons == (Reason.CERTIFICATE_INVALID,)


@every_vlek
def test_vlek_by_default(forge: Forge) -> None:
    """VLEK is refused unless policy names the key and the cloud, each for itself."""
    evidence = forge.evidence()

    assert set(judge(evidence, policy=strict(signing_keys=("VCEK",), csps=())).reasons) == {
        Reason.PLATFORM_NOT_ALLOWED,
        Reason.CSP_NOT_ALLOWED,
    }
    other = judge(evidence, policy=strict(csps=("CN=another.example",)))
    assert other.reasons == (Reason.CSP_NOT_ALLOWED,)
