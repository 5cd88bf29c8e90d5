"""Which addresses are public, whose turn it is, and what is remembered."""

import ipaddress
from pathlib import Path

import pytest

from data._download_log import DownloadError, DownloadLog, Outcome
from data._fetch import is_allowed
from data._host_queues import HostQueues, Request


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses(address: str):
    assert is_allowed(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.5.5", "172.31.255.255", "192.168.0.1", "169.254.169.254",
        "100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1",
        "fe80::1%eth0", "fc00::1", "fd12:3456::1", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
        "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::", "2002:a00:1::",
    ],
)  # fmt: skip
def test_private_addresses_however_they_are_wrapped(address: str):
    assert not is_allowed(address)


def test_networks_can_be_allowed():
    networks = [ipaddress.ip_network("10.1.0.0/16")]
    assert is_allowed("10.1.2.3", networks)
    assert is_allowed("::ffff:10.1.2.3", networks)
    assert not is_allowed("10.2.0.1", networks)


def queues(**limits: int) -> HostQueues:
    return HostQueues(**{"active_a_host": 2, "failures_a_host": 3} | limits)


def test_hosts_take_turns_and_none_has_too_many():
    waiting = queues()
    for host, count in (("a", 5), ("b", 2)):
        for number in range(count):
            waiting.push(Request(f"{host}{number}", host))
    taken = []
    while request := waiting.pop(0.0):
        taken.append(request)
    assert [request.url for request in taken] == ["a0", "b0", "a1", "b1"]
    assert waiting.num_waiting == 3
    waiting.done(taken[1], was_reached=True)
    assert waiting.pop(0.0) is None
    waiting.done(taken[0], was_reached=True)
    assert waiting.pop(0.0) == Request("a2", "a")
    assert waiting.pop(0.0) is None


def test_every_request_comes_once_whatever_the_order():
    waiting = queues(active_a_host=3)
    expected = {f"{host}{number}" for host in "abc" for number in range(20)}
    for url in sorted(expected, key=hash):
        waiting.push(Request(url, url[0]))
    seen: list[str] = []
    active: list[Request] = []
    for step in range(1000):
        if step % 3 and (request := waiting.pop(float(step))):
            active.append(request)
            seen.append(request.url)
        elif active:
            waiting.done(active.pop(step % len(active)), was_reached=True)
        for host in "abc":
            assert sum(request.host == host for request in active) <= 3
    assert sorted(seen) == sorted(expected)
    assert waiting.num_waiting == 0


def test_later_is_later():
    waiting = queues()
    waiting.push_later(Request("x", "a"), 5.0)
    waiting.push_later(Request("y", "a"), 3.0)
    assert (waiting.num_waiting, waiting.next_time()) == (2, 3.0)
    assert waiting.pop(2.9) is None
    assert waiting.pop(3.0) == Request("y", "a")
    assert waiting.pop(6.0) == Request("x", "a")
    assert waiting.next_time() is None


def test_a_host_is_given_up_after_failures_in_a_row():
    waiting = queues()
    for outcome in (False, False, True, False, False):
        waiting.push(Request("x", "a"))
        request = waiting.pop(0.0)
        assert request is not None
        waiting.done(request, was_reached=outcome)
        assert not waiting.is_given_up("a")
    waiting.push(Request("x", "a"))
    request = waiting.pop(0.0)
    assert request is not None
    waiting.done(request, was_reached=False)
    assert waiting.is_given_up("a")
    assert not waiting.is_given_up("b")


def test_outcomes_are_remembered(tmp_path: Path):
    log = DownloadLog(tmp_path)
    good = Outcome(status="ok", path="images/a.jpg", sha256="a", height=3, width=4, bytes=5)
    log.note("http://a", good)
    log.note("http://b", good)
    log.note("http://c", Outcome(status="timeout", detail="no answer", may_pass=True))
    log.note("http://d/\ud800", Outcome(status="http_404"))
    log.close()

    log = DownloadLog(tmp_path)
    assert log.find("http://a") == good
    assert log.find("http://c") == Outcome(status="timeout", detail="no answer", may_pass=True)
    assert log.find("http://e") is None
    assert log.statuses() == {"ok": 2, "timeout": 1, "http_404": 1}
    assert log.pictures() == (1, 5)
    assert log.forget(only_passing=True) == 1
    assert log.find("http://c") is None
    assert log.forget(only_passing=False) == 1
    assert log.statuses() == {"ok": 2}
    with pytest.raises(DownloadError, match="another download is writing"):
        DownloadLog(tmp_path)
    log.close()
