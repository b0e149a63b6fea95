"""`ostiary collateral` and `ostiary simulator serve`: as a person types them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ostiary import clock, vendor
from ostiary.__main__ import main
from ostiary.cli.simulator import make
from ostiary.simulator import tcb
from ostiary.simulator.amd import FakeAmd, report_of
from ostiary.simulator.intel import FMSPC, FakeIntel
from ostiary.simulator.machine import LaunchRequest, launch_td
from ostiary.simulator.machines import certificate_table
from ostiary.simulator.quote import EnclaveReport, quote_sgx, quote_v4
from ostiary.simulator.services import Vendors, VendorServer, serving
from ostiary.simulator.snp import report_for
from tests.kit import vendors
from verifier import dsse
from verifier.anchors import PINNED
from verifier.collateral import parts
from verifier.collateral.store import Store
from verifier.collateral.vet import vet
from verifier.wire import canonical

DAY = 86_400


class Desk:
    """A folder with a simulated vendor that is current now, its services, and a signing key."""

    def __init__(self, folder: Path, intel: FakeIntel, server: VendorServer) -> None:
        self.folder = folder
        self.intel = intel
        self.server = server
        self.key = folder / "key.pem"
        spki = dsse.spki(vendor.new_key(self.key).public_key())
        self.signer = folder / "key.pem.pub"
        self.signer.write_text(canonical.b64encode(spki) + "\n")

    def __call__(self, verb: str, *arguments: str | Path, store: str = "store") -> int:
        """Run one command on a store."""
        roots = self.folder / "intel" / "roots.json"
        given = [
            *("collateral", verb, "--store", self.folder / store),
            *("--dangerously-trust-simulated-roots", roots),
            *arguments,
        ]
        return main([str(each) for each in given])

    def fetch(self, store: str = "store") -> int:
        """Fetch the simulated family's parts."""
        return self("fetch", "--fmspc", FMSPC.hex(), "--pcs", self.server.url, store=store)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Give a desk."""
    intel = make(tmp_path / "intel", None)
    with serving(Vendors(clock.now, intel)) as server:
        yield Desk(tmp_path, intel, server)


def test_across_an_air_gap(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    """Fetch and export on one side, import and show on the other."""
    out = desk.folder / "carried.json"

    assert desk.fetch() == 0
    assert desk("export", out, "--key", desk.key) == 0
    assert desk("import", out, "--signer", desk.signer, store="cut-off") == 0
    capsys.readouterr()
    assert desk("show", store="cut-off") == 0
    table = capsys.readouterr().out
    assert desk("show", "--bundle", out, "--signer", desk.signer) == 0
    assert capsys.readouterr().out == table
    for name in (f"intel/tcb/tdx/{FMSPC.hex()}/standard", "intel/root-crl", "current"):
        assert name in table
    assert re.search(r"first to end: intel/\S+, \d{4}-\d\d-\d\dT", table)


def test_rows_stand_in_the_order_in_which_they_end(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    """What must be renewed first stands first; a year's root CRL stands last."""
    desk.fetch()
    capsys.readouterr()
    desk("show")
    rows = re.findall(r"^(intel/\S+)", capsys.readouterr().out, re.MULTILINE)

    assert len(rows) == 4
    assert rows[-1] == "intel/root-crl"


def test_fetching_for_a_quote(desk: Desk) -> None:
    """The platform can be named by evidence from it."""
    body = launch_td(LaunchRequest(config=bytes(48)))
    path = desk.folder / "quote.bin"
    path.write_bytes(quote_v4(desk.intel.platform(), body))

    assert desk("fetch", "--quote", path, "--pcs", desk.server.url) == 0
    assert desk("show") == 0


def test_fetching_for_an_sgx_quote(desk: Desk) -> None:
    """An enclave's platform has documents of its own."""
    path = desk.folder / "quote.bin"
    path.write_bytes(quote_sgx(desk.intel.platform(ca="processor_ca"), EnclaveReport()))

    assert desk("fetch", "--sgx-quote", path, "--pcs", desk.server.url) == 0
    assert (desk.folder / "store/parts/intel/qe/sgx/standard.json").exists()


