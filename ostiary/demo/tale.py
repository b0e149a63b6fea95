"""The demo's story, chapter by chapter. Every step uses what a user would use."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Final

import httpx
import msgspec
import openai

from ostiary import publish, vendor
from ostiary.cli import simulator as simulator_cli
from ostiary.cli.common import folder_size
from ostiary.client import Tenant
from ostiary.demo import refusals
from ostiary.demo.stage import LEASE_SECONDS, MODEL, TENANT, Stage, answers
from ostiary.demo_model import make_demo_model
from ostiary.processes import Program
from ostiary.simulator.machine import LaunchRequest, launch_td
from ostiary.story import Story, StoryError
from verifier.policy import AppraisalPolicy, GpuRules, TdxReference
from verifier.tlog.note import VerifierKey
from verifier.wire import binding, leaf
from verifier.wire.canonical import Hex
from verifier.wire.documents import Release
from verifier.wire.leaf import KeyState

QUESTION: Final = "Who keeps the door?"


def tell(root: Path, *, serve: bool, gpus: str = "2") -> int:
    """Tell the whole story under `root`; with `serve`, stop after the set-up and stay.

    Raises:
        StoryError: something did not go as it must.
    """
    story = Story()
    story.console.print(
        "[bold]Ostiary[/bold]: a model's key goes only to a machine that proves what it is.\n"
        "[yellow]The hardware here is SIMULATED: its evidence proves nothing.[/yellow]"
    )
    with Stage(root, gpus) as stage:
        set_up(story, stage)
        if serve:
            return stay(story, stage)
        hand_in(story, stage)
        runtime = run(story, stage)
        audit(story, stage)
        refusals.show(story, stage, runtime)
        story.console.print(
            f"\n[bold green]Done[/bold green] in {story.seconds:.0f} s. "
            f"Everything is under {root} (logs/, broker/, vendor/, auditor/).",
            soft_wrap=False,
        )
    story.console.print(
        "Next: [bold]make test[/bold] runs the tests, [bold]make serve[/bold] leaves a broker "
        "running\n      with its OpenAPI page, docs/architecture.md says how it works."
    )
    return 0


def set_up(story: Story, stage: Stage) -> None:
    """Chapter 1: token, database, keys, tenant."""
    story.chapter("The operator sets up a broker")
    simulator_cli.make(stage.simulator, stage.broker / "collateral")
    stage.start_vendors()
    story.line("a fake Intel and NVIDIA with roots of their own", "only because no TEE is at hand")
    stage.vendor_key.parent.mkdir()
    stage.vendor = vendor.new_key(stage.vendor_key)
    story.line("the vendor has a signing key", f"{stage.vendor_key.name}, 0600")
    with story.wait("SoftHSM token, keys, database"):
        said = _init(stage)
        stage.let_broker_fetch()
    document = (stage.broker / "tenants" / f"{TENANT}.genesis.json").read_bytes()
    tenant = stage.tenant = Tenant.read(document)
    pin = (stage.broker / "hsm" / "pin").stat()
    story.line("SoftHSM token with a random PIN", f"pin file {pin.st_mode & 0o777:04o}")
    story.line("forbidden operations were tried on it", _count_refusals(said))
    story.line("SQLite database, migrated by Alembic", "ostiary.db")
    story.line(f"tenant {TENANT} is leaf 0 of its own log", f"genesis {tenant.digest.hex()[:16]}…")
    again = _init(stage)
    if _without_keys(again) != _without_keys(said):
        raise StoryError("`ostiary broker init` changed something the second time")
    story.line("`ostiary broker init` again changes nothing")
    _refuse_lost_token(story, stage)
    with story.wait("starting the broker"):
        stage.start_broker()
    health = httpx.get(f"{stage.url}/health").json()
    story.line(f"the broker serves at {stage.url}", f"HSM worker: {health['hsm']['mode']}")


def _init(stage: Stage) -> str:
    command = [sys.executable, "-m", "ostiary", "broker", "--home", str(stage.broker), "init"]
    command += ["--port", str(stage.port), "--simulated-roots", str(stage.simulator / "roots.json")]
    command += ["--tenant", TENANT, "--vendor-key", str(stage.vendor_key)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    if done.returncode != 0:
        raise StoryError(f"ostiary broker init: {done.stderr}")
    return done.stdout


def _count_refusals(said: str) -> str:
    lines = [line for line in said.splitlines() if ": refused to " in line]
    return f"{sum(line.count(',') + 1 for line in lines)} attempts, all refused"


def _without_keys(said: str) -> list[str]:
    """Return what init said without the self-test, which lists more keys once there are more."""
    return [line for line in said.splitlines() if not line.startswith("         ")]


def _refuse_lost_token(story: Story, stage: Stage) -> None:
    """A database with rows and no token is a hard error, never a new token."""
    token, aside = stage.broker / "hsm", stage.broker / "hsm-aside"
    token.rename(aside)
    try:
        _init(stage)
    except StoryError as error:
        story.refusal(
            "the token's folder is gone, the database is not", "token_missing", _reason(str(error))
        )
    else:
        raise StoryError("init made a new token beside an old database")
    finally:
        aside.rename(token)


def _reason(text: str) -> str:
    return text.split("token_missing: ", 1)[-1].strip()


def hand_in(story: Story, stage: Stage) -> None:
    """Chapter 2: model, sealing, policy, push."""
    story.chapter("A vendor seals a model and signs a policy")
    tenant, key = stage.the_tenant(), stage.the_vendor()
    folder = stage.root / "vendor" / "model"
    with story.wait("training a tokenizer, writing weights"):
        make_demo_model(folder)
    size = folder_size(folder)
    story.line("a small genuine Llama with a trained tokenizer", f"{size / 1e6:.1f} MB of GGUF")
    with stage.client() as client:
        import_key = client.create_import_key()
        pinned = _read_out(stage, import_key)
        story.line(
            "the import key's digest is pinned", f"{pinned.hex()[:16]}… told by the operator"
        )
        with story.wait("sealing", size) as moved:
            sealed = vendor.seal(
                folder,
                stage.sealed,
                MODEL,
                tenant,
                key,
                import_key=import_key,
                pinned=pinned,
                progress=moved,
            )
        story.line(
            "sealed as Tink AES256-GCM-HKDF streams", f"manifest {sealed.digest.hex()[:16]}…"
        )
        with story.wait("uploading", folder_size(stage.sealed)) as moved:
            publish.push(client, stage.sealed, moved)
        story.line("pushed: ciphertext, manifest, and the key wrapped to the HSM")
        signed = vendor.sign_policy(
            policy(tenant, sealed.digest, stage.gpus), tenant, key, version=1
        )
        (stage.root / "vendor" / "policy-1.json").write_bytes(signed)
        client.push_policy(signed)
        story.line("policy 1 is in force", f"one launch, UpToDate TCB, {stage.set}, 8 leases")
        epoch = client.epoch()
        client.order_key(vendor.sign_order(tenant, key, MODEL, KeyState.ACTIVE, epoch=epoch))
        story.line(f"key {MODEL.id}/{MODEL.version} is active", "by a signed order, in the log")


def _read_out(stage: Stage, import_key: bytes) -> bytes:
    """Return the import key's digest as the operator reads it off the broker's own machine."""
    command = [
        sys.executable,
        "-m",
        "ostiary",
        "broker",
        "--home",
        str(stage.broker),
        "import-keys",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    told = [bytes.fromhex(line.split()[1]) for line in done.stdout.splitlines()]
    if hashlib.sha256(import_key).digest() not in told:
        raise StoryError(f"the operator does not know this import key: {done.stdout}{done.stderr}")
    return hashlib.sha256(import_key).digest()


def policy(tenant: Tenant, manifest: bytes, gpus: GpuRules) -> vendor.PolicyFile:
    """Return the demo's policy: the one TD that the demo launches, with its GPUs, nothing else."""
    anchor = binding.anchor(bytes(tenant.genesis.broker), tenant.digest)
    td = launch_td(LaunchRequest(config=anchor))
    reference = TdxReference(
        name="demo image",
        mr_td=Hex(td.mr_td),
        rtmr0=Hex(td.rtmr0),
        rtmr1=Hex(td.rtmr1),
        rtmr2=Hex(td.rtmr2),
        mr_config_id=Hex(anchor),
    )
    return vendor.PolicyFile(
        name="demo",
        keys=(f"{MODEL.id}/{MODEL.version}",),
        manifests=(Hex(manifest),),
        release=Release(lease_seconds=LEASE_SECONDS, max_leases=8),
        appraisal=AppraisalPolicy(gpu=gpus, reference=(reference,)),
    )


