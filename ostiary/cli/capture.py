"""`ostiary policy capture`: draft a policy from evidence that a person reviewed.

Guarantees: evidence that is not genuine is refused, unless `--unverified` asks for a draft that
says so; every value has a comment with the field and the file that it is from; the draft parses
back and, for genuine evidence, accepts the same evidence. Does not review anything: what the
machine's measurements stand for, and whether each relaxed rule may be borne, is for whoever signs.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from ostiary.cli import draft, inputs
from ostiary.cli.common import OK, REFUSED, UNREADABLE, Subparsers, console, fail, write
from ostiary.cli.draft import Section, Source
from ostiary.cli.inputs import UnreadableError, read
from ostiary.client import ClientError
from verifier import policy as policies
from verifier.advice import STOPS
from verifier.anchors import PINNED, Anchors
from verifier.appraise import Endorsements, Evidence, appraise
from verifier.errors import Reason, VerifierError
from verifier.policy import AppraisalPolicy, SnpRules
from verifier.result import AttestationResult, Verdict
from verifier.snp import SnpEndorsements
from verifier.snp.report import SnpReport
from verifier.tdx import collateral as tdx_collateral
from verifier.tdx import quote as quotes
from verifier.wire.canonical import require_id

_ACCEPTABLE: Final = frozenset({"measurements", "measurement"})
"""Checks that are made of genuine evidence only, TDX and SNP."""


@final
@dataclass(frozen=True, slots=True)
class Captured:
    """Evidence as it was read, with all that it takes to judge it."""

    evidence: Evidence
    endorsements: Endorsements | None
    sources: tuple[Source, ...]
    now: int


class CaptureError(Exception):
    """No policy can be drafted from this evidence; the text says why."""


def add_parser(verbs: Subparsers) -> None:
    """Add `capture` to the verbs of `policy`."""
    text = "draft a policy from evidence that you reviewed"
    parser = verbs.add_parser("capture", help=text, description=text)
    parser.add_argument("--kind", required=True, choices=("tdx", "snp"))
    parser.add_argument(
        "--evidence", type=Path, required=True, metavar="F", help="quote or report, binary"
    )
    parser.add_argument("--name", default="captured", help="the reference's name")
    parser.add_argument(
        "--collateral",
        type=Path,
        action="append",
        default=[],
        metavar="F",
        help="tdx: Intel's collateral, JSON; snp: VEK, ASK, ARK and CRL, once each, in this order",
    )
    parser.add_argument(
        "--expect",
        type=Path,
        metavar="F",
        help="a policy whose references were computed (policy measure): refuse what differs",
    )
    parser.add_argument("--at", required=True, metavar="TIME", help="judge dates at this time")
    parser.add_argument("--out", type=Path, metavar="F", help="write there, else print")
    parser.add_argument(
        "--no-crl", action="store_true", help="snp: do not judge revocation; the draft says so"
    )
    parser.add_argument(
        "--unverified",
        action="store_true",
        help="draft from evidence that is NOT genuine, and say so in the draft",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, anchors: Anchors = PINNED) -> int:
    """Draft a policy; return 0, 1 where the evidence does not allow it, 2 for unreadable files."""
    try:
        captured = _read(args)
        text = capture(captured, args.name, anchors=anchors, unverified=args.unverified)
        if args.expect is not None:
            require_expected(captured, policies.from_toml(read("--expect", args.expect)), anchors)
        if args.out is not None:
            write(args.out, text.encode())
    except UnreadableError as error:
        return fail(f"policy capture: {error}", UNREADABLE)
    except ClientError as error:
        return fail(f"policy capture: {error}", UNREADABLE)
    except VerifierError as error:
        return fail(f"policy capture: {error.reason.value}: {error}", UNREADABLE)
    except CaptureError as error:
        return fail(f"policy capture: {error}", REFUSED)
    if args.out is None:
        print(text, end="")
    else:
        console.print(f"drafted   {args.out}; read every comment before you sign anything with it")
    return OK


def _read(args: argparse.Namespace) -> Captured:
    now = inputs.parse_time(args.at)
    require_id(args.name, "--name")
    raw = read("--evidence", args.evidence)
    files = [(path, read("--collateral", path)) for path in args.collateral]
    sources = [_source(args.evidence, raw), *(_source(path, each) for path, each in files)]
    endorsements: Endorsements | None = None
    if files and args.kind == "tdx":
        if len(files) != 1:
            raise UnreadableError("--collateral: one file expected for tdx")
        endorsements = tdx_collateral.from_json(files[0][1])
    elif files:
        wanted = 3 if args.no_crl else 4
        if len(files) != wanted:
            raise UnreadableError(
                f"--collateral: {wanted} files expected for snp: VEK, ASK, ARK"
                f"{'' if args.no_crl else ', CRL'} (or --no-crl)"
            )
        vek, ask, ark = (inputs.certificate("--collateral", path) for path, _ in files[:3])
        crl = None if args.no_crl else files[3][1]
        endorsements = SnpEndorsements(vek, ask, ark, crl, crl_required=not args.no_crl)
    return Captured(Evidence(args.kind, raw), endorsements, tuple(sources), now)


def _source(path: Path, raw: bytes) -> Source:
    return Source(path.name, hashlib.sha256(raw).hexdigest())


def capture(
    captured: Captured, name: str, *, anchors: Anchors = PINNED, unverified: bool = False
) -> str:
    """Return the draft of a policy, TOML with a comment for every value.

    Args:
        captured: the evidence with its endorsements, and the time to judge it at.
        name: of the reference.
        anchors: the vendors' roots.
        unverified: draft from evidence that is not genuine too.

    Raises:
        CaptureError: the evidence is not genuine, or breaks a rule that no policy relaxes.
        VerifierError: it cannot even be read.
    """
    sections = _SECTIONS[captured.evidence.kind]
    found = _judge(captured, None, anchors)
    stopped = _not_genuine(found)
    if stopped and not unverified:
        raise CaptureError(
            f"the evidence is not genuine: {stopped}; only --unverified drafts from it"
        )
    claims = found.claims or {}
    tables = sections(captured, claims, name)
    text = draft.write(
        captured.sources,
        tables,
        at=captured.now,
        simulated=found.simulated,
        warning=stopped,
        waived=_waived(captured),
    )
    policy = policies.from_toml(text.encode())
    if stopped:
        return text
    again = _judge(captured, policy, anchors)
    if again.verdict is not Verdict.ACCEPT:
        failed = "; ".join(
            f"{check.name}: expected {check.expected}, seen {check.seen}"
            for check in again.checks
            if check.ok is False
        )
        raise CaptureError(
            f"genuine, but by strict rules not acceptable: {failed}. Change the machine, or write "
            "that rule yourself; a draft relaxes none"
        )
    return text


def require_expected(captured: Captured, policy: AppraisalPolicy, anchors: Anchors) -> None:
    """Refuse evidence that none of a policy's references fits, whatever its rules say.

    Raises:
        CaptureError: it differs from the nearest one, or there is none of its kind.
    """
    found = _judge(captured, AppraisalPolicy(reference=policy.reference), anchors)
    differs = [
        f"{check.name}: expected {check.expected}, seen {check.seen}"
        for check in found.checks
        if check.reason in (Reason.MEASUREMENT_UNKNOWN, Reason.NO_REFERENCE_VALUES)
    ]
    fits = any(check.name in _ACCEPTABLE and check.ok for check in found.checks)
    if differs or not fits:
        raise CaptureError(
            f"not what was computed: {'; '.join(differs) or 'the evidence was not judged'}"
        )


def _not_genuine(found: AttestationResult) -> str:
    """Return why the evidence is not genuine, or nothing if it is."""
    failed = [f"{check.name}: {check.seen}" for check in found.checks if check.ok is False]
    forged = any(reason in STOPS for reason in found.reasons)
    reached = any(check.name in _ACCEPTABLE for check in found.checks)
    return "" if reached and not forged else "; ".join(failed) or "nothing was judged"


def _judge(
    captured: Captured, policy: AppraisalPolicy | None, anchors: Anchors
) -> AttestationResult:
    return appraise(
        captured.evidence,
        captured.endorsements,
        policy=policy,
        report_data=None,
        now=captured.now,
        anchors=anchors,
    )


def _waived(captured: Captured) -> bool:
    endorsements = captured.endorsements
    return isinstance(endorsements, SnpEndorsements) and not endorsements.crl_required


def _tdx(captured: Captured, claims: Mapping[str, Any], name: str) -> list[Section]:
    body = quotes.parse(captured.evidence.cpu).body
    values = [
        ("mr_td", body.mr_td, "MRTD: the TD's first memory, its virtual firmware."),
        ("rtmr0", body.rtmr0, "RTMR 0: firmware configuration; changes with the machine's shape."),
        ("rtmr1", body.rtmr1, "RTMR 1: boot loader and kernel."),
        ("rtmr2", body.rtmr2, "RTMR 2: kernel command line and initial ram disk."),
    ]
    optional = [
        (
            "rtmr3",
            body.rtmr3,
            "RTMR 3: extended at run time. Leave out if yours differs each time.",
        ),
        (
            "mr_config_id",
            body.mr_config_id,
            "MRCONFIGID: set by the host at launch; a release puts its anchor here.",
        ),
        ("mr_owner", body.mr_owner, "MROWNER: set by the host at launch."),
        ("mr_owner_config", body.mr_owner_config, "MROWNERCONFIG: set by the host at launch."),
    ]
    values += [each for each in optional if any(each[1])]
    values.append(
        (
            "mr_seam",
            body.mr_seam,
            "MRSEAM: Intel's TDX module. Leave it out to trust Intel's TCB alone.",
        )
    )
    del claims
    status = draft.Value(
        "tcb_statuses", '["UpToDate"]', "The strict default, said aloud; not from the evidence."
    )
    return [
        Section("tdx", (status,)),
        _reference("tdx", name, values),
    ]


def _snp(captured: Captured, claims: Mapping[str, Any], name: str) -> list[Section]:
    report = SnpReport.parse(captured.evidence.cpu)
    rules = []
    if report.version in SnpRules().report_versions:  # a draft never admits more than the default
        rules.append(
            draft.Value(
                "report_versions", f"[{report.version}]", "The report's own version.", "VERSION"
            )
        )
    if "product" in claims and "reported_tcb_decoded" in claims:
        product = claims["product"]
        rules.append(
            draft.Value(
                "products",
                f'["{product}"]',
                "By family, model and stepping, or the VEK certificate.",
                "CPUID_FAM_ID, CPUID_MOD_ID",
            )
        )
        # The oldest of the three that a floor is held against.
        parts = [
            claims[f"{which}_decoded"] for which in ("reported_tcb", "committed_tcb", "launch_tcb")
        ]
        floor = ", ".join(f"{part} = {min(each[part] for each in parts)}" for part in parts[0])
        rules.append(
            draft.Value(
                "min_tcb",
                f"{{ {product} = {{ {floor} }} }}",
                "No older firmware than the one that was reviewed.",
                "REPORTED_TCB, COMMITTED_TCB, LAUNCH_TCB",
            )
        )
    rules.append(
        draft.Value("min_guest_svn", str(report.guest_svn), "No older guest.", "GUEST_SVN")
    )
    values = [
        (
            "measurement",
            report.measurement,
            "MEASUREMENT: the launch digest of the guest's first memory.",
        )
    ]
    optional = [
        (
            "host_data",
            report.host_data,
            "HOST_DATA: set by the host at launch; a release puts its anchor here.",
        ),
        ("id_key_digest", report.id_key_digest, "ID_KEY_DIGEST: who signed the ID block."),
        (
            "author_key_digest",
            report.author_key_digest if report.author_key_en else b"",
            "AUTHOR_KEY_DIGEST: who vouches for that key.",
        ),
        ("family_id", report.family_id, "FAMILY_ID: the guest owner's own."),
        ("image_id", report.image_id, "IMAGE_ID: the guest owner's own."),
    ]
    values += [each for each in optional if any(each[1])]
    return [Section("snp", tuple(rules)), _reference("snp", name, values)]


def _reference(kind: str, name: str, values: list[tuple[str, bytes, str]]) -> Section:
    return Section(
        "[reference]",
        tuple(
            draft.Value(field, f'"{value.hex()}"', said.partition(": ")[2], said.partition(": ")[0])
            for field, value, said in values
        ),
        (("kind", kind), ("name", name)),
    )


_SECTIONS: Final[Mapping[str, Callable[[Captured, Mapping[str, Any], str], list[Section]]]] = {
    "tdx": _tdx,
    "snp": _snp,
}
