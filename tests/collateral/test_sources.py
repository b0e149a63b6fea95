"""What a broker asks: everything current, one fetch for many, nothing stale, nothing skipped."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest

from ostiary.simulator.amd import report_of
from ostiary.simulator.intel import FMSPC, FakeIntel
from ostiary.simulator.machines import certificate_table
from ostiary.simulator.quote import quote_v4
from ostiary.simulator.services import Reply
from ostiary.simulator.snp import Product, report_for
from tests.kit import vendors
from tests.kit.collateral import DAY, Site, tcb_part
from tests.kit.vendors import NOW
from verifier.appraise import Evidence, appraise
from verifier.cache import Cache
from verifier.collateral import Found, parts
from verifier.collateral.folder import FolderSource
from verifier.collateral.platform import IntelPlatform
from verifier.collateral.sources import Gathering, Stored, dates_of
from verifier.collateral.web import Budget
from verifier.errors import Reason, VerifierError

TCB_PATH = "/tdx/certification/v4/tcb"
PRODUCTS: list[Product] = ["Genoa", "Turin"]


def refused(call: Any, *reasons: Reason) -> VerifierError:
    """Check that a call is refused for one of these reasons; return the error."""
    with pytest.raises(VerifierError) as caught:
        call()
    assert caught.value.reason in reasons, caught.value
    return caught.value


def snp(place: Site, report: bytes, table: bytes = b"", **options: Any) -> Found:
    """Return what the source finds for a report."""
    return place.run(lambda source: source.find("snp", report, table), **options)


def test_a_tdx_platform_is_served_from_the_pcs(place: Site) -> None:
    """Four requests, and the appraisal has what it needs to say what it thinks."""
    found = place.found_tdx()
    result = appraise(
        Evidence("tdx", vendors.good_quote(), b""),
        found.endorsements,
        policy=None,
        report_data=None,
        now=NOW,
        anchors=vendors.anchors(),
    )

    assert place.server.asked.total() == 4
    assert result.tcb_status == "UpToDate"
    assert not [check for check in result.checks if not check.ok and "collateral" in check.name]


def test_the_store_outlives_the_process(place: Site) -> None:
    """A broker that starts again asks nobody, fetching or not."""
    first = place.found_tdx()
    asked = place.server.asked.total()

    assert place.found_tdx().digest == first.digest
    assert place.found_tdx(fetch=False).digest == first.digest
    assert place.server.asked.total() == asked


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("thim", ["", "guest", "cache"])
def test_an_snp_chip_is_served(place: Site, product: Product, thim: str) -> None:
    """From the KDS with the generation's own parameters, or from Azure in both forms."""
    found = snp(place, vendors.good_report(product), thim=thim)
    kds = sum(n for path, n in place.server.asked.items() if path.startswith("/vcek/v1"))

    assert found.endorsements.vek == vendors.chip(product).chain[0]
    # Azure's guest service knows its own chip (the first, Genoa) alone; then AMD is asked.
    assert kds == (2 if thim == "cache" or (thim, product) == ("guest", "Genoa") else 3)


def test_a_vek_that_was_handed_over_is_not_asked_for(place: Site) -> None:
    """A fleet does not cost one request of AMD's budget for each machine."""
    table = certificate_table(vendors.chip("Genoa"))
    found = snp(place, vendors.good_report("Genoa"), table)

    assert found.endorsements.vek == vendors.chip("Genoa").chain[0]
    assert set(place.server.asked) == {"/vcek/v1/Genoa/cert_chain", "/vcek/v1/Genoa/crl"}


def test_a_vlek_brings_its_own_chain(place: Site) -> None:
    """ASVK and the VLEK's list, for a key that the cloud handed over; or from a cloud's service."""
    cloud = vendors.fake_amd("Genoa").vlek("Genoa")
    report = cloud.sign(report_of(cloud, report_for("Genoa")))
    for table in (certificate_table(cloud), b""):
        place.server.vendors.chips = (cloud,)
        found = snp(place, report, table)

        assert (found.endorsements.vek, found.endorsements.ask) == cloud.chain[:2]
    assert "/vlek/v1/Genoa/cert" in place.server.asked