@pytest.mark.parametrize("azure", [[], ["--azure-cache"], ["--azure-imds"]])
def test_fetching_for_a_chip(
    desk: Desk, azure: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """By report, with or without the host's table, from AMD or from Azure; or a whole product."""
    amd = FakeAmd(clock.now(), vendors.fake_amd("Genoa")._keys)
    chip = amd.vcek("Genoa")
    roots = desk.folder / "intel" / "roots.json"
    told = json.loads(roots.read_text())
    roots.write_text(json.dumps(told | {"amd": {"Genoa": amd.root_pin("Genoa").hex()}}))
    desk.server.vendors.amd, desk.server.vendors.chips = amd, (chip,)
    report, table = desk.folder / "report.bin", desk.folder / "table.bin"
    report.write_bytes(chip.sign(report_of(chip, report_for("Genoa"))))
    table.write_bytes(certificate_table(chip))
    kds = ("--kds", desk.server.url)
    form = [*azure, desk.server.url] if azure else []

    assert desk("fetch", "--product", "Genoa", *kds, store="product") == 0
    assert desk("fetch", "--report", report, "--certificates", table, *kds, store="table") == 0
    assert desk("fetch", "--report", report, *kds, *form) == 0
    capsys.readouterr()
    assert desk("show") == 0
    shown = capsys.readouterr().out
    name = f"amd/Genoa/vcek/{chip.chip_id.hex()[:12]}…/{chip.tcb.encode('Genoa').hex()}"
    assert name in shown
    asked = desk.server.asked[f"/vcek/v1/Genoa/{chip.chip_id.hex()}"]
    assert asked == (0 if azure else 1)


def test_what_has_ended_is_shown_and_left_behind(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    """A store with an ended part is not fine, and a bundle of the rest goes without it."""
    past = clock.now() - 20 * DAY
    old = tcb.tcb_info(past, fmspc=FMSPC, pceid=bytes(2), next_update=past + 19 * DAY)
    soon = tcb.qe_identity(past)
    text, other = (tcb.to_text(document) for document in (old, soon))
    store = Store(desk.folder / "store", PINNED.with_simulated(intel=[desk.intel.root_pin]))
    chain = desk.intel.chain("tcb_signing").encode()
    for member, name, signed in (
        ("tcbInfo", parts.tcb("tdx", FMSPC, "standard"), text),
        ("enclaveIdentity", parts.qe("tdx", "standard"), other),
    ):
        body = f'{{"{member}":{signed},"signature":"{desk.intel.sign_text(signed)}"}}'.encode()
        anchors = PINNED.with_simulated(intel=[desk.intel.root_pin])
        store.put(vet(name, body, chain, anchors, fetched=past))

    assert desk("show") == 1
    assert "ENDED" in capsys.readouterr().out
    out = desk.folder / "carried.json"
    assert desk("export", out, "--key", desk.key) == 0
    assert "left out" in capsys.readouterr().out
    assert desk("import", out, "--signer", desk.signer, store="cut-off") == 0
    capsys.readouterr()
    assert desk("show", store="cut-off") == 0
    assert "current" in capsys.readouterr().out
    only = desk.folder / "only.json"
    assert desk("export", only, "--key", desk.key, "--only", "amd/") == 1


def test_rollback_is_refused(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    """An old bundle does not undo a newer one."""
    old = desk.folder / "old.json"
    desk.fetch()
    desk("export", old, "--key", desk.key)
    desk.server.vendors.evaluation = 19
    assert desk.fetch(store="cut-off") == 0
    capsys.readouterr()

    assert desk("import", old, "--signer", desk.signer, store="cut-off") == 1
    assert "collateral_too_old" in capsys.readouterr().err
    assert desk("import", old, "--signer", desk.signer, "--allow-older", store="cut-off") == 0


def test_a_stranger_s_bundle(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    """Signed by a key that was not named, it is refused, also for a look."""
    other = desk.folder / "other.pem"
    vendor.new_key(other)
    out = desk.folder / "carried.json"
    desk.fetch()
    desk("export", out, "--key", other)
    capsys.readouterr()
    for verb, arguments in (("import", [out]), ("show", ["--bundle", out])):
        assert desk(verb, *arguments, "--signer", desk.signer) == 1
        assert "document_signature" in capsys.readouterr().err
    assert desk("show", "--bundle", out) == 1


def test_nothing_and_damage_are_shown(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty store and a damaged one are not fine."""
    assert desk("show") == 1
    assert desk("export", desk.folder / "none.json", "--key", desk.key) == 1
    desk.fetch()
    path = next(path for path in (desk.folder / "store" / "objects").rglob("*") if path.is_file())
    path.write_bytes(b"rot")
    capsys.readouterr()

    assert desk("show") == 1
    assert "DAMAGED" in capsys.readouterr().out


def test_what_cannot_be_fetched(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    """Refusals are one line with their reason."""
    for arguments in (
        ["--fmspc", "000000000000", "--pcs", desk.server.url],
        ["--fmspc", "00", "--pcs", desk.server.url],
        ["--fmspc", FMSPC.hex(), "--pcs", "http://pcs.example"],
        ["--product", "Genoa", "--kds", desk.server.url],
    ):
        assert desk("fetch", *arguments) == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("ostiary: ")


def test_roots_are_real_unless_said_aloud(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the frightening option a simulator's answers are refused."""
    given = ["collateral", "fetch", "--store", str(desk.folder / "s"), "--fmspc", FMSPC.hex()]

    assert main([*given, "--pcs", desk.server.url]) == 1
    assert "root_unknown" in capsys.readouterr().err


def test_the_simulator_serves(desk: Desk) -> None:
    """As a process of its own, found by the address that it prints."""
    command = [sys.executable, "-u", "-m", "ostiary", "simulator", "serve", "--port", "0"]
    process = subprocess.Popen([*command, str(desk.folder / "intel")], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        said = process.stdout.readline().decode()
        url = said.split(" at ")[1].split(";")[0]
        assert "SIMULATED" in said
        assert desk("fetch", "--fmspc", FMSPC.hex(), "--pcs", url) == 0
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def test_help_names_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    """A person finds them."""
    assert main(["collateral", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in ("fetch", "export", "import", "show"))
