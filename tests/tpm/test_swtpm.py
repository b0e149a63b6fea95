"""Quotes of a real TPM implementation, swtpm, which this test starts and stops.

Needs the Debian packages swtpm and tpm2-tools; skipped, saying so, where they are not installed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kit.tpm_chain import anchors
from tests.kit.vendors import NOW
from verifier.errors import Reason, VerifierError
from verifier.result import Appraisal, Verdict
from verifier.tpm import keys
from verifier.tpm.appraise import TpmEvidence, appraise_tpm

MISSING = [name for name in ("swtpm", "tpm2_quote") if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"not installed: {' '.join(MISSING)} (Debian: swtpm, tpm2-tools)"
)
NONCE = "00112233445566778899"
EXTENDED = "ab" * 32
RESTRICTED = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign"
KEYS = {"rsa2048": "rsa2048:rsassa-sha256:null", "ecc256": "ecc256:ecdsa-sha256:null"}


@dataclass(frozen=True)
class Tpm:
    """A running TPM: its folder, which is also where tools write."""

    folder: Path

    def run(self, *command: str) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "TPM2TOOLS_TCTI": f"swtpm:path={self.folder}/socket",
        }
        subprocess.run(
            command,
            check=True,
            cwd=self.folder,
            env=environment,
            timeout=20,
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


@pytest.fixture(scope="module")
def tpm() -> Iterator[Tpm]:
    # A unix socket's path is at most 107 bytes, which pytest's own folders may exceed.
    with tempfile.TemporaryDirectory(prefix="swtpm-") as name:
        command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={name}"]
        command += ["--server", f"type=unixio,path={name}/socket"]
        command += ["--ctrl", f"type=unixio,path={name}/socket.ctrl"]
        command += ["--flags", "not-need-init,startup-clear"]
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
        try:
            made = Tpm(Path(name))
            for _ in range(100):
                if (made.folder / "socket").exists():
                    break
                time.sleep(0.05)
            made.run("tpm2_pcrextend", f"7:sha256={EXTENDED}")
            yield made
        finally:
            process.terminate()
            process.wait(timeout=10)


def quoted(tpm: Tpm, kind: str, attributes: str = RESTRICTED) -> TpmEvidence:
    """Return a quote of PCR 0 and 7 by a fresh key."""
    tpm.run("tpm2_createprimary", "-Q", "-C", "e", "-G", "rsa2048", "-c", "primary")
    create = ["tpm2_create", "-Q", "-C", "primary", "-G", KEYS[kind], "-a", attributes]
    tpm.run(*create, "-u", "ak.pub", "-r", "ak.priv")
    tpm.run("tpm2_flushcontext", "-t")
    tpm.run("tpm2_load", "-Q", "-C", "primary", "-u", "ak.pub", "-r", "ak.priv", "-c", "ak")
    tpm.run("tpm2_flushcontext", "-t")
    quote = ["tpm2_quote", "-Q", "-c", "ak", "-l", "sha256:0,7", "-q", NONCE, "-g", "sha256"]
    tpm.run(*quote, "-m", "attest", "-s", "signature")
    tpm.run("tpm2_flushcontext", "-t")
    extended = hashlib.sha256(bytes(32) + bytes.fromhex(EXTENDED)).digest()
    pcrs = {"sha256": {0: bytes(32), 7: extended}}
    return TpmEvidence(tpm.read("attest"), tpm.read("signature"), tpm.read("ak.pub"), pcrs)


def judged(evidence: TpmEvidence, nonce: str = NONCE) -> tuple[Reason, ...]:
    appraisal = Appraisal("tpm")
    raw = bytes.fromhex(nonce)
    appraise_tpm(appraisal, evidence, policy=None, nonce=raw, now=NOW, anchors=anchors())
    result = appraisal.result()
    assert (result.verdict is Verdict.ACCEPT) == (not result.reasons)
    return result.reasons


@pytest.mark.parametrize("kind", KEYS)
def test_a_quote_of_a_tpm(tpm: Tpm, kind: str) -> None:
    """A quote that a TPM made is accepted, with the PCRs that it was extended to."""
    evidence = quoted(tpm, kind)

    assert keys.load(tpm.read("ak.pub")).form == "tpmt_public"
    assert judged(evidence) == ()
    assert judged(evidence, "00") == (Reason.NONCE_MISMATCH,)
    other = {"sha256": {0: bytes(32), 7: bytes(32)}}
    with pytest.raises(VerifierError) as caught:
        judged(TpmEvidence(evidence.attest, evidence.signature, evidence.ak, other))
    assert caught.value.reason is Reason.PCR_DIGEST_MISMATCH


def test_a_key_that_signs_anything(tpm: Tpm) -> None:
    """A key that is not restricted may sign a made-up quote, and is refused."""
    evidence = quoted(tpm, "rsa2048", RESTRICTED.replace("restricted|", ""))

    with pytest.raises(VerifierError) as caught:
        judged(evidence)
    assert caught.value.reason is Reason.AK_REFUSED