def test_a_hidden_chip_cannot_be_asked_for(place: Site) -> None:
    """Zeros are nobody's id."""
    chip = vendors.chip("Genoa")
    report = chip.sign(report_of(chip, report_for("Genoa"), chip_id=bytes(64)))
    refused(lambda: snp(place, report), Reason.COLLATERAL_MISSING)


def test_a_report_that_names_no_product(place: Site) -> None:
    """Version 2 has no CPUID: the VEK that came along says, or nobody."""
    chip = vendors.chip("Genoa")
    report = chip.sign(report_of(chip, report_for("Genoa", version=2)))
    refused(lambda: snp(place, report), Reason.COLLATERAL_MISSING)

    assert snp(place, report, certificate_table(chip)).endorsements.vek == chip.chain[0]


def test_a_chip_that_amd_does_not_know(place: Site) -> None:
    """404 is missing, and is not asked again at once."""
    stranger = vendors.fake_amd("Genoa").vcek("Genoa")
    report = stranger.sign(report_of(stranger, report_for("Genoa")))

    async def twice(source: Stored) -> None:
        for _ in range(2):
            with pytest.raises(VerifierError) as caught:
                await source.find("snp", report, b"")
            assert caught.value.reason is Reason.COLLATERAL_MISSING

    place.run(twice, remember_s=60)
    path = f"/vcek/v1/Genoa/{stranger.chip_id.hex()}"
    assert place.server.asked[path] == 1


def test_a_family_that_nobody_certified_costs_no_request(place: Site) -> None:
    """A quote whose PCK chain ends in another root makes us ask nobody."""
    foreign = FakeIntel.create(NOW).platform()
    quote = quote_v4(foreign, vendors.good_body())
    refused(lambda: place.run(lambda source: source.find("tdx", quote, b"")), Reason.ROOT_UNKNOWN)

    assert place.server.asked == Counter()


def test_a_hundred_at_once_fetch_once(place: Site) -> None:
    """Single-flight, for every part."""
    quote = vendors.good_quote()

    async def many(source: Stored) -> set[bytes]:
        found = await asyncio.gather(*(source.find("tdx", quote, b"") for _ in range(100)))
        return {each.digest for each in found}

    assert len(place.run(many)) == 1
    assert set(place.server.asked.values()) == {1}


def test_the_last_second_and_the_next(place: Site) -> None:
    """A part is good up to its last second, and fetched again in the one after."""
    place.found_tdx()
    held = place.store.get(parts.tcb("tdx", FMSPC, "standard"))
    assert held is not None
    place.clock.now = held.windows.end
    place.found_tdx(refresh_s=1 << 40)
    assert place.server.asked[TCB_PATH] == 1
    place.clock.now += 1
    place.found_tdx(refresh_s=1 << 40)

    assert place.server.asked[TCB_PATH] == 2


@pytest.mark.parametrize("fault", [Reply(503), Reply(404), Reply(200, b"{}")])
def test_what_has_ended_is_never_used(place: Site, fault: Reply) -> None:
    """If there is no other, it is an error, whatever the server says instead."""
    place.found_tdx()
    place.clock.now += 31 * DAY
    place.server.fail(TCB_PATH, fault)
    error = refused(place.found_tdx, Reason.COLLATERAL_EXPIRED)

    assert "no other" in str(error)
    refused(lambda: place.found_tdx(fetch=False), Reason.COLLATERAL_EXPIRED)
    place.server.heal()
    place.found_tdx()


def test_a_vendor_that_serves_what_has_ended(place: Site) -> None:
    """An old answer is refused, and nothing of it is kept."""
    place.clock.now += 40 * DAY
    place.server.vendors.clock = lambda: NOW
    error = refused(place.found_tdx, Reason.COLLATERAL_UNAVAILABLE)

    assert "collateral_expired" in str(error) or "crl_expired" in str(error)
    assert place.store.names() == []


