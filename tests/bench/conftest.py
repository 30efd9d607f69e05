"""Peers that need no installation, for all of these tests."""

import pytest

from convforge import registry
from convforge.bench import peers


@pytest.fixture(autouse=True)
def _only_fake_peers(monkeypatch):
    monkeypatch.setattr(peers, "PEERS", {"fake": "tests.bench.fake_peer", "absent": "tests.bench.absent_peer"})


@pytest.fixture
def nothing_to_compile(monkeypatch):
    """Without Numba's algorithms, which compile for a minute where they are not cached."""
    kept = tuple(each for each in registry.ALGORITHMS if each.backend != "numba")
    monkeypatch.setattr(registry, "ALGORITHMS", kept)
