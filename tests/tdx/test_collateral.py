"""Intel's signed documents: signature first, over the exact text, and then every field."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary.simulator import tcb
from ostiary.simulator.intel import FMSPC
from tests.kit import vendors
from tests.kit.tdx import accepted, collateral, judge, refused, tcb_info
from tests.kit.vendors import NOW, good_collateral
from verifier.cache import Cache
from verifier.errors import Reason, VerifierError
from verifier.tdx import collateral as collaterals
from verifier.tdx import identity, tcbinfo

Document = dict[str, Any]
Change = Callable[[Document], object]
DOCUMENT_REASONS = (Reason.COLLATERAL_MALFORMED, Reason.COLLATERAL_MISMATCH)
PARTS = [
    f"{document}{part}"
    for document in ("tcb_info", "qe_identity")
    for part in ("", "_signature", "_issuer_chain")
]


def reason_of(parse: Callable[[Any], object], raw: object) -> Reason | None:
    """The reason why `parse` refuses `raw`, None if it does not."""
    try:
        parse(raw)
    except VerifierError as error:
        return error.reason
    return None


def with_info(document: Document | str) -> Any:
    return judge(endorsements=good_collateral(tcb_info=document))


def with_identity(document: Document | str) -> Any:
    return judge(endorsements=good_collateral(qe_identity=document))


def changed(document: Document, change: Change) -> Document:
    other = copy.deepcopy(document)
    change(other)
    return other


def test_no_collateral_is_refused_and_the_fields_are_told() -> None:
    """Without collateral the TCB cannot be known; what the quote says is still shown."""
    result = judge(endorsements=None)

    assert refused(result, Reason.COLLATERAL_MISSING)
    assert result.tcb_status is None
    assert result.claims["pck"]["fmspc"] == FMSPC.hex()


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("absent", ["", None])
def test_a_missing_part_is_refused(part: str, absent: str | None) -> None:
    """Absent means refuse, for every part."""
    assert refused(
        judge(endorsements={**good_collateral(), part: absent}), Reason.COLLATERAL_MISSING
    )


@pytest.mark.parametrize("kind", ["tcb_info", "qe_identity"])
def test_a_signature_over_other_text_is_refused(kind: str) -> None:
    """The same JSON in other words is another text: nothing is re-serialised."""
    good = good_collateral()
    for text in (
        json.dumps(json.loads(good[kind])),
        good[kind] + " ",
        good[kind].replace('"version":', '"version" :'),
        "",
    ):
        result = judge(endorsements={**good, kind: text or " "})

        assert refused(result, Reason.COLLATERAL_SIGNATURE)


@pytest.mark.parametrize("kind", ["tcb_info", "qe_identity"])
@pytest.mark.parametrize("bad", ["00" * 64, "ff" * 64, "00" * 63, "00" * 65, "ab"])
def test_other_signatures_are_refused(kind: str, bad: str) -> None:
    """A signature is r and s in range, 64 bytes."""
    result = judge(endorsements={**good_collateral(), f"{kind}_signature": bad})

    assert refused(result, Reason.COLLATERAL_SIGNATURE)


def test_the_documents_do_not_stand_for_each_other() -> None:
    """TCB info where QE identity belongs, well signed, is refused by its id."""
    good = good_collateral()
    swapped = {
        **good,
        "qe_identity": good["tcb_info"],
        "qe_identity_signature": good["tcb_info_signature"],
    }

    assert refused(judge(endorsements=swapped), Reason.COLLATERAL_MISMATCH)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"issued": NOW + 1}, Reason.COLLATERAL_NOT_YET_VALID),
        ({"issued": NOW}, None),
        ({"next_update": NOW - 1}, Reason.COLLATERAL_EXPIRED),
        ({"next_update": NOW}, None),
        ({"evaluation_number": -1}, Reason.COLLATERAL_MALFORMED),
        ({"version": 2}, Reason.COLLATERAL_MISMATCH),
        ({"version": 4}, Reason.COLLATERAL_MISMATCH),
        ({"identity": "SGX"}, Reason.COLLATERAL_MISMATCH),
        ({"identity": "tdx"}, Reason.COLLATERAL_MISMATCH),
        ({"fmspc": bytes(6)}, Reason.COLLATERAL_MISMATCH),
        ({"fmspc": FMSPC[:5]}, Reason.COLLATERAL_MALFORMED),
        ({"pceid": b"\0\1"}, Reason.COLLATERAL_MISMATCH),
        ({"tee": "sgx"}, Reason.COLLATERAL_MISMATCH),
        ({"levels": []}, Reason.COLLATERAL_MALFORMED),
    ],
)
def test_tcb_info_dates_and_identity(changes: Document, reason: Reason | None) -> None:
    """TCB info is for TDX, version 3, this platform and this moment, ends included."""
    result = with_info(tcb_info(**changes))

    assert accepted(result) if reason is None else refused(result, reason)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"issued": NOW + 1}, Reason.COLLATERAL_NOT_YET_VALID),
        ({"issued": NOW}, None),
        ({"next_update": NOW - 1}, Reason.COLLATERAL_EXPIRED),
        ({"next_update": NOW}, None),
        ({"version": 1}, Reason.COLLATERAL_MISMATCH),
        ({"identity": "QE"}, Reason.COLLATERAL_MISMATCH),
        ({"identity": "QVE"}, Reason.COLLATERAL_MISMATCH),
        ({"tee": "sgx"}, Reason.COLLATERAL_MISMATCH),
        ({"levels": []}, Reason.COLLATERAL_MALFORMED),
        ({"mrsigner": bytes(32)}, Reason.QE_IDENTITY_MISMATCH),
        ({"mrsigner": bytes(31)}, Reason.COLLATERAL_MALFORMED),
        ({"isvprodid": 1}, Reason.QE_IDENTITY_MISMATCH),
        ({"isvprodid": 65536}, Reason.COLLATERAL_MALFORMED),
    ],
)
def test_qe_identity_dates_and_fields(changes: Document, reason: Reason | None) -> None:
    """QE identity is for TD_QE, version 2, and this moment, ends included."""
    result = with_identity(tcb.qe_identity(NOW, **changes))

    assert accepted(result) if reason is None else refused(result, reason)


def components(level: Document, kind: str) -> list[Document]:
    found: list[Document] = level["tcb"][kind]
    return found


def first_level(document: Document) -> Document:
    level: Document = document["tcbLevels"][0]
    return level


@pytest.mark.parametrize("kind", ["sgxtcbcomponents", "tdxtcbcomponents"])
@pytest.mark.parametrize(
    "change",
    [
        lambda level, kind: level["tcb"].pop(kind),
        lambda level, kind: components(level, kind).pop(),
        lambda level, kind: components(level, kind).append({"svn": 0}),
        lambda level, kind: components(level, kind).clear(),
        lambda level, kind: components(level, kind)[0].update(svn=256),
        lambda level, kind: components(level, kind)[15].update(svn=-1),
        lambda level, kind: components(level, kind)[3].update(svn="0"),
        lambda level, kind: components(level, kind)[3].update(svn=0.0),
        lambda level, kind: components(level, kind)[3].update(svn=True),
        lambda level, kind: components(level, kind)[3].update(svn=None),
        lambda level, kind: components(level, kind)[3].pop("svn"),
        lambda level, kind: components(level, kind)[3].update(fuse=1),
        lambda level, kind: level["tcb"].update({kind: None}),
    ],
    ids=[
        "absent",
        "fifteen",
        "seventeen",
        "none",
        "svn 256",
        "svn negative",
        "svn text",
        "svn float",
        "svn bool",
        "svn null",
        "no svn",
        "unknown field",
        "null",
    ],
)
def test_levels_have_sixteen_whole_components(
    kind: str, change: Callable[[Document, str], object]
) -> None:
    """A short, long or odd list of components matches nothing: it is refused."""
    document = changed(tcb_info(), lambda info: change(first_level(info), kind))

    assert refused(with_info(document), Reason.COLLATERAL_MALFORMED)


@pytest.mark.parametrize(
    "change",
    [
        lambda info: first_level(info).update(tcbStatus="Uptodate"),
        lambda info: first_level(info).update(tcbStatus="TDRelaunchAdvised"),
        lambda info: first_level(info).update(tcbStatus=None),
        lambda info: first_level(info).pop("tcbStatus"),
        lambda info: first_level(info).pop("tcbDate"),
        lambda info: first_level(info).update(tcbDate="2024-11-13"),
        lambda info: first_level(info).update(tcbDate="2024-11-13T00:00:00+00:00"),
        lambda info: first_level(info).update(tcbDate="2024-1-13T00:00:00Z"),
        lambda info: first_level(info)["tcb"].update(pcesvn=65536),
        lambda info: first_level(info)["tcb"].pop("pcesvn"),
        lambda info: first_level(info).update(extra=1),
        lambda info: info["tcbLevels"].append(first_level(info)),
        lambda info: info.pop("tdxModule"),
        lambda info: info["tdxModule"].pop("mrsigner"),
        lambda info: info["tdxModule"].update(mrsigner="00"),
        lambda info: info["tdxModuleIdentities"].append(info["tdxModuleIdentities"][0]),
        lambda info: info["tdxModuleIdentities"][0]["tcbLevels"].clear(),
        lambda info: info["tdxModuleIdentities"][0].pop("attributesMask"),
        lambda info: info["tdxModuleIdentities"][1]["tcbLevels"][0].update(
            tcbStatus="ConfigurationNeeded"
        ),
        lambda info: info["tdxModuleIdentities"][1]["tcbLevels"][0]["tcb"].update(isvsvn=4),
        lambda info: info.update(tdxModuleIdentity=[]),
        lambda info: info.pop("tcbType"),
        lambda info: info.pop("tcbEvaluationDataNumber"),
        lambda info: info.pop("nextUpdate"),
        lambda info: info.update(issueDate=NOW),
    ],
    ids=[
        "unknown status",
        "relaunch status",
        "null status",
        "no status",
        "no date",
        "short date",
        "offset date",
        "loose date",
        "pcesvn too large",
        "no pcesvn",
        "unknown field",
        "level twice",
        "no module",
        "no mrsigner",
        "short mrsigner",
        "identity twice",
        "no module levels",
        "no mask",
        "module status",
        "module level twice",
        "misspelt identities",
        "no tcbType",
        "no evaluation number",
        "no nextUpdate",
        "numeric date",
    ],
)
def test_tcb_info_is_read_strictly(change: Change) -> None:
    """Every field is present, known and in range; an unknown one would be dropped unseen."""
    assert refused(with_info(changed(tcb_info(), change)), Reason.COLLATERAL_MALFORMED)


def test_other_tcb_types_are_refused() -> None:
    """tcbType 0 is the only comparison that is defined."""
    assert refused(with_info(tcb_info() | {"tcbType": 1}), Reason.COLLATERAL_MISMATCH)


@pytest.mark.parametrize(
    "text",
    [
        '{"id":"TDX","id":"TDX","version":3}',
        '{"id":"TDX","version":3',
        '["TDX",3]',
        '"TDX"',
        "[" * 100_000,
        '{"id":"TDX","version":NaN}',
        '{"id":"TDX","version":3.0}',
        '{"id":"TDX","version":' + "9" * 5000 + "}",
    ],
    ids=["key twice", "cut", "list", "text", "deep", "NaN", "float", "huge"],
)
def test_signed_text_that_is_not_one_object_is_refused(text: str) -> None:
    """Duplicate keys, floats, other values and no JSON at all, each well signed."""
    assert refused(with_info(text), Reason.COLLATERAL_MALFORMED)
    assert refused(with_identity(text), Reason.COLLATERAL_MALFORMED)


def test_a_key_twice_deep_inside_is_refused() -> None:
    """A duplicate key has two readings wherever it stands."""
    text = tcb.to_text(tcb_info()).replace('"pcesvn":13', '"pcesvn":14,"pcesvn":13', 1)

    assert refused(with_info(text), Reason.COLLATERAL_MALFORMED, saying="twice")


def test_hex_is_compared_without_case() -> None:
    """Intel prints FMSPC in either case."""
    info = tcb_info()

    assert accepted(with_info(info | {"fmspc": info["fmspc"].upper()}))
    assert accepted(with_info(info | {"fmspc": info["fmspc"].lower()}))


@given(st.text(max_size=200) | st.sampled_from([tcb.to_text(tcb_info())]))
def test_documents_give_our_error_or_a_value(text: str) -> None:
    """The readers of both documents raise nothing but `VerifierError`."""
    for parse in (tcbinfo.parse, identity.parse):
        assert reason_of(parse, text) in (None, *DOCUMENT_REASONS)


@given(st.data())
def test_a_damaged_document_gives_our_error_or_a_value(data: st.DataObject) -> None:
    """One value replaced anywhere in TCB info never leads to another error."""
    document = tcb_info()
    at: Any = document
    while True:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    at[key] = data.draw(
        st.none() | st.integers() | st.text(max_size=5) | st.lists(st.none(), max_size=1)
    )

    assert reason_of(tcbinfo.parse, tcb.to_text(document)) in (None, *DOCUMENT_REASONS)


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_containers_give_our_error_or_collateral(raw: bytes) -> None:
    """The reader of the JSON container raises nothing but `VerifierError`."""
    found = reason_of(collaterals.from_json, raw)

    assert found in (None, Reason.MALFORMED, Reason.COLLATERAL_MALFORMED)


def test_the_container_prints_itself() -> None:
    """What `to_json` prints, `from_json` reads back, with the same digest."""
    good = collateral()
    again = collaterals.from_json(collaterals.to_json(good))

    assert again == good
    assert again.digest == good.digest
    assert collateral({**vendors.good_collateral(), "tcb_info": "other"}).digest != good.digest


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", Reason.MALFORMED),
        (b"{", Reason.MALFORMED),
        (b"\xff", Reason.MALFORMED),
        (b"[" * 100_000, Reason.MALFORMED),
        (b"[]", Reason.COLLATERAL_MALFORMED),
        (b'{"pck_crl":1}', Reason.COLLATERAL_MALFORMED),
        (b'{"pck_crl":"0"}', Reason.COLLATERAL_MALFORMED),
        (b'{"pck_crl":"0 0"}', Reason.COLLATERAL_MALFORMED),
        (b'{"pck_crl":"","pck_crl":""}', Reason.COLLATERAL_MALFORMED),
        (b'{"verdict":"accept"}', Reason.COLLATERAL_MALFORMED),
        (b" " * (collaterals.MAX_COLLATERAL + 1), Reason.TOO_LARGE),
    ],
    ids=[
        "empty",
        "cut",
        "bytes",
        "deep",
        "list",
        "number",
        "odd hex",
        "loose hex",
        "twice",
        "unknown",
        "large",
    ],
)
def test_the_container_is_read_strictly(raw: bytes, reason: Reason) -> None:
    """Unknown parts, wrong types and loose hex are refused."""
    with pytest.raises(VerifierError) as caught:
        collaterals.from_json(raw)

    assert caught.value.reason is reason


def test_collateral_is_read_without_anything_remembered() -> None:
    """No memory is needed: what is verified without one is what is verified with one."""
    found = collateral()

    assert collaterals.verify(found, vendors.anchors()) == collaterals.verify(
        found, vendors.anchors(), store=Cache()
    )