def test_a_clock_before_everything(place: Site) -> None:
    """What is not valid yet is not used either."""
    place.found_tdx()
    place.clock.now -= 30 * DAY
    refused(lambda: place.found_tdx(fetch=False), Reason.COLLATERAL_UNAVAILABLE)


@pytest.mark.parametrize(
    "path",
    [
        TCB_PATH,
        "/tdx/certification/v4/qe",
        "/sgx/certification/v4/pckcrl",
        "/sgx/certification/v4/rootcacrl",
    ],
)
def test_nothing_missing_is_skipped(place: Site, path: str) -> None:
    """Without any one part there is no answer at all."""
    place.server.fail(path, Reply(404))
    refused(place.found_tdx, Reason.COLLATERAL_MISSING)


@pytest.mark.parametrize("path", ["/vcek/v1/Genoa/crl", "/vcek/v1/Genoa/cert_chain"])
def test_nothing_missing_is_skipped_at_amd(place: Site, path: str) -> None:
    """No list is not an empty list."""
    place.server.fail(path, Reply(404))
    table = certificate_table(vendors.chip("Genoa"))
    refused(lambda: snp(place, vendors.good_report("Genoa"), table), Reason.COLLATERAL_MISSING)


def test_an_answer_without_its_issuer_chain(place: Site) -> None:
    """The header that the API names must be there."""
    place.server.fail(TCB_PATH, Reply(200, b"{}", {"Content-Type": "application/json"}))
    error = refused(place.found_tdx, Reason.COLLATERAL_UNAVAILABLE)

    assert "TCB-Info-Issuer-Chain" in str(error)


def test_a_lying_server_fills_nothing(place: Site) -> None:
    """Another Intel's answers are vetted away before they are kept."""
    place.server.vendors.intel = FakeIntel.create(NOW)
    error = refused(place.found_tdx, Reason.COLLATERAL_UNAVAILABLE)

    assert "root_unknown" in str(error)
    assert place.store.names() == []


def test_an_old_part_is_fetched_beside_the_road(place: Site) -> None:
    """A revocation is known a day later, though the old list has weeks to go."""
    place.found_tdx()
    place.clock.now += 2 * DAY
    quote = vendors.good_quote()

    async def twice(source: Stored) -> tuple[bytes, bytes]:
        before = await source.find("tdx", quote, b"")
        await asyncio.gather(*source._flights._tasks.values())
        return before.digest, (await source.find("tdx", quote, b"")).digest

    before, after = place.run(twice)

    assert before != after
    assert set(place.server.asked.values()) == {2}


def test_certificates_are_not_fetched_again(place: Site) -> None:
    """A chip's certificate stays what it is: only AMD's list is asked for a day later."""
    report = vendors.good_report("Genoa")

    async def twice(source: Stored) -> None:
        await source.find("snp", report, b"")
        await asyncio.gather(*source._flights._tasks.values())

    place.run(twice)
    place.clock.now += 2 * DAY
    place.run(twice)

    assert {path: n for path, n in place.server.asked.items() if n > 1} == {"/vcek/v1/Genoa/crl": 2}


def test_a_failed_refresh_hurts_nobody(place: Site) -> None:
    """As long as its dates hold, what is kept goes on."""
    first = place.found_tdx()
    place.clock.now += 2 * DAY
    place.server.fail("/", Reply(404))

    assert place.found_tdx().digest == first.digest


def test_a_vendor_that_steps_back(place: Site) -> None:
    """A lower evaluation number than the one kept does not replace it."""
    place.found_tdx()
    place.server.vendors.evaluation = 17
    place.clock.now += 31 * DAY
    error = refused(place.found_tdx, Reason.COLLATERAL_EXPIRED)

    assert "collateral_too_old" in str(error)


def test_a_damaged_store_heals_or_says_so(place: Site) -> None:
    """What was changed on disk is fetched again; where nobody can, it is an error."""
    place.found_tdx()
    for path in (place.folder / "objects").rglob("*"):
        if path.is_file():
            path.write_bytes(b"rot")
    error = refused(lambda: place.found_tdx(fetch=False), Reason.COLLATERAL_UNAVAILABLE)
    assert "SHA-256" in str(error)
    place.found_tdx()

    place.found_tdx(fetch=False)


