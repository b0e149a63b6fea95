"""Opens the token of a home in the test's own process, to look into it or to spoil it.

Whoever imports this loads PKCS#11; processes that stand for a broker must not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pkcs11.types import Session

from broker.hsm.home import HsmHome, opened_pin
from broker.hsm.pkcs11 import CKU_USER, Mapper, Module, find_module, handle_of


@contextmanager
def opened(home: Path) -> Iterator[Session]:
    """Log in to the token of `home` in this process."""
    place = HsmHome(home)
    module = Module(find_module(), place.conf)
    try:
        token = module.lib.get_token(token_label=place.read_marker().label)
        session = token.open(rw=True, attribute_mapper=Mapper())
        with opened_pin(place.pin) as pin:
            module.login(handle_of(session), CKU_USER, pin)
        yield session
    finally:
        module.finalize()
