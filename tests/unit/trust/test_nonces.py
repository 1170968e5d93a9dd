"""Nonces are valid once, here, and for a minute."""

from __future__ import annotations

import pytest

from synaptoroute.trust.nonces import NONCE_SECONDS, Nonces, NoncesExhausted

pytestmark = pytest.mark.unit


def test_nonce_is_used_once() -> None:
    nonces = Nonces()
    nonce = nonces.issue()
    assert nonces.use(nonce)
    assert not nonces.use(nonce)


@pytest.mark.parametrize("nonce", ["", ".", "..", "1.2.3", "x" * 9_999, "é.é.é"])
def test_nonce_that_was_not_given_out_is_refused(nonce: str) -> None:
    assert not Nonces().use(nonce)


def test_nonce_of_another_process_is_refused() -> None:
    assert not Nonces().use(Nonces().issue())


def test_nonce_expires() -> None:
    now = [100.0]
    nonces = Nonces(clock=lambda: now[0])
    nonce = nonces.issue()
    now[0] += NONCE_SECONDS + 1
    assert not nonces.use(nonce)


def test_used_nonces_are_bounded_and_none_is_forgotten_early() -> None:
    now = [100.0]
    nonces = Nonces(used_max=2, clock=lambda: now[0])
    first = nonces.issue()
    assert nonces.use(first)
    assert nonces.use(nonces.issue())
    with pytest.raises(NoncesExhausted):
        nonces.use(nonces.issue())
    assert not nonces.use(first)
    now[0] += NONCE_SECONDS + 1
    assert nonces.use(nonces.issue())
