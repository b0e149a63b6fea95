"""What a guest is for, from `guest.toml`, and the files of the image that follow from it.

Guarantees: unknown fields, names and addresses that are none are refused; nothing of a value can
become another line of a unit, of the firewall or of the kernel command line.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, final

HERE: Final = Path(__file__).resolve().parent
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@=,+-]*")
_OPTION: Final = re.compile(r"--?[a-z][A-Za-z0-9._/:@=,+-]*")
_URL: Final = re.compile(r"(https?)://([a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(?::([0-9]{1,5}))?/?")
_SCHEME_PORTS: Final = {"http": 80, "https": 443}
_KINDS: Final = frozenset({"tdx", "snp", "gcp-tdx", "gcp-snp"})
_MAX_PORT: Final = 65535
_FIELDS: Final = {
    "runtime": {"broker", "tenant", "model", "kind", "port", "arguments"},
    "network": {"broker", "registries", "callers"},
    "image": {"suite", "kernel", "command_line"},
}
_UNMEASURED: Final = (
    "--simulated-device",
    "--broker",
    "--tenant",
    "--model",
    "--kind",
    "--host",
    "--port",
)

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


@final
class SettingsError(Exception):
    """`guest.toml` asks for something that is not understood, or not allowed."""


@final
@dataclass(frozen=True, slots=True)
class Guest:
    """One guest. `places` are addresses and TCP ports that it may reach; `callers` may reach it."""

    broker: str
    broker_name: str
    broker_addresses: tuple[Address, ...]
    tenant: str
    model: str
    kind: str
    port: int
    arguments: tuple[str, ...]
    places: tuple[tuple[Address, int], ...]
    callers: tuple[Network, ...]
    suite: str
    kernel: str
    command_line: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Guest:
        """Read a file's text.

        Raises:
            SettingsError: with the field's name.
        """
        try:
            raw = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(f"no TOML: {error}") from error
        _require_fields(raw)
        runtime, network, image = raw["runtime"], raw["network"], raw["image"]
        url = _URL.fullmatch(_text(runtime, "broker"))
        if url is None:
            raise SettingsError("runtime.broker: an address such as https://broker.example:8420")
        scheme, name, port = url.groups()
        addresses = tuple(_addresses(network, "broker"))
        if not addresses:
            raise SettingsError("network.broker: at least one address: the guest asks no DNS")
        broker_port = _port("runtime.broker", int(port) if port else _SCHEME_PORTS[scheme])
        registries = [_place(each) for each in _words(network, "registries", _text_of)]
        kind = _text(runtime, "kind")
        if kind not in _KINDS:
            raise SettingsError(f"runtime.kind: one of {', '.join(sorted(_KINDS))}")
        arguments = _words(runtime, "arguments", _argument)
        for each in arguments:
            if each.split("=")[0] in _UNMEASURED:
                raise SettingsError(f"runtime.arguments: {each} is not given here")
        return cls(
            broker=url.group(0),
            broker_name=name,
            broker_addresses=addresses,
            tenant=_word("runtime.tenant", runtime.get("tenant")),
            model=_word("runtime.model", runtime.get("model")),
            kind=kind,
            port=_port("runtime.port", runtime.get("port")),
            arguments=tuple(arguments),
            places=(*((each, broker_port) for each in addresses), *registries),
            callers=tuple(_networks(network, "callers")),
            suite=_word("image.suite", image.get("suite")),
            kernel=_word("image.kernel", image.get("kernel")),
            command_line=tuple(_words(image, "command_line", _addition)),
        )

    def serve_arguments(self) -> str:
        """Return what follows `ostiary runtime serve` in the unit."""
        fixed = [
            *("--broker", self.broker, "--tenant", self.tenant, "--model", self.model),
            *("--kind", self.kind, "--host", "0.0.0.0", "--port", str(self.port)),  # noqa: S104 - the firewall names who may reach it
        ]
        return " ".join([*fixed, *self.arguments])

    def hosts(self) -> str:
        """Return /etc/hosts: the guest asks no DNS."""
        lines = ["127.0.0.1 localhost ostiary-guest", "::1 localhost"]
        lines += [f"{address} {self.broker_name}" for address in self.broker_addresses]
        return "".join(f"{line}\n" for line in lines)

    def kernel_words(self, root_hash: str) -> str:
        """Return the kernel command line for a root of this hash."""
        return " ".join([f"roothash={root_hash}", *_fixed_words(), *self.command_line])

    def firewall(self) -> str:
        """Return /etc/nftables.conf."""
        rules = (HERE / "nftables.conf").read_text()
        out, callers = [], []
        for family, version in (("ip", 4), ("ip6", 6)):
            places = [f"{a} . {port}" for a, port in self.places if a.version == version]
            if places:
                out.append(f"{family} daddr . tcp dport {{ {', '.join(places)} }} accept")
            known = [str(each) for each in self.callers if each.version == version]
            if known:
                callers.append(
                    f"{family} saddr {{ {', '.join(known)} }} tcp dport {self.port} accept"
                )
        indent = "\n        "
        return rules.replace("@PLACES@", indent.join(out)).replace(
            "@CALLERS@", indent.join(callers)
        )


def _require_fields(raw: dict[str, Any]) -> None:
    if raw.keys() != _FIELDS.keys():
        raise SettingsError(f"the tables are {', '.join(_FIELDS)}, each once")
    for table, names in _FIELDS.items():
        found = raw[table]
        if not isinstance(found, dict) or found.keys() != names:
            raise SettingsError(f"[{table}] has the fields {', '.join(sorted(names))}, all of them")


def _text_of(where: str, value: object) -> str:
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        raise SettingsError(f"{where}: a text expected")
    return value


def _text(table: dict[str, Any], name: str) -> str:
    return _text_of(name, table[name])


def _word(where: str, value: object) -> str:
    text = _text_of(where, value)
    if not _NAME.fullmatch(text):
        raise SettingsError(f"{where}: {text!r}: one word of letters, digits, ._/:@=,+- expected")
    return text


def _argument(where: str, value: object) -> str:
    text = _text_of(where, value)
    return text if _OPTION.fullmatch(text) else _word(where, text)


def _addition(where: str, value: object) -> str:
    text = _word(where, value)
    key = text.split("=")[0]
    if key in {each.split("=")[0] for each in ("roothash", "init", *_fixed_words())}:
        raise SettingsError(f"{where}: {key} is set already")
    return text


def _fixed_words() -> list[str]:
    lines = (HERE / "cmdline.txt").read_text().splitlines()
    return [word for line in lines for word in line.split("#")[0].split()]


def _words(table: dict[str, Any], name: str, read: Any) -> list[str]:  # noqa: ANN401 - one of the two readers above
    found = table[name]
    if not isinstance(found, list):
        raise SettingsError(f"{name}: a list expected")
    return [read(name, each) for each in found]


def _port(where: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _MAX_PORT:
        raise SettingsError(f"{where}: a port from 1 to {_MAX_PORT} expected")
    return value


def _addresses(table: dict[str, Any], name: str) -> Iterable[Address]:
    for each in _words(table, name, _text_of):
        try:
            yield ipaddress.ip_address(each)
        except ValueError as error:
            raise SettingsError(f"{name}: {error}") from error


def _networks(table: dict[str, Any], name: str) -> Iterable[Network]:
    for each in _words(table, name, _text_of):
        try:
            yield ipaddress.ip_network(each)
        except ValueError as error:
            raise SettingsError(f"{name}: {error}") from error


def _place(text: str) -> tuple[Address, int]:
    address, _, port = text.rpartition(":")
    try:
        return ipaddress.ip_address(address.strip("[]")), _port("registries", int(port))
    except ValueError as error:
        raise SettingsError(f"registries: {text!r}: ADDRESS:PORT expected") from error
