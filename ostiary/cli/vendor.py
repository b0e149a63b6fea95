"""`ostiary vendor`, `model`, `key` and `policy`: what a model vendor does."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

from ostiary import provenance, publish, vendor
from ostiary.cli import capture, common, measure
from ostiary.cli import provenance as provenance_options
from ostiary.cli.common import OK, REFUSED, Subparsers, console
from ostiary.cli.inputs import UnreadableError
from ostiary.client import ClientError, TenantClient, load_key
from verifier import dsse
from verifier.policy import AppraisalPolicy
from verifier.wire import canonical
from verifier.wire.documents import Genesis
from verifier.wire.leaf import KeyState


def add_parser(subparsers: Subparsers) -> None:
    """Add the vendor's nouns."""
    _add_vendor(subparsers)
    _add_model(subparsers)
    _add_key(subparsers)
    _add_policy(subparsers)


def _add(
    subparsers: Subparsers, name: str, command: common.Command, help_text: str
) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(name, help=help_text, description=help_text)
    parser.set_defaults(run=common.guarded(command))
    return parser


def _add_vendor(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("vendor", help="the vendor's own key and genesis")
    verbs = parser.add_subparsers(required=True)
    keygen = _add(verbs, "keygen", _keygen, "make a signing key (Ed25519, PEM, mode 0600)")
    keygen.add_argument("out", type=Path)
    genesis = _add(
        verbs, "sign-genesis", _sign_genesis, "sign the genesis that an operator drew up"
    )
    genesis.add_argument("draft", type=Path)
    genesis.add_argument("--key", type=Path, required=True, metavar="F")
    genesis.add_argument("--out", type=Path, required=True, metavar="F")

    key = _add(verbs, "import-key", _import_key, "have an import key made in the broker's HSM")
    common.add_broker_options(key)


def _add_model(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("model", help="seal a model and hand it in")
    verbs = parser.add_subparsers(required=True)
    seal = _add(verbs, "seal", _seal, "encrypt a folder; the key leaves only wrapped to the HSM")
    seal.add_argument("folder", type=Path)
    seal.add_argument("out", type=Path)
    seal.add_argument("--model", required=True, metavar="ID/VERSION")
    common.add_broker_options(seal)
    _add_pin(seal)
    push = _add(verbs, "push", _push, "upload manifest, sealed files and the wrapped key")
    push.add_argument("sealed", type=Path)
    common.add_broker_options(push)


def _add_pin(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--import-key-sha256",
        type=common.digest,
        required=True,
        metavar="HEX",
        help="the import key's digest as the operator told you, not as the broker says",
    )


def _add_key(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("key", help="move a key to another state; see keys")
    verbs = parser.add_subparsers(required=True)
    order = _add(verbs, "order", _order, "activate, suspend, deactivate or compromise a key")
    order.add_argument("key_version", metavar="ID/VERSION")
    order.add_argument("state", choices=[state.value for state in KeyState])
    order.add_argument("--reason", default="")
    common.add_broker_options(order)
    show = _add(verbs, "list", _list, "keys, their states and policies, and who holds a lease")
    common.add_broker_options(show)


def _add_policy(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("policy", help="write, check, sign and push a release policy")
    verbs = parser.add_subparsers(required=True)
    capture.add_parser(verbs)
    measure.add_parser(verbs)
    lint = _add(verbs, "lint", _lint, "say what a careful reader would object to")
    lint.add_argument("policy", type=Path)
    sign = _add(verbs, "sign", _sign_policy, "sign a policy for a tenant")
    sign.add_argument("policy", type=Path)
    sign.add_argument("--out", type=Path, required=True, metavar="F")
    sign.add_argument("--version", type=int, default=1)
    sign.add_argument("--after", type=Path, metavar="F", help="the signed version before this one")
    common.add_tenant_options(sign)
    push = _add(verbs, "push", _push_policy, "put a signed policy in force")
    push.add_argument("signed", type=Path)
    provenance_options.add_options(push)
    common.add_broker_options(push)
    built = _add(
        verbs, "provenance", _push_provenance, "hand in new Sigstore bundles for a policy in force"
    )
    built.add_argument("signed", type=Path)
    provenance_options.add_options(built)
    common.add_broker_options(built)


def _keygen(args: argparse.Namespace) -> int:
    public = Path(f"{args.out}.pub")
    if public.exists():
        raise ClientError("key_file", f"{public}: exists; no key was made")
    key = vendor.new_key(args.out)
    spki = dsse.spki(key.public_key())
    common.write(public, canonical.b64encode(spki).encode() + b"\n")
    console.print(f"private key  {args.out} (0600; keep it off shared machines)")
    console.print(f"public key   {public}, key id {dsse.key_id(spki)}")
    console.print("next: give the public key to the broker's operator")
    return OK


def _sign_genesis(args: argparse.Namespace) -> int:
    genesis = canonical.decode(common.read(args.draft), Genesis)
    console.print(f"tenant    {genesis.tenant}{'  SIMULATED' if genesis.simulated else ''}")
    console.print(f"broker    {genesis.broker.hex()}")
    console.print(f"signers   {genesis.threshold} of {len(genesis.signers)}")
    signed = vendor.sign_genesis(genesis, load_key(args.key))
    common.write(args.out, signed)
    digest = hashlib.sha256(dsse.payload_unverified(signed)).hexdigest()
    console.print(f"genesis   {digest}")
    console.print(f"next: ostiary broker enrol {args.out}  (on the broker's machine)")
    return OK


def _import_key(args: argparse.Namespace) -> int:
    with common.client(args) as client:
        digest = hashlib.sha256(client.create_import_key()).hexdigest()
    console.print(f"the broker says that its HSM made import key {digest}")
    console.print("next: have the operator read the digest out (ostiary broker import-keys), then")
    console.print("      ostiary model seal … --import-key-sha256 what the operator read out")
    return OK


def _seal(args: argparse.Namespace) -> int:
    ref = vendor.parse_ref(args.model)
    if not args.folder.is_dir():
        raise ClientError("file", f"{args.folder}: not a folder")
    with common.client(args) as client:
        import_key = _pinned(client, args.import_key_sha256)
        with common.progress("sealing", common.folder_size(args.folder)) as moved:
            sealed = vendor.seal(
                args.folder,
                args.out,
                ref,
                client.tenant,
                load_key(args.key),
                import_key=import_key,
                pinned=args.import_key_sha256,
                progress=moved,
            )
    console.print(f"sealed    {args.out}")
    console.print(f"manifest  {sealed.digest.hex()}  (name it in the policy)")
    console.print(f"next: ostiary model push {args.out} …")
    return OK


def _pinned(client: TenantClient, pinned: bytes) -> bytes:
    for spki in client.import_keys():
        if hashlib.sha256(spki).digest() == pinned:
            return spki
    raise ClientError(
        "import_key_unpinned",
        f"the broker has no import key {pinned.hex()}; ask its operator for the current digest",
    )


def _push(args: argparse.Namespace) -> int:
    _, described = publish.read_manifest(args.sealed)
    total = sum(entry.sealed_size for entry in described.files)
    with common.client(args) as client, common.progress("uploading", total) as moved:
        publish.push(client, args.sealed, moved)
    console.print(f"pushed    {described.model}/{described.version}, {len(described.files)} files")
    console.print("next: ostiary policy sign …; ostiary policy push …; ostiary key order … active")
    return OK


def _order(args: argparse.Namespace) -> int:
    ref, state = vendor.parse_ref(args.key_version), KeyState(args.state)
    with common.client(args) as client:
        epoch = client.epoch()
        order = vendor.sign_order(
            client.tenant, load_key(args.key), ref, state, epoch=epoch, reason=args.reason
        )
        client.order_key(order)
    console.print(f"{ref.id}/{ref.version} is now {state.value}; the order is in the log")
    return OK


def _list(args: argparse.Namespace) -> int:
    with common.client(args) as client:
        console.print_json(json.dumps({"state": client.state(), "leases": client.leases()}))
    return OK


def _lint(args: argparse.Namespace) -> int:
    policy = vendor.read_policy_file(common.read(args.policy))
    objections = vendor.lint(policy)
    for objection in objections:
        console.print(f"- {objection}")
    console.print(f"{len(objections)} objections")
    _remind(policy.appraisal)
    return REFUSED if objections else OK


def _sign_policy(args: argparse.Namespace) -> int:
    policy = vendor.read_policy_file(common.read(args.policy))
    for objection in vendor.lint(policy):
        console.print(f"note: {objection}")
    before = {} if args.after is None else {"predecessor": _digest_of(args.after)}
    signed = vendor.sign_policy(
        policy, common.tenant(args), load_key(args.key), version=args.version, **before
    )
    common.write(args.out, signed)
    console.print(f"signed    {args.out}, version {args.version}")
    _remind(policy.appraisal)
    return OK


def _digest_of(path: Path) -> bytes:
    return vendor.policy_digest(common.read(path))


def _push_policy(args: argparse.Namespace) -> int:
    signed = common.read(args.signed)
    policy, digest = vendor.policy_file(signed), vendor.policy_digest(signed)
    built = _provenance(args, policy.appraisal)
    with common.client(args) as client:
        if built is not None:
            # Before the policy, so that no request finds the one without the other.
            client.push_provenance(digest, built)
        client.push_policy(signed)
    console.print(f"policy {policy.name} is in force: {digest.hex()}")
    if built is None:
        _remind(policy.appraisal)
    return OK


def _push_provenance(args: argparse.Namespace) -> int:
    signed = common.read(args.signed)
    policy, digest = vendor.policy_file(signed), vendor.policy_digest(signed)
    built = _provenance(args, policy.appraisal)
    if built is None:
        raise ClientError("arguments", "--provenance and --trusted-root are required")
    with common.client(args) as client:
        client.push_provenance(digest, built)
    console.print(f"provenance of policy {policy.name}, version {digest.hex()}, is replaced")
    return OK


def _provenance(args: argparse.Namespace, policy: AppraisalPolicy) -> bytes | None:
    """Return the set that the options name as it is sent, or None where they name nothing."""
    try:
        given = provenance_options.given(args)
    except UnreadableError as error:
        raise ClientError("file", str(error)) from error
    return None if given is None else provenance.prepare(policy, given)


def _remind(policy: AppraisalPolicy) -> None:
    if policy.provenance:
        console.print(f"note: {provenance.REMINDER}")
