"""Collateral from a folder that an operator, or the simulator, filled.

    tdx/<anything>.json            the nine parts, as `ostiary verify tdx --collateral` reads them
    snp/<product>/ark.der ask.der asvk.der crl.der
    snp/vek/<chip id>-<reported TCB>.der       where the evidence does not bring its own VEK

Guarantees: reads only inside the folder, never more than the limits, and reads a file again when it
has changed. TDX files are found by the FMSPC and the kind of CA in them, both compared again by the
verifier. Does not fetch anything.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, final

from verifier.cache import Cache
from verifier.collateral import Found
from verifier.collateral.certificate_table import VCEK, VLEK, find
from verifier.errors import Reason, VerifierError
from verifier.snp import SnpEndorsements, product
from verifier.snp.report import SnpReport
from verifier.tdx import pck, quote
from verifier.tdx.collateral import MAX_COLLATERAL, TdxCollateral, from_json
from verifier.tdx.vendor_json import loads
from verifier.wire.framing import lp_list

MAX_DER: Final = 1 << 20
_Stamp = tuple[int, int, int]


@final
@dataclass(slots=True)
class FolderSource:
    """One folder. `_tdx` remembers what was parsed, by file and its inode, size and mtime.

    `_fmspcs` remembers what PCK chains said, unverified as they are here.
    """

    root: Path
    _tdx: dict[Path, tuple[_Stamp, str, Found]] = field(default_factory=dict)
    _fmspcs: Cache = field(default_factory=Cache)

    def find(self, kind: Literal["tdx", "snp"], cpu: bytes, handed_over: bytes) -> Found:
        """Return the endorsements in this folder for the platform of this evidence.

        Raises:
            VerifierError: `collateral_missing`, `collateral_malformed`, or `malformed` evidence.
        """
        return self._find_tdx(cpu) if kind == "tdx" else self._find_snp(cpu, handed_over)

    def _find_tdx(self, cpu: bytes) -> Found:
        chain = quote.parse(cpu).cert_data
        wanted = self._fmspcs.recall(
            str,
            hashlib.sha256(chain).digest(),
            lambda: str(pck.read_claims(chain)["fmspc"]).lower(),
        )
        seen = []
        for path in sorted((self.root / "tdx").glob("*.json")):
            fmspc, found = self._tdx_file(path)
            if fmspc == wanted:
                return found
            seen.append(fmspc)
        raise VerifierError(
            Reason.COLLATERAL_MISSING,
            f"no TDX collateral for FMSPC {wanted} in the folder; it has: {', '.join(seen) or '-'}",
        )

    def _tdx_file(self, path: Path) -> tuple[str, Found]:
        try:
            status = path.stat()
        except OSError as error:
            raise VerifierError(
                Reason.COLLATERAL_MISSING, f"{path.name}: {error.strerror}"
            ) from error
        stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
        known = self._tdx.get(path)
        if known is not None and known[0] == stamp:
            return known[1], known[2]
        raw = _read(path, MAX_COLLATERAL)
        collateral = from_json(raw)
        fmspc = _fmspc(collateral, path.name)
        found = Found(collateral, hashlib.sha256(raw).digest(), raw)
        self._tdx[path] = (stamp, fmspc, found)
        return fmspc, found

    def _find_snp(self, cpu: bytes, handed_over: bytes) -> Found:
        report = SnpReport.parse(cpu)
        name = product.from_cpuid(report.cpuid_fam, report.cpuid_mod).product
        folder = self.root / "snp" / name
        is_vlek = report.signing_key_name == "VLEK"
        handed = handed_over and find(handed_over, VLEK if is_vlek else VCEK)
        vek = handed or _read(
            self.root / "snp" / "vek" / f"{report.chip_id.hex()}-{report.reported_tcb.hex()}.der",
            MAX_DER,
        )
        ask = _read(folder / ("asvk.der" if is_vlek else "ask.der"), MAX_DER)
        ark, crl = (_read(folder / file, MAX_DER) for file in ("ark.der", "crl.der"))
        raw = lp_list((vek, ask, ark, crl))
        endorsements = SnpEndorsements(vek=vek, ask=ask, ark=ark, crl=crl)
        return Found(endorsements, hashlib.sha256(raw).digest(), raw)


def _fmspc(collateral: TdxCollateral, name: str) -> str:
    fmspc = loads(collateral.tcb_info, name).get("fmspc")
    if not isinstance(fmspc, str):
        raise VerifierError(Reason.COLLATERAL_MALFORMED, f"{name}: tcb_info has no fmspc")
    return fmspc.lower()


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise VerifierError(
            Reason.COLLATERAL_MISSING, f"{path.name}: {error.strerror}; put it into {path.parent}"
        ) from error
    if len(raw) > limit:
        raise VerifierError(Reason.TOO_LARGE, f"{path.name} is larger than {limit} bytes")
    return raw