def run(story: Story, stage: Stage) -> Program:
    """Chapter 3: a runtime proves itself, opens the model and answers."""
    story.chapter("A runtime in a (simulated) TDX machine proves itself and serves")
    tenant = stage.the_tenant()
    anchor = binding.anchor(bytes(tenant.genesis.broker), tenant.digest)
    device = stage.start_machine("machine", anchor)
    story.line(
        f"a TD with {stage.set} is launched for this broker and tenant",
        f"MRCONFIGID {anchor.hex()[:16]}…",
    )
    arguments = ["ostiary", "runtime", "serve", "--broker", stage.url, "--tenant", TENANT]
    arguments += ["--model", f"{MODEL.id}/{MODEL.version}", "--simulated-device", str(device)]
    arguments += ["--gpus", "--port", str(stage.runtime_port), "--receipt-out", str(stage.home)]
    runtime = stage.start("runtime", *arguments)
    with story.wait("challenge, quote, appraisal, release, unwrap, load"):
        runtime.until(lambda: answers(f"{stage.runtime_url}/ready"), 60)
    for line in runtime.tail.splitlines():
        name, seconds, detail = _told(line)
        story.line(f"{name:<10} {seconds:>6} s", detail)
    reply = _ask(stage)
    story.line("a chat completion, by the unmodified OpenAI client", f"“{QUESTION}”")
    story.say(f"“{reply}…”", "italic")
    story.say("(random weights: grammar was never promised)", "dim")
    return runtime


