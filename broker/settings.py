"""The broker's settings: one TOML file in its home, and the only reader of the environment.

Guarantees: unknown settings are errors; a production broker cannot trust simulated hardware and
cannot run its HSM worker as its own user. Nothing secret stands here: the PIN has its own file,
which the worker alone reads.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Final, Literal, final

import msgspec

from broker.errors import BrokerError, Code

CONFIRMATION: Final = "i-know-that-simulated-evidence-proves-nothing"
FILE: Final = "broker.toml"


@final
class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that an operator may set. Paths that are not absolute stand in the home.

    `mode`: "demo" runs the HSM worker as a child of the same user; "production" wants `hsm_socket`,
    the socket of a worker that another user runs. `database` is an SQLAlchemy URL, empty for
    SQLite in the home. `dangerously_trust_simulated_hardware` must hold `CONFIRMATION` and
    `simulated_roots` a file of the simulator's root digests, in demo mode only.

    `collateral_fetch` lets the broker ask the vendors' services for endorsements that neither
    folder nor store has: `intel_pcs` (a PCS or PCCS), `intel_root_crl` (empty: Intel's own, or the
    PCCS's), `amd_kds` with at most `amd_kds_per_minute` requests, and for VCEKs before that
    `azure_imds` and `azure_cache` if they are set; for GPUs `nvidia_rim`, `nvidia_ocsp` and
    `nvidia_crl`, with the service key in the file `nvidia_key` if NVIDIA gave one, and at most
    `nvidia_per_minute` requests. `collateral_update` is Intel's "standard" or "early" set;
    `collateral_ca` a PEM file of authorities in the place of the public ones.
    """

    mode: Literal["demo", "production"] = "production"
    host: str = "127.0.0.1"
    port: int = 8420
    database: str = ""
    collateral: str = "collateral"
    collateral_fetch: bool = False
    collateral_update: Literal["standard", "early"] = "standard"
    collateral_ca: str = ""
    intel_pcs: str = "https://api.trustedservices.intel.com"
    intel_root_crl: str = ""
    amd_kds: str = "https://kdsintf.amd.com"
    amd_kds_per_minute: Annotated[int, msgspec.Meta(ge=1, le=6000)] = 6
    azure_imds: str = ""
    azure_cache: str = ""
    nvidia_rim: str = "https://rim.attestation.nvidia.com"
    nvidia_ocsp: str = "https://ocsp.ndis.nvidia.com"
    nvidia_crl: str = "https://crl.ndis.nvidia.com"
    nvidia_key: str = ""
    nvidia_per_minute: Annotated[int, msgspec.Meta(ge=1, le=6000)] = 120
    objects: str = "objects"
    hsm_socket: str = ""
    hsm_module: str = ""
    max_sealed_file: int = 1 << 40
    dangerously_trust_simulated_hardware: str = ""
    simulated_roots: str = ""

    def check(self) -> None:
        """Refuse combinations that must not exist.

        Raises:
            BrokerError: `settings_invalid`, saying what to change.
        """
        trust = self.dangerously_trust_simulated_hardware
        if self.mode == "production" and (trust or self.simulated_roots):
            raise BrokerError(
                Code.SETTINGS_INVALID,
                "a production broker does not trust simulated hardware: remove "
                "dangerously_trust_simulated_hardware and simulated_roots",
            )
        if self.mode == "production" and not self.hsm_socket:
            raise BrokerError(
                Code.SETTINGS_INVALID,
                "a production broker needs hsm_socket, the socket of an HSM worker that runs as "
                "another user; only mode = 'demo' runs the worker as its own",
            )
        if bool(trust) != bool(self.simulated_roots) or trust not in {"", CONFIRMATION}:
            raise BrokerError(
                Code.SETTINGS_INVALID,
                f"to trust a simulator, set simulated_roots and set "
                f"dangerously_trust_simulated_hardware = '{CONFIRMATION}'",
            )

    @property
    def simulated(self) -> bool:
        """Whether this broker trusts a simulator's roots."""
        return bool(self.simulated_roots)


def load(home: Path) -> Settings:
    """Return the settings in `home`.

    Raises:
        BrokerError: `settings_invalid`.
    """
    path = home / FILE
    try:
        settings = msgspec.convert(tomllib.loads(path.read_text()), Settings)
    except OSError as error:
        raise BrokerError(
            Code.SETTINGS_INVALID, f"{path}: {error.strerror}; run `ostiary broker init` first"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise BrokerError(Code.SETTINGS_INVALID, f"{path}: {error}") from error
    settings.check()
    return settings


def home() -> Path:
    """Return the broker's home: `OSTIARY_HOME`, or `.ostiary` here."""
    return Path(os.environ.get("OSTIARY_HOME", ".ostiary"))
