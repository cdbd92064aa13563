"""What a collector shows of its nodes."""

import pytest
from prometheus_client import CollectorRegistry

from health.collector_numbers import KEPT_S, Numbers
from health.model import Sample, Tunnel

JP = {"country": "jp", "node": "jp3f9a1c"}


class Shown:
    def __init__(self) -> None:
        self.now = 100.0
        self.numbers = Numbers(lambda: self.now)
        self._registry = CollectorRegistry()
        self._registry.register(self.numbers)

    def value(self, name: str) -> float | None:
        return self._registry.get_sample_value(f"vpnexit_collector_{name}", JP)


@pytest.fixture
def shown() -> Shown:
    return Shown()


def sample(**fields: object) -> Sample:
    given = {"reachable": True, "tunnel": Tunnel.UP, "kill_switch": True, "probe_ms": 20.0, "loss": 0.1}
    return Sample.model_validate({"node": "jp3f9a1c", "at": 1.0, **given, **fields})


def test_a_sample_in_base_units(shown: Shown) -> None:
    shown.numbers.take([sample(rx_bytes=7, tx_bytes=8, handshake_age_s=12.5)])
    assert shown.value("agent_reachable") == shown.value("tunnel_up") == shown.value("kill_switch") == 1
    assert shown.value("probe_seconds") == 0.02
    assert shown.value("probe_loss_ratio") == 0.1
    assert shown.value("handshake_age_seconds") == 12.5
    assert (shown.value("received_bytes_total"), shown.value("sent_bytes_total")) == (7, 8)


def test_what_is_not_known_is_not_shown(shown: Shown) -> None:
    shown.numbers.take([sample(tunnel=Tunnel.STARTING, probe_ms=None)])
    assert shown.value("tunnel_up") == 0
    assert shown.value("probe_seconds") is shown.value("handshake_age_seconds") is None


def test_a_sample_is_shown_while_it_is_news(shown: Shown) -> None:
    shown.numbers.take([sample()])
    shown.now += KEPT_S
    shown.numbers.take([])
    assert shown.value("probe_seconds") == 0.02
    shown.now += 0.1
    assert shown.value("probe_seconds") is None
    shown.numbers.take([])
    assert not shown.numbers._samples