def test_the_early_set(place: Site) -> None:
    """Which of Intel's two sets is asked for is a setting, and they are kept apart."""
    standard = place.found_tdx()
    early = place.found_tdx(update="early")

    numbers = [
        json.loads(each.endorsements.tcb_info)["tcbEvaluationDataNumber"]
        for each in (standard, early)
    ]
    assert numbers == [18, 20]


def test_sgx_parts(place: Site) -> None:
    """The same machinery fetches for SGX."""
    machine = IntelPlatform("sgx", FMSPC, "processor")
    found = place.run(lambda source: source.intel(machine))

    assert json.loads(found.endorsements.tcb_info)["id"] == "SGX"
    assert json.loads(found.endorsements.qe_identity)["id"] == "QE"


def test_amd_s_budget(place: Site) -> None:
    """When our own budget is spent, it is said, and AMD is left alone."""
    budget = Budget(2, 0.001)
    error = refused(
        lambda: snp(place, vendors.good_report("Genoa"), budget=budget),
        Reason.COLLATERAL_UNAVAILABLE,
    )

    assert "budget" in str(error)
    assert place.server.asked.total() == 2


def test_forced(place: Site) -> None:
    """An operator can have everything fetched again, and hears if that fails."""
    place.found_tdx()
    place.found_tdx(force=True)
    assert set(place.server.asked.values()) == {2}
    place.server.fail(TCB_PATH, Reply(503))

    refused(lambda: place.found_tdx(force=True), Reason.COLLATERAL_UNAVAILABLE)


@pytest.mark.parametrize("kind", ["tdx", "snp"])
def test_garbage_is_our_error(place: Site, kind: Any) -> None:
    """Evidence that cannot be read asks nobody."""
    refused(lambda: place.run(lambda source: source.find(kind, b"garbage", b"")), *Reason)

    assert place.server.asked == Counter()


THIM = "/metadata/THIM/amd/certification"
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "body",
    [
        b"\xff",
        b"[]",
        b"{}",
        b'{"tcbm":1,"vcekCert":"x"}',
        b'{"tcbm":"%s"}',
        b'{"tcbm":"%s","vcekCert":""}',
        b'{"tcbm":"%s","vcekCert":"x"}',
        b'{"tcbm":"%s","tcbm":"%s"}',
    ],
)
def test_answers_of_thim_that_are_none(place: Site, body: bytes) -> None:
    """What the metadata service says wrong is passed by; AMD is asked instead."""
    chip = vendors.chip("Genoa")
    level = int.from_bytes(chip.tcb.encode("Genoa"), "little")
    place.server.fail(THIM, Reply(200, body.replace(b"%s", f"{level:016X}".encode()), JSON))
    found = snp(place, vendors.good_report("Genoa"), thim="guest")

    assert found.endorsements.vek == chip.chain[0]
    assert place.server.asked[f"/vcek/v1/Genoa/{chip.chip_id.hex()}"] == 1


def test_thim_has_vceks_only(place: Site) -> None:
    """Nobody asks it for anything else, and it would say so."""

    async def use(source: Stored) -> None:
        for service in source.services.thim:
            with pytest.raises(VerifierError) as caught:
                await service.fetch(parts.amd_crl("Genoa", "vcek"), b"")
            assert caught.value.reason is Reason.COLLATERAL_MISSING

    place.run(use, thim="guest")
    place.run(use, thim="cache")


def test_a_host_s_table_with_a_monster_in_it(place: Site) -> None:
    """A certificate that is larger than any is refused before it is read."""
    chip = vendors.chip("Genoa")
    table = certificate_table(replace(chip, chain=(bytes(17_000), *chip.chain[1:])))
    refused(lambda: snp(place, vendors.good_report("Genoa"), table), Reason.TOO_LARGE)


def test_a_table_without_a_vek(place: Site) -> None:
    """Then it is asked for by chip."""
    found = snp(place, vendors.good_report("Genoa"), bytes(24))

    assert found.endorsements.vek == vendors.chip("Genoa").chain[0]


