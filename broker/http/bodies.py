"""Says in the OpenAPI document what a route takes: handlers read raw bytes, which it cannot see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from litestar.openapi.spec import OpenAPIMediaType, OpenAPIType, Operation, RequestBody, Schema

WIRE: Final = "verifier/wire/SPEC.md"
SEALED: Final = "inference_runtime/sealed/SPEC.md"


def takes(name: str, where: str, media_type: str = "application/json") -> type[Operation]:
    """Return an operation whose request body is the message `name`, as `where` describes it."""
    binary = media_type == "application/octet-stream"
    kind = OpenAPIType.STRING if binary else OpenAPIType.OBJECT
    schema = Schema(type=kind, title=name)
    body = RequestBody(
        content={media_type: OpenAPIMediaType(schema=schema)},
        description=f"{name} ({where})",
        required=True,
    )

    @dataclass
    class Taking(Operation):
        def __post_init__(self) -> None:
            self.request_body = body

    return Taking
