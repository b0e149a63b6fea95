"""The OpenAPI document as a page to read: one HTML file, no script, nothing from another host.

Guarantees: the page is made from the document that `/schema/openapi.json` gives, every text in it
is escaped, and its Content-Security-Policy lets a browser load nothing at all.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from html import escape
from string import Template
from typing import Any, Final, final

from litestar import Request, Router
from litestar.openapi.plugins import OpenAPIRenderPlugin

from broker.http.context import services
from broker.http.problems import TABLE

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #60646c; --line: #e0e1e6;
  --paper: #ffffff; --block: #f6f6f8; --link: #0d5fbf; --get: #0b6e4f; --post: #8a4b00;
  --put: #5b3fa8; --delete: #b3261e; --head: #60646c; --warn: #fff1c2; --warn-ink: #5c4300; }
@media (prefers-color-scheme: dark) { :root { --ink: #edeef0; --soft: #a3a8b0; --line: #363a3f;
  --paper: #15171a; --block: #1d2024; --link: #7db5ff; --get: #5fd3a5; --post: #f2b45c;
  --put: #b9a3ff; --delete: #ff9189; --head: #a3a8b0; --warn: #4a3a08; --warn-ink: #ffe08a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
main, header { max-width: 56rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.5rem; }
h1 { font-size: 1.9rem; margin: 0; letter-spacing: -.01em; }
h1 small { font-size: .95rem; font-weight: 400; color: var(--soft); margin-left: .5rem; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .25rem; padding-top: .5rem; text-transform: capitalize; }
p { margin: .35rem 0; }
.lead { font-size: 1.1rem; }
.soft { color: var(--soft); }
.warn { background: var(--warn); color: var(--warn-ink); padding: .6rem .9rem; border-radius: .4rem;
  margin: 1rem 0; font-weight: 600; }
nav { margin: 1.1rem 0 0; display: flex; flex-wrap: wrap; gap: .4rem 1.1rem; }
a { color: var(--link); text-decoration: none; } a:hover, a:focus { text-decoration: underline; }
nav a { text-transform: capitalize; }
nav a.file { text-transform: none; }
code { font: .92em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
article { border: 1px solid var(--line); border-radius: .5rem; margin: .8rem 0; overflow: hidden; }
article > h3 { margin: 0; padding: .5rem .9rem; background: var(--block); font-size: 1rem;
  font-weight: 400; display: flex; gap: .8rem; align-items: baseline; }
h3 code { overflow-wrap: anywhere; }
h3 b { font: 700 .8rem/1 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  min-width: 3.6rem; letter-spacing: .03em; }
.get b { color: var(--get); } .post b { color: var(--post); } .put b { color: var(--put); }
.delete b { color: var(--delete); } .head b { color: var(--head); }
article > div { padding: .6rem .9rem .75rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .5rem 0 0;
  font-size: .93rem; }
dt { color: var(--soft); } dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; margin: .6rem 0 1rem; font-size: .93rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .8rem .35rem 0;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 400; }
footer { color: var(--soft); font-size: .9rem; margin: 2.5rem 0; }
@media (max-width: 34rem) { article > h3 { flex-wrap: wrap; gap: .2rem .8rem; }
  dl { grid-template-columns: 1fr; gap: 0; } dt { margin-top: .35rem; } }
"""

_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