def test_an_intel_processor_that_no_package_shares(place: Site) -> None:
    """Its PCK is of the Processor CA, and so is the list that is asked for."""
    machine = vendors.fake_intel().platform(ca="processor_ca")
    quote = quote_v4(machine, vendors.good_body())
    place.run(lambda source: source.find("tdx", quote, b""))

    assert [n.text for n in place.store.names() if "pck-crl" in n.text] == [
        "intel/pck-crl/processor"
    ]


# The folder in front.


def gathered(place: Site, folder: Path, *, fetch: bool = True) -> Found:
    """Return what a broker finds for the session's TDX machine."""

    async def use(source: Stored) -> Found:
        gathering = Gathering(FolderSource(folder), source, place.clock, Cache())
        return await gathering.find("tdx", vendors.good_quote(), b"")

    return place.run(use, fetch=fetch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with good TDX collateral."""
    (tmp_path / "tdx").mkdir()
    (tmp_path / "tdx" / "a.json").write_text(json.dumps(vendors.good_collateral()))
    return tmp_path


def test_the_folder_comes_first(place: Site, folder: Path) -> None:
    """What an operator put there is taken as long as all of it is current."""
    found = gathered(place, folder)

    assert found.raw == (folder / "tdx" / "a.json").read_bytes()
    assert place.server.asked == Counter()


def test_a_stale_folder_is_passed_by(place: Site, folder: Path) -> None:
    """When it has ended, the vendors are asked."""
    place.clock.now += 31 * DAY
    found = gathered(place, folder)

    assert dates_of(found, Cache()).end > place.clock.now


def test_a_folder_without_a_part_is_passed_by(place: Site, folder: Path) -> None:
    """A missing CRL is no reason to go without one."""
    told = vendors.good_collateral(root_ca_crl="")
    (folder / "tdx" / "a.json").write_text(json.dumps(told))

    assert gathered(place, folder).endorsements.root_ca_crl


def test_where_nothing_is_fetched_the_appraisal_says_what_ended(place: Site, folder: Path) -> None:
    """The old file is refused by name, with every check; nothing else would be told."""
    place.clock.now += 31 * DAY
    found = gathered(place, folder, fetch=False)
    result = appraise(
        Evidence("tdx", vendors.good_quote(), b""),
        found.endorsements,
        policy=None,
        report_data=None,
        now=place.clock.now,
        anchors=vendors.anchors(),
    )

    assert result.verdict == "reject"
    assert "expired" in str(result.reasons)


def test_a_stale_folder_and_a_dead_vendor(place: Site, folder: Path) -> None:
    """A broker that fetches says that it could not."""
    place.clock.now += 31 * DAY
    place.server.fail("/", Reply(503))

    refused(lambda: gathered(place, folder), Reason.COLLATERAL_UNAVAILABLE)


def test_nothing_anywhere(place: Site, tmp_path: Path) -> None:
    """The folder's own words say what to put where."""
    error = refused(
        lambda: gathered(place, tmp_path / "none", fetch=False), Reason.COLLATERAL_MISSING
    )

    assert "in the folder" in str(error)


def test_dates_of_snp_endorsements(place: Site) -> None:
    """All three certificates and the list have dates; without the list there are none."""
    found = snp(place, vendors.good_report("Genoa"))
    windows = dates_of(found, Cache())

    assert len(windows.each) == 4
    bare = replace(found, endorsements=replace(found.endorsements, crl=None))
    refused(lambda: dates_of(bare, Cache()), Reason.CRL_MISSING)


def test_a_disk_that_cannot_be_written(place: Site) -> None:
    """Nothing is handed out that was not kept: the next one would have to fetch it again."""
    place.folder.parent.mkdir(parents=True, exist_ok=True)
    place.folder.write_text("")
    refused(place.found_tdx, Reason.COLLATERAL_UNAVAILABLE)
    place.folder.unlink()
    place.found_tdx()
    rmtree(place.folder)
    assert tcb_part().is_current(NOW)
