"""Fixtures of the HSM suite: real SoftHSM tokens, copied for each test."""

from tests.kit.hsm import enrolled_home, guest, hsm_home, prepared_hsm, prepared_tenant

__all__ = ["enrolled_home", "guest", "hsm_home", "prepared_hsm", "prepared_tenant"]