def _told(line: str) -> tuple[str, str, str]:
    """Return name, seconds and detail of a stage that the runtime printed."""
    before, _, detail = line.partition(" s  ")
    name, _, seconds = before.rpartition(" ")
    return name.strip(), seconds, detail.strip()


def _ask(stage: Stage) -> str:
    """Ask with the OpenAI client as it is; all that it is told is the address."""
    client = openai.OpenAI(base_url=f"{stage.runtime_url}/v1", api_key="none", timeout=30)
    try:
        answer = client.chat.completions.create(
            model=MODEL.id, messages=[{"role": "user", "content": QUESTION}], max_tokens=24
        )
    except openai.OpenAIError as error:
        raise StoryError(f"the runtime did not answer: {error}") from error
    return " ".join((answer.choices[0].message.content or "").split())[:100]


def audit(story: Story, stage: Stage) -> None:
    """Chapter 4: receipt and checkpoint, checked offline."""
    story.chapter("An auditor takes receipt and checkpoint home")
    tenant = stage.the_tenant()
    with stage.client() as client:
        (stage.home / "checkpoint").write_bytes(client.checkpoint())
    entry = leaf.decode((stage.home / "leaf.json").read_bytes())
    if not isinstance(entry, leaf.ReleaseLeaf):
        raise StoryError("the runtime's leaf is not a release")
    result = msgspec.json.decode((stage.home / "result.json").read_bytes())
    story.line(
        "the leaf names key, policy, evidence, lease and devices",
        f"TCB {result['tcb_status']}, {entry.gpus} GPUs, simulated: {entry.simulated}",
    )
    vkey = VerifierKey(tenant.origin, bytes(tenant.genesis.log_key))
    command = [sys.executable, "-m", "ostiary", "log", "verify"]
    command += ["--receipt", str(stage.home / "receipt.txt"), "--leaf"]
    command += [str(stage.home / "leaf.json"), "--origin", tenant.origin, "--vkey", str(vkey)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    if done.returncode != 0:
        raise StoryError(f"ostiary log verify: {done.stdout}{done.stderr}")
    for line in done.stdout.splitlines():
        mark, _, rest = line.partition(" ")
        name, _, detail = rest.strip().partition(": ")
        if mark == "ok":
            story.line(name, detail)
        elif mark == "--":
            story.say(f"not judged: {name}: {detail}", "dim")
        else:
            story.line(f"ostiary log verify, offline: {line}")


def stay(story: Story, stage: Stage) -> int:
    """Leave the broker running until Ctrl-C."""
    story.console.print(
        f"\nThe broker runs at {stage.url}\n"
        f"  OpenAPI page   {stage.url}/schema\n"
        f"  health         curl {stage.url}/health\n"
        f"  tenant         {TENANT}, genesis in {stage.broker}/tenants/{TENANT}.genesis.json, "
        f"key {stage.vendor_key}\n"
        f"  try next       .venv/bin/ostiary key list --broker {stage.url} "
        f"--genesis {stage.broker}/tenants/{TENANT}.genesis.json --key {stage.vendor_key}\n"
        "Stop it with Ctrl-C."
    )

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        signal.pause()
    except KeyboardInterrupt:
        story.console.print("stopped")
    return 0
