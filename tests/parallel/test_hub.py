"""Ranks that connect with each other, whoever else connects; and what is told of who does not come."""

import socket
import struct
import threading

import numpy as np
import pytest

from glm.errors import RunError
from glm.parallel import hub


def make_hubs(size, intrude=lambda address: None):
    """The hubs of so many ranks, each made in a thread; intrude(address) is called before the others connect."""
    told, made, found = threading.Event(), {}, {}

    def gather(number):
        def exchange(item):
            if number == 0:
                made["place"] = item
                intrude(item[0])
                told.set()
            told.wait()
            return [made["place"]] + [None] * (size - 1)

        return exchange

    def make(number):
        try:
            found[number] = hub.Hub(list(range(size)), number, gather(number))
        except Exception as error:
            found[number] = error

    threads = [threading.Thread(target=make, args=(number,), daemon=True) for number in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == size
    return [found[number] for number in range(size)]


def sums(hubs):
    """What each hub makes of the sum of [number, 1]."""
    results = {}
    threads = [
        threading.Thread(target=lambda n=number: results.__setitem__(n, hubs[n].sum(np.array([n, 1.0]))), daemon=True)
        for number in range(len(hubs))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return [results[number].tolist() for number in range(len(hubs))]


def silent(address):
    KEPT.append(socket.create_connection(address))


def garbage(address):
    silent(address)
    KEPT[-1].sendall(b"GET / HTTP/1.0\r\n\r\n")


def huge(address):
    """A message that claims to have 2 ** 31 - 1 bytes."""
    silent(address)
    KEPT[-1].sendall(struct.pack("!i", 2**31 - 1) + b"x")


def gone(address):
    silent(address)
    KEPT.pop().close()


def crowd(address):
    for _ in range(20):
        silent(address)


KEPT = []


@pytest.mark.parametrize("intrude", [lambda address: None, silent, garbage, huge, gone, crowd])
def test_ranks_connect_whoever_else_does(intrude, capfd, monkeypatch):
    monkeypatch.setattr(hub, "HANDSHAKE", 1)
    hubs = make_hubs(3, intrude)
    assert sums(hubs) == [[3.0, 3.0]] * 3
    while KEPT:
        KEPT.pop().close()
    if intrude in (garbage, huge):
        assert "is none of this job" in capfd.readouterr().err


def test_who_knows_not_the_key_is_told(monkeypatch, capfd):
    def intrude(address):
        def knock():
            from multiprocessing.connection import Client

            with pytest.raises(Exception):  # noqa: B017, PT011
                Client(tuple(address), authkey=b"another")

        threading.Thread(target=knock, daemon=True).start()

    assert sums(make_hubs(2, intrude)) == [[1.0, 2.0]] * 2


def test_a_rank_that_does_not_come_is_named(monkeypatch):
    monkeypatch.setattr(hub, "PATIENCE", 0.3)
    with pytest.raises(RunError, match=r"ranks 1, 2 did not connect within 0\.3 s"):
        hub.Hub([0, 1, 2], 0, lambda item: [item, None, None])
