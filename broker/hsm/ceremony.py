"""The ceremony: makes HOME/hsm with a token, its PINs, the broker's signing keys and worker.db.

Guarantees: never on top of an existing HOME/hsm, whole or damaged; all of it appears at once, by a
rename, or not at all; the PINs are random, never in arguments or environment, and the SO PIN is
forgotten: nobody can set another user PIN. Whether the home is for simulated hardware is fixed here
for ever, in marker, token label and key ids. Runs in a process of its own, so that its caller never
loads PKCS#11.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import msgspec

from broker.hsm.errors import HsmError, HsmReason
from broker.hsm.home import FOLDER, HsmHome, Marker, wipe
from broker.hsm.softhsm import keep_copies, render_conf, write_durably
from broker.hsm.spawn import python_command
from verifier.wire import canonical
from verifier.wire.canonical import Hex

_SECONDS: Final = 120
_PIN_BYTES: Final = 24


@final
@dataclass(frozen=True, slots=True)
class TokenMade:
    """What a ceremony made: the token's label and the broker's id."""

    label: str
    broker: bytes


def init_token(home: Path, *, simulated: bool, module: str = "") -> TokenMade:
    """Hold the ceremony for `home`.

    Args:
        home: the broker home; made if it is not there.
        simulated: whether this token is for simulated hardware, for ever.
        module: path of the PKCS#11 module, empty for SoftHSM.

    Raises:
        HsmError: `exists` where HOME/hsm is there; `token_missing` where it is there and damaged;
            `unsupported` without a module; `refused` or `self_test` by the token.
    """
    place = HsmHome(home.resolve())
    if place.exists():
        marker = place.read_marker()
        raise HsmError(HsmReason.EXISTS, f"{place.folder} holds token {marker.label} already")
    command, environment = python_command(
        "broker.hsm.ceremony",
        "--home",
        str(place.root),
        *(["--module", module] if module else []),
        *(["--simulated"] if simulated else []),
    )
    done = subprocess.run(  # noqa: S603 - our own module, no shell
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        timeout=_SECONDS,
        check=False,
    )
    return _read_outcome(done.stdout)


def _read_outcome(raw: bytes) -> TokenMade:
    try:
        said = json.loads(raw)
        if "reason" in said:
            raise HsmError(HsmReason(said["reason"]), str(said["detail"]))
        return TokenMade(str(said["label"]), bytes.fromhex(said["broker"]))
    except (ValueError, KeyError, TypeError) as error:
        raise HsmError(HsmReason.UNAVAILABLE, "the ceremony's process ended early") from error


def hold(home: HsmHome, *, simulated: bool, module: str) -> TokenMade:
    """Hold the ceremony in this process, which loads PKCS#11 and should end after it.

    Raises:
        HsmError: as `init_token`.
    """
    from broker.hsm.pkcs11 import find_module  # noqa: PLC0415 - only this process loads PKCS#11

    path = find_module(module)
    home.root.mkdir(parents=True, exist_ok=True)
    # A crash before the rename leaves a folder .hsm-… that nothing reads.
    draft = Path(tempfile.mkdtemp(prefix=f".{FOLDER}-", dir=home.root))
    try:
        made = _make(HsmHome(draft), home, path, simulated=simulated)
        try:
            (draft / FOLDER).rename(home.folder)  # refuses a folder that is not empty
        except OSError as error:
            raise HsmError(HsmReason.EXISTS, f"{home.folder}: {error.strerror}") from error
    finally:
        shutil.rmtree(draft)
    return made


def _make(draft: HsmHome, home: HsmHome, module: str, *, simulated: bool) -> TokenMade:
    from broker.hsm import keys  # noqa: PLC0415 - only this process loads PKCS#11
    from broker.hsm.pkcs11 import (  # noqa: PLC0415 - same
        CKU_SO,
        CKU_USER,
        Mapper,
        Module,
        handle_of,
    )
    from broker.hsm.selftest import run  # noqa: PLC0415 - same
    from broker.hsm.state import WorkerState  # noqa: PLC0415 - same

    draft.folder.mkdir(mode=0o700)
    draft.tokens.mkdir(mode=0o700)
    write_durably(draft.conf, render_conf(draft.tokens).encode())
    label = f"ostiary{'-sim' if simulated else ''}-{secrets.token_hex(4)}"
    so_pin, pin = _random_pin(), _random_pin()
    loaded = Module(module, draft.conf)
    try:
        write_durably(draft.pin, pin)
        slot = loaded.lib.get_slots()[0].slot_id
        loaded.init_token(slot, so_pin, label)
        token = loaded.lib.get_token(token_label=label)
        session = token.open(rw=True, attribute_mapper=Mapper())
        handle = handle_of(session)
        loaded.login(handle, CKU_SO, so_pin)
        loaded.init_pin(handle, pin)
        loaded.logout(handle)
        loaded.login(handle, CKU_USER, pin)
        run(session)
        key_id = keys.broker_id(simulated=simulated)
        keys.make_signing_pair(session, keys.Wanted(key_id, "ostiary broker"))
        result_id = keys.result_id(simulated=simulated)
        keys.make_result_pair(session, keys.Wanted(result_id, "ostiary results"))
        run(session)
        public = keys.find_one(session, keys.PUBLIC, key_id)
        broker = keys.spki_digest(keys.ed25519_spki(keys.ed25519_raw(public)))
        result = keys.spki_digest(keys.p256_spki(keys.find_one(session, keys.PUBLIC, result_id)))
    finally:
        loaded.finalize()
        wipe(so_pin)
        wipe(pin)
    identity = secrets.token_bytes(16)
    WorkerState.create(draft.database, identity)
    marker = Marker(
        v=1,
        label=label,
        simulated=simulated,
        broker=Hex(broker),
        database=Hex(identity),
        result=Hex(result),
    )
    write_durably(draft.conf, render_conf(home.tokens).encode())
    keep_copies(draft)
    write_durably(draft.marker, canonical.encode(marker))
    return TokenMade(label, broker)


def _random_pin() -> bytearray:
    """Return 24 random letters of a 64-letter alphabet, 144 bits."""
    pin = bytearray(secrets.token_bytes(_PIN_BYTES))
    for place, value in enumerate(pin):
        pin[place] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[value % 64]
    return pin


def main(arguments: Sequence[str] | None = None) -> int:
    """Hold the ceremony and say on standard output, in JSON, what came of it."""
    from broker.hsm.harden import harden  # noqa: PLC0415 - only this process hardens itself

    parser = argparse.ArgumentParser(prog="python -m broker.hsm.ceremony")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--module", default="")
    parser.add_argument("--simulated", action="store_true")
    options = parser.parse_args(arguments)
    try:
        harden()
        made = hold(HsmHome(options.home), simulated=options.simulated, module=options.module)
    except HsmError as error:
        said = {"reason": error.reason, "detail": error.detail}
    else:
        said = {"label": made.label, "broker": made.broker.hex()}
    sys.stdout.buffer.write(msgspec.json.encode(said))
    return 0


if __name__ == "__main__":
    sys.exit(main())
