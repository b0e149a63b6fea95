"""The corpus of real evidence: where it lies, its cases, and what the command line says of each.

The files were captured by other projects and are never copied here. `OSTIARY_EVIDENCE_DIR` names
the folder; tests that need it are skipped, saying so, where it is absent.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ostiary.cli import verify

ROOT = Path(__file__).resolve().parents[2]
EVIDENCE = (ROOT / os.environ.get("OSTIARY_EVIDENCE_DIR", "../shared/evidence")).resolve()
ABSENT = f"no evidence corpus at {EVIDENCE}: set OSTIARY_EVIDENCE_DIR"


def _names(tees: tuple[str, ...]) -> list[str]:
    index = EVIDENCE / "INDEX.json"
    if not index.is_file():
        return []
    entries = json.loads(index.read_text())
    return [e["case"] for e in entries if e["case"].split("/")[0] in tees]


@dataclass(frozen=True)
class Case:
    """One case: its folder and what its `case.json` says."""

    name: str
    folder: Path
    told: dict[str, Any]

    @property
    def tee(self) -> str:
        return self.name.split("/", maxsplit=1)[0]

    @property
    def expected(self) -> dict[str, Any]:
        return dict(self.told["expected"])

    @property
    def now(self) -> int:
        return int(self.told["verification_time"]["unix"])

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def has(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def arguments(self) -> list[str]:
        """Return the arguments of `ostiary` that appraise this case, files as they lie there."""
        found = ["verify", self.tee, "--at", self.told["verification_time"]["iso"], "--json"]
        if self.tee in ("tdx", "sgx"):
            found += ["--quote", str(self.folder / "quote.bin")]
            if self.has("collateral.json"):
                found += ["--collateral", str(self.folder / "collateral.json")]
            return found
        found += ["--report", str(self.folder / "report.bin")]
        for option, names in (
            ("--vek", ("vcek.der", "vlek.der")),
            ("--ask", ("ask.der", "asvk.der")),
            ("--ark", ("ark.der",)),
        ):
            for name in names:
                if self.has(name):
                    found += [option, str(self.folder / name)]
        return [
            *found,
            *(["--crl", str(self.folder / "crl.der")] if self.has("crl.der") else ["--no-crl"]),
        ]


def legacy_sgx_arguments(case: Case, folder: Path) -> list[str]:
    """Return the arguments for a case of SGX TCB info alone, which `folder` takes a bundle for.

    It stands in for the TCB info of a quote from a platform of the same family.
    """
    quoted = load("sgx/v3-00606a-outofdate-2025")
    answer = case.read("tcbinfo.json").decode()
    text, signature = answer.removeprefix('{"tcbInfo":').rsplit(',"signature":"', 1)
    bundle = json.loads(quoted.read("collateral.json")) | {
        "tcb_info": text,
        "tcb_info_signature": signature.rstrip('"}\n'),
        "tcb_info_issuer_chain": case.read("tcb_chain.pem").decode(),
    }
    path = folder / "collateral.json"
    path.write_text(json.dumps(bundle))
    at = case.told["verification_time"]["iso"]
    quote = str(quoted.folder / "quote.bin")
    return ["verify", "sgx", "--at", at, "--json", "--quote", quote, "--collateral", str(path)]


def load(name: str) -> Case:
    """Return one case by its name, such as `tdx/v5-90c06f-uptodate`."""
    folder = EVIDENCE / name
    return Case(name, folder, json.loads((folder / "case.json").read_text()))


NAMES = _names(("tdx", "snp", "sgx"))
TDX_NAMES = [name for name in NAMES if name.startswith("tdx/")]


def run_cli(arguments: list[str]) -> tuple[int, str, str]:
    """Return exit status, output and errors of `ostiary` with these arguments, in this process."""
    parser = argparse.ArgumentParser("ostiary")
    verify.add_parser(parser.add_subparsers(required=True))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            args = parser.parse_args(arguments)
            status = args.run(args)
        except SystemExit as stop:
            status = int(stop.code or 0)
    return status, out.getvalue(), err.getvalue()
