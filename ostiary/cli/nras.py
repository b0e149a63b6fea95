"""NVIDIA's remote attestation service (NRAS) as a second opinion for `ostiary verify nvidia`.

Guarantees: off unless it is asked for; an opinion is checked by `verifier.nvgpu.nras` and decides
nothing alone: a no denies the set, a yes is a note. Where it was asked for and cannot be had, that
denies too. `--ask-nras` is the one option of `ostiary verify` that uses the network: NVIDIA sees
the evidence, and its terms apply.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from ostiary.cli import inputs
from ostiary.cli.inputs import UnreadableError
from verifier import x509
from verifier.collateral.nras import NRAS, NrasClient
from verifier.collateral.web import Web
from verifier.errors import VerifierError
from verifier.nvgpu import chain, nras
from verifier.nvgpu.device import DeviceEvidence, DeviceKind
from verifier.nvgpu.nras import Devices, Keys
from verifier.result import Appraisal

_KINDS: Final[Mapping[DeviceKind, Devices]] = {DeviceKind.GPU: "gpu", DeviceKind.SWITCH: "switch"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a second opinion."""
    group = parser.add_argument_group("second opinion (off unless given)")
    for option, what in (
        ("--nras", "NRAS's answer about the GPUs, JSON"),
        ("--switch-nras", "NRAS's answer about the switches, JSON"),
        ("--nras-keys", "with them: NRAS's keys, a JWKS"),
    ):
        group.add_argument(option, type=Path, metavar="F", help=what)
    group.add_argument(
        "--ask-nras",
        nargs="?",
        const=NRAS,
        metavar="URL",
        help="ask NRAS now, over the network: NVIDIA sees the evidence",
    )


def judge(
    args: argparse.Namespace,
    appraisal: Appraisal,
    devices: Sequence[DeviceEvidence],
    *,
    nonce: bytes,
    now: int,
) -> None:
    """Add NRAS's opinion of the devices to the appraisal, where the arguments want one.

    Raises:
        UnreadableError: the options do not fit together, or a file cannot be read.
    """
    files = {"gpu": args.nras, "switch": args.switch_nras}
    given = any(files.values())
    if given != (args.nras_keys is not None) or (given and args.ask_nras is not None):
        raise UnreadableError("--nras and --switch-nras go with --nras-keys, or --ask-nras alone")
    if not given and args.ask_nras is None:
        return
    for kind, name in _KINDS.items():
        chosen = [each for each in devices if each.kind is kind]
        if not chosen:
            continue
        try:
            chains = [chain.load(each.chain) for each in chosen]
            answer, keys = (
                _answer(files[name], args.nras_keys, name)
                if args.ask_nras is None
                else asyncio.run(_ask(args.ask_nras, chosen, nonce, chains[0].identity.arch, name))
            )
        except VerifierError as error:
            appraisal.fail(f"nras_{name}", error)
            continue
        nras.judge(
            appraisal,
            answer,
            keys,
            nonce=nonce,
            leaf_serials=[x509.serial_number(each.certificates[0]) for each in chains],
            now=now,
            devices=name,
        )


def _answer(path: Path | None, keys: Path, name: Devices) -> tuple[bytes, Keys]:
    if path is None:
        raise UnreadableError(f"an answer of NRAS about each {name} is needed too")
    return inputs.read("--nras", path), nras.load_keys(inputs.read("--nras-keys", keys))


async def _ask(
    base: str, devices: Sequence[DeviceEvidence], nonce: bytes, arch: str, name: Devices
) -> tuple[bytes, Keys]:
    web = Web()
    client = NrasClient(web, base)
    try:
        evidence = [(each.report, each.chain) for each in devices]
        return await client.ask(evidence, nonce=nonce, arch=arch.upper(), devices=name)
    finally:
        await client.aclose()
        await web.aclose()
