"""What a replayed boot log means: Secure Boot, boot loaders, kernel, command line, initrd, UKI.

Guarantees: every claim comes from a register that replays to its quoted value; where the kind of
event allows it, data is believed only if its digest is the event's. Event types are in no digest,
so that separators and the firmware's own actions are recognised by their digests, and a log that
labels them as something else is refused, as are a second separator in a register and a second
"Calling EFI Application" before ExitBootServices.

Does not guarantee what a log cannot: digests of images and files (boot applications, initrd) are
authentic, their names are not; and whatever runs after boot may extend PCR 8 to 15 or RTMR 2 and 3
and place such an event anywhere in the log. Text claims (the command line) are hence worth as much
as the code that was booted: name them together with the boot applications or the UKI.

Source: TCG PC Client Platform Firmware Profile (events); UEFI 2.10 §38 (register mapping); systemd
and Linux EFI stub conventions (PCR 9, 11 and 12); GRUB's TPM module (PCR 8).
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, final

from verifier.errors import Reason, VerifierError
from verifier.eventlog.log import Event, EventLog, Kind
from verifier.eventlog.runtime import once

CALLING: Final = b"Calling EFI Application from Boot Option"
EXIT_INVOKED: Final = b"Exit Boot Services Invocation"
EXIT_RETURNED: Final = b"Exit Boot Services Returned with Success"

GLOBAL_VARIABLE: Final = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
SECURITY_DATABASE: Final = bytes.fromhex("cbb219d73a3d9645a3bcdad00e67656f")
_SEPARATORS: Final = (bytes(4), b"\xff" * 4)
_FIRMWARE_PCRS: Final = range(8)
_VARIABLE = struct.Struct("<16sQQ")
_TAG = struct.Struct("<II")
_LOAD_OPTIONS: Final = 0x8F3B22ED
_INITRD: Final = 0x8F3B22EC
_CMDLINE_PREFIXES: Final = (b"kernel_cmdline: ", b"grub_kernel_cmdline ")
_PLAIN = re.compile(rb"[ -~]{1,128}")
_UKI_SECTION = re.compile(rb"\.[a-z]{1,15}")
_VERITY = re.compile(
    r"(?:^|[\s\"])(?:roothash|usrhash|systemd\.verity_root_hash|root_hexdigest)=([0-9a-f]{32,128})"
    r"(?=[\s\"]|$)"
)
_SECURITY_VARIABLES: Final = {
    (GLOBAL_VARIABLE, "SecureBoot"),
    (GLOBAL_VARIABLE, "PK"),
    (GLOBAL_VARIABLE, "KEK"),
    (SECURITY_DATABASE, "db"),
    (SECURITY_DATABASE, "dbx"),
}


@final
@dataclass(frozen=True, slots=True)
class BootClaims:
    """What the log proves. None and empty mean that it does not say, never "no".

    `boot_applications` are the digests of all images in PCR 2 and 4 or RTMR 1, option ROMs and
    drivers with boot loaders, in order.

    `complete` is true if the firmware's hand-over was seen: ExitBootServices returned, and the
    registers of firmware and loader have their separators. `uki_sections` are digests by name.
    `load_options` are digests of what the Linux EFI stub was given: its command line, UTF-16.
    `bank` names the hash of all digests but those in `variables`, which are SHA-256.
    """

    bank: str = "sha256"
    complete: bool = False
    secure_boot: bool | None = None
    variables: dict[str, bytes] = field(default_factory=dict)
    dbx_present: bool | None = None
    boot_applications: tuple[bytes, ...] = ()
    uki_digest: bytes | None = None
    uki_sections: dict[str, bytes] = field(default_factory=dict)
    kernel_cmdline: str | None = None
    load_options: tuple[bytes, ...] = ()
    initrd_digest: bytes | None = None
    verity_root_hashes: tuple[bytes, ...] = ()
    runtime: dict[str, bytes] = field(default_factory=dict)
    images: tuple[tuple[str, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values, hex for bytes."""
        return {
            "bank": self.bank,
            "complete": self.complete,
            "secure_boot": self.secure_boot,
            "variables": {name: value.hex() for name, value in self.variables.items()},
            "dbx_present": self.dbx_present,
            "boot_applications": [digest.hex() for digest in self.boot_applications],
            "uki_digest": None if self.uki_digest is None else self.uki_digest.hex(),
            "uki_sections": {name: value.hex() for name, value in self.uki_sections.items()},
            "kernel_cmdline": self.kernel_cmdline,
            "load_options": [digest.hex() for digest in self.load_options],
            "initrd_digest": None if self.initrd_digest is None else self.initrd_digest.hex(),
            "verity_root_hashes": [value.hex() for value in self.verity_root_hashes],
            "runtime": {name: value.hex() for name, value in self.runtime.items()},
            "images": [{"image": image, "digest": digest} for image, digest in self.images],
        }