HEADERS: Final = {
    "content-security-policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}

_PAGE: Final = Template(
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<link rel="icon" href="data:,">
<style>$style</style>
</head>
<body>
<header>
<h1>$title<small>version $version</small></h1>
<p class="lead">$description</p>
$warning
<p>Messages are JSON in one canonical encoding: fields in the order of the specification
(<code>verifier/wire/SPEC.md</code>), no white space, at most 1 MiB, sent as
<code>application/json</code> exactly. Routes of a tenant want
<code>Authorization: Bearer</code> with a token for that one request; releases and renewals want
evidence instead.</p>
<nav>$nav<a class="file" href="$json">OpenAPI document (JSON)</a></nav>
</header>
<main>
$sections
<section id="refusals">
<h2>Refusals</h2>
<p class="soft">A refusal is a problem document (RFC 9457, <code>application/problem+json</code>)
with a code and a fixed sentence. Why evidence was refused stands in the tenant's audit records.</p>
<table>
<tr><th>code</th><th>status</th><th>sentence</th></tr>
$refusals
</table>
</section>
<footer>This page is made by the broker itself, runs no script and loads nothing.</footer>
</main>
</body>
</html>
"""
)
_ROUTE: Final = Template(
    """<article class="$method" id="$id">
<h3><b>$METHOD</b><code>$path</code></h3>
<div>
<p>$description</p>
$facts
</div>
</article>"""
)


def docs_router(path: str) -> Router:
    """Return the router that the OpenAPI routes hang on, with the page's headers."""
    return Router(path=path, route_handlers=[], response_headers=HEADERS, include_in_schema=False)


@final
class DocsPage(OpenAPIRenderPlugin):
    """Renders the OpenAPI document as a page, at the root of its path."""

    def __init__(self) -> None:
        super().__init__(path="/")

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """Return the page (HTML, UTF-8)."""
        simulated = services(request).info.simulated
        return page(openapi_schema, self.get_openapi_json_route(request), simulated=simulated)


def page(document: dict[str, Any], json_route: str, *, simulated: bool) -> bytes:
    """Return the page for an OpenAPI document.

    Args:
        document: the document, as a dictionary.
        json_route: where the document itself is given.
        simulated: whether this broker trusts simulated hardware, which the page then says.
    """
    tags = {tag["name"]: tag.get("description", "") for tag in document.get("tags", [])}
    grouped: dict[str, list[str]] = {name: [] for name in tags}
    for path, method, operation in operations(document):
        for tag in operation.get("tags") or ["other"]:
            grouped.setdefault(tag, []).append(_route(path, method, operation))
    grouped = {name: routes for name, routes in grouped.items() if routes}
    warning = "SIMULATED HARDWARE is trusted here: nothing that this broker says is proof."
    info = document["info"]
    return _PAGE.substitute(
        title=escape(info["title"]),
        version=escape(info["version"]),
        description=escape(info.get("description", "")),
        style=STYLE,
        warning=f'<p class="warn">{warning}</p>' if simulated else "",
        json=escape(json_route),
        nav="".join(f'<a href="#{escape(name)}">{escape(name)}</a>' for name in grouped)
        + '<a href="#refusals">refusals</a>',
        sections="\n".join(
            f'<section id="{escape(name)}"><h2>{escape(name)}</h2>'
            f'<p class="soft">{escape(tags.get(name, ""))}</p>{"".join(routes)}</section>'
            for name, routes in grouped.items()
        ),
        refusals="\n".join(
            f"<tr><td><code>{escape(code.value)}</code></td><td>{int(status)}</td>"
            f"<td>{escape(sentence)}</td></tr>"
            for code, (status, sentence) in TABLE.items()
        ),
    ).encode()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Give path, method and operation of every route in a document, in its order."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def _route(path: str, method: str, operation: dict[str, Any]) -> str:
    facts: list[tuple[str, str]] = []
    body = operation.get("requestBody")
    if body is not None:
        (media_type,) = body["content"]
        kind = f" as <code>{escape(media_type)}</code>"
        facts.append(("body", escape(body.get("description", "")) + kind))
    for place in ("path", "query", "header"):
        found = [p for p in operation.get("parameters", []) if p["in"] == place]
        if found:
            facts.append((place, "<br>".join(map(_parameter, found))))
    statuses = [status for status in operation["responses"] if status.startswith("2")]
    facts.append(("answers", ", ".join(escape(status) for status in statuses)))
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts)
    return _ROUTE.substitute(
        method=escape(method),
        METHOD=escape(method.upper()),
        id=escape(operation["operationId"]),
        path=escape(path),
        description=_prose(operation.get("description") or operation.get("summary", "")),
        facts=f"<dl>{listed}</dl>",
    )


def _prose(text: str) -> str:
    """Return a docstring as HTML: what stands in backticks is code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


def _parameter(parameter: dict[str, Any]) -> str:
    schema = parameter.get("schema", {})
    words = [str(schema.get("type", ""))]
    if "minimum" in schema:
        words.append(f"from {int(schema['minimum'])}")
    if "exclusiveMaximum" in schema:
        words.append(f"below 2^{int(schema['exclusiveMaximum']).bit_length() - 1}")
    if "default" in schema:
        words.append(f"default {str(schema['default']).lower()}")
    elif not parameter.get("required", False):
        words.append("may be left out")
    return f"<code>{escape(parameter['name'])}</code> {escape(', '.join(words))}"
