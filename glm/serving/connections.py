"""Limits below requests: how many connections there are, of all and of one address, and how long one may say nothing.

Who has more than they may gets room by losing the connection that has waited longest for its client: a crowd of idle
ones keeps nobody out. A connection whose request is being answered is never taken away.
"""

import resource
import time
from collections import Counter
from dataclasses import dataclass, field

from uvicorn.protocols.http.h11_impl import H11Protocol

# File descriptors that a server needs besides: its files, and what libraries open.
SPARE_DESCRIPTORS = 64


@dataclass(eq=False)
class Connection:
    """A connection: its transport and its client's address; since when it waits for its client, None while it is being
    answered; and how many requests it has had."""

    transport: object
    address: str
    since: float | None = field(default_factory=time.monotonic)
    requests: int = 0


class Connections:
    """All connections of a server; called in its loop.

    most: of them all, most_of_address: of one client's address. header_timeout: seconds from a connection's beginning
    to the end of the first request that is there in full; keep_alive_timeout: seconds more, after an answer.
    """

    def __init__(self, most, most_of_address, header_timeout, keep_alive_timeout):
        self.most, self.most_of_address = min(most, descriptors() - SPARE_DESCRIPTORS), most_of_address
        self.header_timeout, self.keep_alive_timeout = header_timeout, keep_alive_timeout
        # In the order in which they began to wait, as far as they do.
        self.by_client, self.of_address = {}, Counter()

    def opened(self, client, transport):
        """A connection was made; client: (address, port)."""
        self.by_client[client] = Connection(transport, client[0])
        self.of_address[client[0]] += 1
        if self.of_address[client[0]] > self.most_of_address:
            self.make_room(client, client[0])
        elif len(self.by_client) > self.most:
            self.make_room(client, None)

    def make_room(self, newest, address):
        """Close the connection that has waited longest (of an address, or of all), the newest if all are answered."""
        waiting = (
            client
            for client, one in self.by_client.items()
            if one.since is not None and client != newest and address in (None, one.address)
        )
        self.close(next(waiting, newest))

    def close(self, client):
        """Close a connection at once."""
        transport = self.by_client[client].transport
        self.closed(client)
        transport.abort()

    def closed(self, client):
        """A connection has ended. Later calls do nothing."""
        connection = self.by_client.pop(client, None)
        if connection is not None:
            self.of_address[connection.address] -= 1
            if not self.of_address[connection.address]:
                del self.of_address[connection.address]

    def answering(self, client):
        """The request that a connection has sent is there in full."""
        if client in self.by_client:
            self.by_client[client].since = None

    def waiting(self, client):
        """A connection's request has been answered: it waits for the next one."""
        connection = self.by_client.pop(client, None)
        if connection is not None:
            connection.since, connection.requests = time.monotonic(), connection.requests + 1
            self.by_client[client] = connection

    def sweep(self):
        """Close connections that have waited too long for their clients."""
        now = time.monotonic()
        for client, connection in list(self.by_client.items()):
            allowed = self.header_timeout + (self.keep_alive_timeout if connection.requests else 0)
            if connection.since is not None and now - connection.since > allowed:
                self.close(client)


def descriptors():
    """How many file descriptors this process may have: as many as the system lets it ask for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return soft if soft != resource.RLIM_INFINITY else 65536


def protocol(connections):
    """uvicorn's protocol class, with Connections told of each."""

    class Protocol(H11Protocol):
        """HTTP/1.1 on one connection."""

        def connection_made(self, transport):
            """Begin."""
            super().connection_made(transport)
            if self.client:
                connections.opened(tuple(self.client), transport)

        def connection_lost(self, error):
            """End."""
            if self.client:
                connections.closed(tuple(self.client))
            super().connection_lost(error)

    return Protocol
