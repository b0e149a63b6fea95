"""The OpenAPI page: every route on it, nothing of it from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from html import escape
from html.parser import HTMLParser

import pytest

from broker.http.docs_page import page
from broker.http.problems import TABLE
from tests.kit.broker import House


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, and the text."""

    def __init__(self, raw: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(raw.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture
def shown(house: House) -> Page:
    """Give the page as it is served."""
    answer = house.send("GET", "/schema")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return Page(answer.content)


def test_loads_nothing(house: House, shown: Page) -> None:
    """The page names no other host, runs no script and asks for no file."""
    raw = house.send("GET", "/schema").text
    assert "http://" not in raw
    assert "https://" not in raw
    assert "url(" not in raw
    assert "@import" not in raw
    assert {tag for tag, _ in shown.tags}.isdisjoint(
        {"script", "img", "iframe", "object", "embed", "form", "base", "video", "audio"}
    )
    for tag, attributes in shown.tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        for name in ("href", "src"):
            target = attributes.get(name) or ""
            inside = target.startswith("#") or target in {"", "data:,", "/schema/openapi.json"}
            assert inside, (tag, target)


def test_headers(house: House) -> None:
    """Its policy lets a browser load nothing, and admits the one style sheet by its digest."""
    answer = house.send("GET", "/schema")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    style = re.search(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_every_route(house: House, shown: Page) -> None:
    """Every route of the application is on it, with its method, what it does and what it takes."""
    found = {
        (method, re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path))
        for route in house.app.routes
        if not route.path.startswith("/schema")
        for method in route.methods - {"OPTIONS"}
    }
    assert len(found) > 20
    for method, path in found:
        assert f"{method} {path} " in shown.text, (method, path)
    document = house.send("GET", "/schema/openapi.json").json()
    for methods in document["paths"].values():
        for method, operation in methods.items():
            assert len(operation["description"]) > 20, operation
            said = " ".join(operation["description"].replace("`", " ").split())
            assert said.replace(" ", "") in shown.text.replace(" ", "")
            takes = method in {"post", "put"} and operation["operationId"] != "create_import_key"
            assert ("requestBody" in operation) == takes, operation["operationId"]
            if takes:
                assert operation["requestBody"]["description"] in shown.text


def test_bodies(house: House) -> None:
    """Bodies are named as the specification names them, with the section that says more."""
    paths = house.send("GET", "/schema/openapi.json").json()["paths"]
    said = paths["/v1/releases"]["post"]["requestBody"]["description"]
    assert said == "ReleaseRequest (verifier/wire/SPEC.md, section 5)"
    files = "/v1/tenants/{tenant}/models/{model}/{version}/files/{path}"
    assert list(paths[files]["put"]["requestBody"]["content"]) == ["application/octet-stream"]


def test_refusals(shown: Page) -> None:
    """Every code that a caller can be given is explained."""
    for code, (status, sentence) in TABLE.items():
        assert f"{code.value} {int(status)} {sentence}" in shown.text


def test_simulated(shown: Page) -> None:
    """A broker that trusts a simulator says so on its page; another one does not."""
    assert "SIMULATED HARDWARE" in shown.text
    document = {"info": {"title": "x", "version": "1"}, "paths": {}}
    assert b"SIMULATED" not in page(document, "/schema/openapi.json", simulated=False)


def test_escaped() -> None:
    """Texts of the document cannot become markup."""
    evil = "<script>alert(1)</script>\"'&"
    operation = {
        "operationId": evil,
        "tags": [evil],
        "description": evil,
        "responses": {"200": {}},
        "parameters": [{"name": evil, "in": "query", "schema": {"type": evil, "default": evil}}],
        "requestBody": {"description": evil, "content": {evil: {}}},
    }
    document = {
        "info": {"title": evil, "version": evil, "description": evil},
        "tags": [{"name": evil, "description": evil}],
        "paths": {evil: {"get": operation}},
    }
    raw = page(document, evil, simulated=True).decode()
    assert "<script" not in raw.lower()
    assert escape(evil) in raw


def test_no_page_of_the_frameworks(house: House) -> None:
    """What is not there below the page is a refusal that loads nothing either."""
    for path in ("swagger", "redoc", "oauth2-redirect.html", "openapi.yaml"):
        answer = house.send("GET", f"/schema/{path}")
        assert "http" + "s://" not in answer.text, path