def read(log: EventLog, bank: str, *, proven: Collection[int]) -> BootClaims:
    """Return what the log proves about the boot.

    Args:
        log: a parsed log.
        bank: whose digests are used; those that were replayed.
        proven: registers that replay to their quoted values; events of others are not read.

    Raises:
        VerifierError: `event_log_refused`: the log replays, but cannot mean what it says.
    """
    return _Reader(log, bank, proven).claims()


def _refused(event: Event, message: str) -> VerifierError:
    return VerifierError(Reason.EVENT_LOG_REFUSED, f"event log: event {event.number}: {message}")


@final
class _Reader:
    """Goes through the events of proven registers once, in order."""

    def __init__(self, log: EventLog, bank: str, proven: Collection[int]) -> None:
        self.log = log
        self.bank = bank
        self.which = log.banks.index(bank)
        self.events = [e for e in log.events if e.register in proven and e.kind != Kind.NO_ACTION]
        self.ccel = log.format in ("ccel", "dstack")
        marks = {self.hash(data): Kind.SEPARATOR for data in _SEPARATORS}
        marks |= {
            self.hash(data): Kind.EFI_ACTION for data in (CALLING, EXIT_INVOKED, EXIT_RETURNED)
        }
        self.marks = marks

    def hash(self, data: bytes) -> bytes:
        """Return the bank's digest of `data`."""
        return hashlib.new(self.bank, data).digest()

    def digest(self, event: Event) -> bytes:
        """Return the event's digest in the bank."""
        return event.digests[self.which]

    def means(self, event: Event, data: bytes) -> bool:
        """Tell whether the event's digest is that of `data`."""
        return self.digest(event) == self.hash(data)

    def claims(self) -> BootClaims:
        """Check the log's order and return its claims."""
        self._check_labels()
        if self.log.format in ("dstack", "aael"):
            return self._runtime()
        exited = self._check_actions()
        cmdline = self._cmdline(self.events)
        separated = self._check_separators(text=cmdline is not None)
        variables = self._security_variables()
        secure = variables.get("SecureBoot")
        dbx = variables.get("dbx")
        tags = self._tags(self.events)
        uki, sections = self._uki(self.events)
        initrds = tags.get(_INITRD, ())
        return BootClaims(
            bank=self.bank,
            complete=exited and separated,
            secure_boot=None if secure is None else secure == b"\x01",
            variables={name: hashlib.sha256(value).digest() for name, value in variables.items()},
            dbx_present=None if dbx is None else bool(dbx),
            boot_applications=tuple(map(self.digest, self._images())),
            uki_digest=uki,
            uki_sections=sections,
            kernel_cmdline=cmdline,
            load_options=tags.get(_LOAD_OPTIONS, ()),
            initrd_digest=initrds[0] if len(initrds) == 1 else None,
            verity_root_hashes=tuple(map(bytes.fromhex, _VERITY.findall(cmdline or ""))),
        )

    # The order of events.

    def _check_labels(self) -> None:
        """Refuse a separator or action that hides under another type, and the reverse."""
        for event in self.events:
            mark = self.marks.get(self.digest(event))
            firmware = self.ccel or event.register in _FIRMWARE_PCRS
            if mark is not None and event.kind != mark and firmware:
                raise _refused(event, f"the digest is that of {mark.name}, type {event.kind:#x}")
            if event.kind == Kind.SEPARATOR and firmware and mark is not Kind.SEPARATOR:
                raise _refused(event, "a separator of 00000000 or FFFFFFFF expected")
            if (
                event.kind in (Kind.SEPARATOR, Kind.EFI_ACTION)
                and firmware
                and self.log.format != "dstack"
                and not self.means(event, event.data)
            ):
                raise _refused(event, "the digest is not that of the data")

    def _check_separators(self, *, text: bool = False) -> bool:
        """Refuse a second separator; tell whether all registers of the boot have theirs.

        UEFI 2.10 §38.4.1 maps PCR 1 and 7 to RTMR 0 and PCR 2 to 6 to RTMR 1. No firmware writes
        a separator for each: it writes PCR 7's, and one more when it hands over. Older OVMF
        measured that one into RTMR 0, which then has two while RTMR 1 has none. Such a log says
        nothing wrong of images, whose digests need no separator, and is never complete. But nothing
        in it divides firmware from loader, so that one which also carries text to be believed
        (`text`: a command line) is refused like any other. See
        docs/decisions/0013-two-separators-in-rtmr0.md.
        """
        registers = (0, 1) if self.ccel else _FIRMWARE_PCRS
        separators = [
            e for e in self.events if e.kind == Kind.SEPARATOR and e.register in registers
        ]
        counts = Counter(e.register for e in separators)
        if self.log.format == "ccel" and counts == {0: 2} and not text:
            return False
        seen: set[int] = set()
        for event in separators:
            if event.register in seen:
                raise _refused(event, f"a second separator in register {event.register}")
            seen.add(event.register)
        return seen >= set(registers)

    def _check_actions(self) -> bool:
        """Refuse a second boot attempt; tell whether ExitBootServices was called and returned."""
        actions = [e for e in self.events if e.kind == Kind.EFI_ACTION]
        called = False
        for event in actions:
            if event.data == EXIT_INVOKED:
                break
            if event.data == CALLING and called:
                raise _refused(event, "a second EFI application is called before ExitBootServices")
            called |= event.data == CALLING
        names = [e.data for e in actions]
        return names.count(EXIT_INVOKED) == 1 and names[-1:] == [EXIT_RETURNED]

    # What single events say.

    def _images(self) -> list[Event]:
        """Return every event of PCR 2 and 4, or RTMR 1, that may be an image's.

        Types are in no digest, and an event of one PCR can be moved past those of another: hence
        an event counts as an image wherever it stands and whatever it is labelled, unless it is
        proven to be a separator, an action of the firmware's in plain text, or a partition table.
        """
        registers = (1,) if self.ccel else (2, 4)
        return [e for e in self.events if e.register in registers and not self._harmless(e)]

    def _harmless(self, event: Event) -> bool:
        if self.digest(event) in self.marks:
            return True
        plain: dict[int, bool] = {
            Kind.EFI_ACTION: _PLAIN.fullmatch(event.data) is not None,
            Kind.PARTITION_TABLE: event.data.startswith(b"EFI PART"),
        }
        # The preimage of an image's digest starts with MZ and has NULs: it is neither of these.
        return plain.get(event.kind, False) and self.means(event, event.data)

    def _security_variables(self) -> dict[str, bytes]:
        """Return the Secure Boot variables, measured before PCR 7's or RTMR 0's separator."""
        register = 0 if self.ccel else 7
        found: dict[str, bytes] = {}
        for event in self.events:
            if event.register != register:
                continue
            if event.kind == Kind.SEPARATOR:
                return found
            if event.kind != Kind.VARIABLE_DRIVER_CONFIG:
                continue
            vendor, name, value = _variable(event)
            if (vendor, name) not in _SECURITY_VARIABLES:
                continue
            # TPM 1.2 firmware measures the value alone (TCG EFI Platform Specification 1.2).
            old = self.log.format == "tcg1.2" and self.means(event, value)
            if not old and not self.means(event, event.data):
                raise _refused(event, f"the digest is not that of the variable {name}")
            if name in found:
                raise _refused(event, f"the variable {name} stands twice")
            found[name] = value
        return {}

    def _cmdline(self, events: Iterable[Event]) -> str | None:
        """Return the one kernel command line that GRUB or systemd measured as text."""
        found: list[str] = []
        for event in events:
            if event.kind != Kind.IPL or (event.register in _FIRMWARE_PCRS and not self.ccel):
                continue
            prefix = next((p for p in _CMDLINE_PREFIXES if event.data.startswith(p)), None)
            if prefix is not None:
                text = event.data.removeprefix(prefix).rstrip(b"\0")
                if not self.means(event, text):
                    raise _refused(event, "the digest is not that of the kernel command line")
                found.append(text.decode("utf-8", "replace"))
            elif event.register == 12 and not self.ccel and self.means(event, event.data):  # noqa: PLR2004 - PCR 12: what systemd-stub was given
                found.append(event.data.decode("utf-16-le", "replace").rstrip("\0"))
        return found[0] if len(found) == 1 else None

    def _tags(self, events: Iterable[Event]) -> dict[int, tuple[bytes, ...]]:
        """Return the digests of the Linux EFI stub's tagged events: load options, initrd."""
        found: dict[int, tuple[bytes, ...]] = {}
        for event in events:
            if event.kind == Kind.EVENT_TAG and len(event.data) >= _TAG.size:
                tag, size = _TAG.unpack_from(event.data)
                if tag in (_LOAD_OPTIONS, _INITRD) and size == len(event.data) - _TAG.size:
                    found[tag] = (*found.get(tag, ()), self.digest(event))
        return found

    def _uki(self, events: list[Event]) -> tuple[bytes | None, dict[str, bytes]]:
        """Return the UKI's digest and its sections', as systemd-stub measures them into PCR 11.

        Each section is two events: its name, and its content. The UKI is the boot application that
        was loaded last before them.
        """
        if self.ccel:
            return None, {}
        stub = [e for e in events if e.register == 11 and e.kind == Kind.IPL]  # noqa: PLR2004 - PCR 11 is systemd-stub's
        if not stub or len(stub) % 2:
            return None, {}
        sections: dict[str, bytes] = {}
        for named, content in zip(stub[::2], stub[1::2], strict=True):
            name = named.data.decode("utf-16-le", "replace").rstrip("\0").encode()
            if _UKI_SECTION.fullmatch(name) is None or not self.means(named, name + b"\0"):
                raise _refused(named, "a UKI section's name expected")
            if name.decode() in sections:
                raise _refused(named, f"the UKI section {name.decode()} stands twice")
            sections[name.decode()] = self.digest(content)
        loaded = [self.digest(e) for e in self._images() if e.number < stub[0].number]
        return (loaded[-1] if loaded else None), sections

    def _runtime(self) -> BootClaims:
        """Return runtime events whose name stands once; AAEL's pulled images."""
        if self.log.format == "aael":
            return BootClaims(self.bank, images=tuple(_image(e) for e in self.events if _pulls(e)))
        names = Counter(e.name for e in self.events if e.kind == Kind.DSTACK_RUNTIME)
        separated = self._check_separators()
        exited = self._check_actions_by_digest()
        return BootClaims(
            bank=self.bank,
            complete=exited and separated,
            boot_applications=tuple(map(self.digest, self._images())),
            runtime={
                e.name: e.data
                for e in self.events
                if e.kind == Kind.DSTACK_RUNTIME and names[e.name] == 1
            },
        )

    def _check_actions_by_digest(self) -> bool:
        """Do as `_check_actions` for a log whose payloads are cut."""
        actions = {self.hash(data): data for data in (CALLING, EXIT_INVOKED, EXIT_RETURNED)}
        self.events = [
            e._replace(data=actions.get(self.digest(e), e.data)) if e.kind == Kind.EFI_ACTION else e
            for e in self.events
        ]
        return self._check_actions()


