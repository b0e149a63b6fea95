"""Claims of a report: its fields under the manual's names, ready for JSON.

Guarantees: every field of the report appears, reserved ranges included, hex for bytes. Does not
judge: a claim counts only if the result it stands in is an accept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from verifier.snp.report import SnpReport

POLICY_SMT: Final = 16
POLICY_RESERVED_ONE: Final = 17
POLICY_MIGRATE_MA: Final = 18
POLICY_DEBUG: Final = 19
POLICY_SINGLE_SOCKET: Final = 20
POLICY_CXL: Final = 21
POLICY_MEM_AES_256_XTS: Final = 22
POLICY_RAPL_DIS: Final = 23
POLICY_CIPHERTEXT_HIDING: Final = 24
POLICY_PAGE_SWAP_DISABLE: Final = 25
POLICY_KNOWN_BITS: Final = 26
"""GUEST_POLICY bits from this one up are reserved (AMD 56860)."""

_POLICY_BITS: Final = {
    "smt": POLICY_SMT,
    "reserved1": POLICY_RESERVED_ONE,
    "migrate_ma": POLICY_MIGRATE_MA,
    "debug": POLICY_DEBUG,
    "single_socket": POLICY_SINGLE_SOCKET,
    "cxl_allow": POLICY_CXL,
    "mem_aes_256_xts": POLICY_MEM_AES_256_XTS,
    "rapl_dis": POLICY_RAPL_DIS,
    "ciphertext_hiding": POLICY_CIPHERTEXT_HIDING,
    "page_swap_disable": POLICY_PAGE_SWAP_DISABLE,
}

INFO_RAPL_DIS: Final = 3
INFO_CIPHERTEXT_HIDING: Final = 4
INFO_ALIAS_CHECK_COMPLETE: Final = 5

_INFO_BITS: Final = {
    0: "smt_en",
    1: "tsme_en",
    2: "ecc_en",
    INFO_RAPL_DIS: "rapl_dis",
    INFO_CIPHERTEXT_HIDING: "ciphertext_hiding",
    INFO_ALIAS_CHECK_COMPLETE: "alias_check_complete",
    7: "sev_tio",
}
_WORD_BITS: Final = 64


def bit(word: int, index: int) -> int:
    """Return one bit of a word, 0 or 1."""
    return word >> index & 1


def decode_policy(policy: int) -> dict[str, int]:
    """Return GUEST_POLICY by field: ABI floor and each named bit as 0 or 1."""
    return {"abi_minor": policy & 0xFF, "abi_major": policy >> 8 & 0xFF} | {
        name: bit(policy, index) for name, index in _POLICY_BITS.items()
    }


def platform_info_bits(platform_info: int) -> Iterator[str]:
    """Give the names of the bits that are set; `reserved_N` for those without a name."""
    for index in range(_WORD_BITS):
        if bit(platform_info, index):
            yield _INFO_BITS.get(index, f"reserved_{index}")


def unknown_platform_info(platform_info: int) -> list[str]:
    """Return the set bits of PLATFORM_INFO that have no name here."""
    return [name for name in platform_info_bits(platform_info) if name.startswith("reserved_")]


def _version(parts: tuple[int, int, int]) -> str:
    return ".".join(str(part) for part in parts)


def report_claims(report: SnpReport) -> dict[str, Any]:
    """Return the claims that need no knowledge of the product.

    Reserved ranges are zero in any report that parses; they are listed so that a reader sees it.
    """
    mitigations = bool(report.launch_mit_vector or report.current_mit_vector)
    return {
        "version": report.version,
        "guest_svn": report.guest_svn,
        "policy": hex(report.policy),
        "family_id": report.family_id.hex(),
        "image_id": report.image_id.hex(),
        "vmpl": report.vmpl,
        "sig_algo": 1,
        "current_tcb": report.current_tcb.hex(),
        "platform_info": hex(report.platform_info),
        "signer_info": hex(report.signer_info),
        "author_key_en": int(report.author_key_en),
        "mask_chip_key": int(report.mask_chip_key),
        "signing_key": report.signing_key_name,
        "rsvd_4c": bytes(4).hex(),
        "report_data": report.report_data.hex(),
        "measurement": report.measurement.hex(),
        "host_data": report.host_data.hex(),
        "id_key_digest": report.id_key_digest.hex(),
        "author_key_digest": report.author_key_digest.hex(),
        "report_id": report.report_id.hex(),
        "report_id_ma": report.report_id_ma.hex(),
        "reported_tcb": report.reported_tcb.hex(),
        "cpuid_fam": report.cpuid_fam,
        "cpuid_mod": report.cpuid_mod,
        "cpuid_step": report.cpuid_step,
        "rsvd_18b": bytes(21).hex(),
        "chip_id": report.chip_id.hex(),
        "committed_tcb": report.committed_tcb.hex(),
        "cur_ver": _version(report.current_version),
        "com_ver": _version(report.committed_version),
        "rsvd_1eb_1ef": bytes(2).hex(),
        "launch_tcb": report.launch_tcb.hex(),
        "launch_mit_vector": hex(report.launch_mit_vector),
        "current_mit_vector": hex(report.current_mit_vector),
        "rsvd_1f8_2a0_zero": not mitigations,
        "rsvd_208_2a0_zero": True,
        "sig_pad_zero": True,
        "policy_decoded": decode_policy(report.policy),
        "platform_info_bits": list(platform_info_bits(report.platform_info)),
    }


def product_claims(product: str, tcb: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """Return the claims that the product's layout gives: its name and each TCB by part."""
    return {"product": product} | {f"{name}_decoded": dict(parts) for name, parts in tcb.items()}
