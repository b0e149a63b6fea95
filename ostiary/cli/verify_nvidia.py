"""`ostiary verify nvidia`: GPUs and NVSwitches of one machine, from files, offline.

Guarantees: as `ostiary.cli.verify`, with a result for each device. What a file says of a device's
architecture and nonce is not believed: certificates and `--nonce` decide. A device without its RIMs
is never accepted. A set by itself proves no CPU: the result says what the GPUs are, and not whose.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeAlias

from ostiary.cli import gpu_evidence, inputs, nras
from ostiary.cli.inputs import UnreadableError
from verifier.anchors import PINNED, Anchors
from verifier.errors import VerifierError
from verifier.nvgpu import chain, spdm
from verifier.nvgpu.appraise import appraise_gpus
from verifier.nvgpu.device import DeviceEvidence, DeviceKind
from verifier.nvgpu.endorsements import GpuEndorsements
from verifier.result import Appraisal, AttestationResult

_Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - argparse has no public name for it
_PART: Final = 1 << 20
"""Most bytes of a file with one part; the verifier wants less."""


def add_parsers(kinds: _Subparsers) -> tuple[argparse.ArgumentParser, ...]:
    """Add `nvidia`; its `appraise` is the function that judges."""
    nvidia = kinds.add_parser(
        "nvidia",
        help="NVIDIA GPUs and NVSwitches",
        description="Appraise the NVIDIA GPUs and NVSwitches of one machine, as a set.",
    )
    evidence = nvidia.add_mutually_exclusive_group(required=True)
    evidence.add_argument(
        "--evidence",
        type=Path,
        metavar="F",
        help="what nvattest writes and NRAS is sent: a JSON list of {arch, evidence, certificate}",
    )
    evidence.add_argument("--report", type=Path, metavar="F", help="of one device, binary")
    for option, what in (
        ("--chain", "with --report: the device's certificates, PEM, leaf first"),
        ("--switch-evidence", "with --evidence: the switches, in the same form"),
    ):
        nvidia.add_argument(option, type=Path, metavar="F", help=what)
    revocation = nvidia.add_mutually_exclusive_group(required=True)
    for group, option, what in (
        (
            nvidia,
            "--rim",
            "NVIDIA's signed manifests (RIM), XML; refused without",
        ),
        (revocation, "--ocsp", "OCSP responses, DER, in any order"),
        (nvidia, "--crl", "with --ocsp: CRLs, DER, for what no OCSP response speaks of"),
    ):
        group.add_argument(option, type=Path, nargs="+", default=[], metavar="F", help=what)
    revocation.add_argument(
        "--no-revocation",
        action="store_true",
        help="do not judge revocation, and say so in the result",
    )
    nvidia.add_argument(
        "--nonce", required=True, metavar="HEX", help="the 32 bytes that every device was sent"
    )
    nvidia.add_argument(
        "--at",
        required=True,
        metavar="TIME",
        help="judge dates at this time, e.g. 2026-03-01T00:00:00Z (RFC 3339)",
    )
    nras.add_options(nvidia)
    nvidia.add_argument("--policy", type=Path, metavar="F", help="rules and counts, TOML")
    nvidia.add_argument("--json", action="store_true", help="print the result as JSON")
    nvidia.set_defaults(appraise=judge)
    return (nvidia,)


def judge(args: argparse.Namespace, anchors: Anchors = PINNED) -> AttestationResult:
    """Appraise the set that the arguments name.

    Raises:
        UnreadableError: a file or an option is not what it should be.
    """
    now = inputs.parse_time(args.at)
    policy = inputs.policy(args.policy)
    nonce = inputs.hexadecimal("--nonce", args.nonce)
    if len(nonce) != spdm.NONCE_SIZE:
        raise UnreadableError(f"--nonce: {spdm.NONCE_SIZE} bytes expected, {len(nonce)} seen")
    if args.crl and args.no_revocation:
        raise UnreadableError("--crl and --no-revocation: one or the other")
    devices = _devices(args)
    parts = (_parts(args, name) for name in ("rim", "ocsp", "crl"))
    try:
        endorsements = GpuEndorsements(*parts)
    except VerifierError as error:
        refused = Appraisal("nvidia")
        refused.fail("collateral", error)
        return refused.result()
    appraisal = Appraisal("nvidia")
    try:
        appraise_gpus(
            appraisal,
            devices,
            endorsements,
            policy=policy,
            nonce=nonce,
            now=now,
            anchors=anchors,
            revocation_required=not args.no_revocation,
        )
    except VerifierError as error:
        appraisal.fail("gpus", error)
    nras.judge(args, appraisal, devices, nonce=nonce, now=now)
    return appraisal.result()


def _parts(args: argparse.Namespace, name: str) -> tuple[bytes, ...]:
    return tuple(_read(f"--{name}", path) for path in getattr(args, name))


def _read(option: str, path: Path) -> bytes:
    raw = inputs.read(option, path)
    if len(raw) > _PART:
        raise UnreadableError(f"{option}: {path}: more than {_PART} bytes")
    return raw


def _devices(args: argparse.Namespace) -> tuple[DeviceEvidence, ...]:
    if args.report is None:
        if args.chain is not None:
            raise UnreadableError("--chain goes with --report")
        found = _listed("--evidence", args.evidence)
        if args.switch_evidence is None:
            return found
        switches = _listed("--switch-evidence", args.switch_evidence)
        return (*found, *(replace(each, kind=DeviceKind.SWITCH) for each in switches))
    if args.chain is None or args.switch_evidence is not None:
        raise UnreadableError("--report goes with --chain, and with nothing else")
    pem = _read("--chain", args.chain)
    return (DeviceEvidence(_kind(pem), _read("--report", args.report), pem),)


def _listed(option: str, path: Path) -> tuple[DeviceEvidence, ...]:
    try:
        return gpu_evidence.read(inputs.read(option, path), path.name)
    except VerifierError as error:
        raise UnreadableError(f"{option}: {error}") from error


def _kind(pem: bytes) -> DeviceKind:
    """Return what a chain is of; one that cannot be told is refused later, as a GPU's."""
    try:
        return chain.load(pem).identity.kind
    except VerifierError:
        return DeviceKind.GPU


def lines(result: AttestationResult) -> list[str]:
    """Return a line for each device of a result, if it has any: verdict, name, what it is, why not.

    What it is comes from a genuine device's certificates and report, and is empty for any other.
    """
    devices = result.claims.get("devices", ())
    width = max((len(device["name"]) for device in devices), default=0)
    return [
        " ".join(
            filter(
                None,
                (
                    f"{device['verdict']:<11} {device['name']:<{width}} ",
                    "genuine" if device["genuine"] else "NOT genuine",
                    *(device[name] for name in ("chip", "device_id", "mode")),
                    *(
                        f"{name} {device[key]}"
                        for name, key in (("driver", "driver"), ("VBIOS", "vbios"))
                        if device[key]
                    ),
                    f"({', '.join(device['reasons'])})" if device["reasons"] else "",
                ),
            )
        )
        for device in devices
    ]