_PULL: Final = b"github.com/confidential-containers PullImage "


def _pulls(event: Event) -> bool:
    return event.data.startswith(_PULL)


def _image(event: Event) -> tuple[str, str]:
    try:
        told = json.loads(event.data.removeprefix(_PULL), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise _refused(event, f"PullImage: not JSON: {error}") from error
    if not isinstance(told, dict) or told.keys() != {"image", "digest"}:
        raise _refused(event, "PullImage: image and digest expected")
    image, digest = told["image"], told["digest"]
    if not isinstance(image, str) or not isinstance(digest, str):
        raise _refused(event, "PullImage: image and digest are text")
    return image, digest


def _variable(event: Event) -> tuple[bytes, str, bytes]:
    """Return vendor GUID, name and value of UEFI_VARIABLE_DATA, which must fill the event.

    Raises:
        VerifierError: `event_log_refused`.
    """
    if len(event.data) < _VARIABLE.size:
        raise _refused(event, "not a UEFI variable")
    vendor, letters, size = _VARIABLE.unpack_from(event.data)
    if _VARIABLE.size + 2 * letters + size != len(event.data):
        raise _refused(event, "a UEFI variable's lengths do not fill it")
    end = _VARIABLE.size + 2 * letters
    name = event.data[_VARIABLE.size : end].decode("utf-16-le", "replace")
    return vendor, name, event.data[end:]
