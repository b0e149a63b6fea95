"""Writes XML elements twice: as they are served, and in Canonical XML for what is signed.

Guarantees: `canonical` is what inclusive Canonical XML (1.0 and 1.1 agree: no xml: attributes here)
makes of `served`. Holds for elements and text only: that is all a RIM consists of. Written by hand
so that the verifier's canonicalisation is tested against another one than its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final


@final
@dataclass(frozen=True, slots=True)
class Element:
    """One element. Attributes are (prefix, name, value) in the order that they are served."""

    prefix: str
    name: str
    attributes: Sequence[tuple[str, str, str]] = ()
    namespaces: Mapping[str, str] = field(default_factory=dict)
    children: Sequence[Element | str] = ()

    def served(self) -> str:
        """Return the element as text; one without children is self-closing."""
        declared = "".join(
            f' xmlns{":" if prefix else ""}{prefix}="{_attribute(uri)}"'
            for prefix, uri in self.namespaces.items()
        )
        said = "".join(f' {_name(p, n)}="{_attribute(v)}"' for p, n, v in self.attributes)
        start = f"<{_name(self.prefix, self.name)}{declared}{said}"
        if not self.children:
            return f"{start}/>"
        inner = "".join(
            _text(child) if isinstance(child, str) else child.served() for child in self.children
        )
        return f"{start}>{inner}</{_name(self.prefix, self.name)}>"

    def canonical(
        self, known: Mapping[str, str] | None = None, written: Mapping[str, str] | None = None
    ) -> str:
        """Return the element in Canonical XML.

        Args:
            known: namespaces in scope around it.
            written: those of them that the output has declared already.
        """
        scope = {**(known or {}), **self.namespaces}
        before = written or {}
        news = sorted((p, uri) for p, uri in scope.items() if before.get(p) != uri)
        declared = "".join(
            f' xmlns{":" if prefix else ""}{prefix}="{_attribute(uri)}"' for prefix, uri in news
        )
        ordered = sorted(
            self.attributes, key=lambda each: (scope[each[0]] if each[0] else "", each[1])
        )
        said = "".join(f' {_name(p, n)}="{_attribute(v)}"' for p, n, v in ordered)
        inner = "".join(
            _text(child) if isinstance(child, str) else child.canonical(scope, scope)
            for child in self.children
        )
        name = _name(self.prefix, self.name)
        return f"<{name}{declared}{said}>{inner}</{name}>"


def _name(prefix: str, name: str) -> str:
    return f"{prefix}:{name}" if prefix else name


def _text(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
