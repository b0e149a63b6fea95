"""Asks NVIDIA's nv-attestation-sdk about GPUs, in its environment: a question in, an answer out.

    python -I ask.py <question.json >answer.json

Runs in a process of its own, once per question, and never in our environment: the SDK pins an old
`cryptography`, has a package called `verifier` as we do, and carries what it found of one device
into its words about the next. Guarantees: no connection is made (one that is tried ends the
question and is counted); RIMs come from the question; the clock is the question's.

OCSP is answered as good, because nobody recorded NVIDIA's answers: nothing here says how the SDK
judges revocation. A question is

    {"devices": [{"report", "chain", "arch", "driver", "vbios"}], "rims": {id: text},
     "rim_root": PEM or "", "nonce": hex, "now": seconds, "times": calls}

with reports in base64, and an answer {"accepted", "genuine", "measured", "error", "seconds",
"network", "requests"}; `genuine` and `measured` are of the only device, and None where there are
several. `requests` are RIMs and OCSP answers that the SDK would have gone out for in all calls.
"""

from __future__ import annotations

import base64
import importlib
import json
import logging
import os
import sys
import time
import traceback
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

NETWORK: list[str] = []
REQUESTS: list[str] = []
"""RIMs and OCSP answers that the SDK wanted."""
CLAIM = "x-nvidia-gpu-attestation-report-"


@dataclass
class Device:
    """What the SDK asks of an object with evidence."""

    number: int
    told: dict[str, Any]

    def get_gpu_architecture(self) -> int:
        """Return the number that NVML gives to an architecture."""
        return int(self.told["arch"])

    def get_uuid(self) -> str:
        """Return a name."""
        return f"GPU-{self.number}"

    def get_driver_version(self) -> str:
        """Return the version that NVML would have told, outside of the report."""
        return str(self.told["driver"])

    def get_vbios_version(self) -> str:
        """Return the version that NVML would have told, outside of the report."""
        return str(self.told["vbios"])

    def get_attestation_report(self) -> bytes:
        """Return request and response."""
        return base64.b64decode(self.told["report"])

    def get_attestation_cert_chain(self) -> list[Any]:
        """Return the chain as pyOpenSSL's certificates, new ones: the SDK changes the list."""
        crypto = importlib.import_module("OpenSSL.crypto")
        end = "-----END CERTIFICATE-----"
        blocks = [part + end for part in self.told["chain"].split(end) if "BEGIN" in part]
        return [crypto.load_certificate(crypto.FILETYPE_PEM, block.encode()) for block in blocks]


class Heard(logging.Handler):
    """Keeps what the SDK logs as an error: it swallows what went wrong and returns False."""

    said: ClassVar[list[str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line, or the exception that it is about."""
        error = record.exc_info[1] if record.exc_info else None
        text = record.getMessage() if error is None else f"{type(error).__name__}: {error}"
        self.said.append(" ".join(text.split()))


def close_doors() -> None:
    """Refuse every connection and look-up of a name from here on, and count them."""

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event in {"socket.connect", "socket.getaddrinfo", "socket.sendto"}:
            NETWORK.append(f"{event} {arguments[1:]}")
            raise PermissionError(f"the oracle has no network: {event}")

    sys.addaudithook(refuse)


def bend(question: dict[str, Any]) -> Any:  # noqa: ANN401 - a module of theirs
    """Load the SDK; put the question's clock, RIMs and root where it looks for the world's."""
    warnings.simplefilter("ignore")
    admin = importlib.import_module("verifier.cc_admin")
    utils = importlib.import_module("verifier.cc_admin_utils")
    config = importlib.import_module("verifier.config")
    crypto = importlib.import_module("OpenSSL.crypto")
    for name in list(logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        logger.handlers[:] = [Heard(logging.ERROR)]
        logger.propagate = False
    moment = datetime.fromtimestamp(question["now"], UTC).replace(tzinfo=None)
    begin = crypto.X509StoreContext.__init__

    def at_that_time(context: object, store: Any, *rest: object) -> None:  # noqa: ANN401 - theirs
        store.set_time(moment)
        begin(context, store, *rest)

    def fetch(name: str) -> str:
        REQUESTS.append(name)
        if name not in question["rims"]:
            raise LookupError(f"no RIM {name}")
        return str(question["rims"][name])

    def good(chain: list[Any], _: object, mode: Any) -> tuple[bool, str, str, None]:  # noqa: ANN401 - theirs
        chain[:] = [certificate.to_cryptography() for certificate in chain]  # as the real one does
        subjects = chain[:-1] if mode.name.endswith("RIM_CERT") else chain[1:-1]
        REQUESTS.extend("OCSP" for _ in subjects)
        return True, "", "good", None

    crypto.X509StoreContext.__init__ = at_that_time
    utils.CcAdminUtils.fetch_rim_file = staticmethod(fetch)
    utils.CcAdminUtils.ocsp_certificate_chain_validation = staticmethod(good)
    admin.NvmlHandler.is_cc_dev_mode = staticmethod(lambda: False)
    if question["rim_root"]:
        path = Path("rim_root.pem").resolve()
        path.write_text(question["rim_root"])
        config.BaseSettings.RIM_ROOT_CERT = str(path)
    return admin


OPTIONS = {
    "verbose": False,
    "test_no_gpu": False,
    "driver_rim": None,
    "vbios_rim": None,
    "user_mode": True,
    "allow_hold_cert": False,
    "rim_service_url": None,
    "ocsp_url": None,
    "service_key": None,
    "ocsp_nonce_disabled": False,
    "claims_version": "2.0",
}


def ask(question: dict[str, Any]) -> dict[str, Any]:
    """Return the SDK's answer to one question."""
    admin = bend(question)
    answer: dict[str, Any] = {"accepted": False, "genuine": None, "measured": None, "error": ""}
    seconds = []
    for _ in range(question["times"]):
        devices = [Device(number, told) for number, told in enumerate(question["devices"])]
        start = time.perf_counter()
        try:
            accepted, _claims = admin.attest(dict(OPTIONS), question["nonce"], devices)
            answer["accepted"] = accepted is True
        except Exception:  # noqa: BLE001 - whatever somebody else's code raises is its answer
            answer["error"] = traceback.format_exc(limit=-1).strip().splitlines()[-1]
        seconds.append(time.perf_counter() - start)
    if len(question["devices"]) == 1:
        settings = admin.GPU_ARCHITECTURE_MAP[question["devices"][0]["arch"]]
        claims = {} if settings is None else admin.ClaimsUtils.get_current_gpu_claims(settings, "")
        held = ("cert-chain-validated", "parsed", "nonce-match", "signature-verified")
        answer["genuine"] = all(claims.get(CLAIM + name) is True for name in held)
        answer["measured"] = claims.get("measres") == "success"
    if not answer["accepted"] and not answer["error"]:
        answer["error"] = Heard.said[-1] if Heard.said else ""
    return answer | {"seconds": seconds, "network": len(NETWORK), "requests": len(REQUESTS)}


def main() -> None:
    """Answer the question on standard input; what the SDK prints goes to standard error."""
    question = json.load(sys.stdin)
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        close_doors()
        json.dump(ask(question), out)


if __name__ == "__main__":
    main()
