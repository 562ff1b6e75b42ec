"""Exchange of arrays among a few processes over connections of their own: tensor parallelism on CPU. NumPy and the
standard library only.

Not gloo: a sum over two ranks takes it about 2 ms, however small, where this takes a tenth, and its further groups fail
to connect now and then. With many ranks the first one has much to add up; it is meant for a machine's few.
"""

import os
import queue
import secrets
import socket
import struct
import threading
import time
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, answer_challenge, deliver_challenge

import numpy as np

from glm.errors import RunError, note, one_line

# Seconds that the ranks of a job may take to connect: they start together. And that one may take to show who it is.
PATIENCE, HANDSHAKE = 120.0, 5


class Hub:
    """Processes of which the first is connected with each of the others.

    gather: called once with an object, gives the list of all processes' objects (of all hubs together, in the order of
    their numbers); it tells the others where the first one listens. members: numbers of this hub's processes, in order;
    number: this one's. All processes make their hubs together.
    """

    def __init__(self, members, number, gather):
        first = number == members[0]
        key = secrets.token_bytes(16)
        # Listening where paddle.distributed.launch has put this process: another machine's ranks have to reach it.
        host = os.environ.get("PADDLE_CURRENT_ENDPOINT", "127.0.0.1:0").rpartition(":")[0]
        listener = socket.create_server((host, 0), backlog=128) if first else None
        address, key = gather((listener.getsockname()[:2], key) if first else None)[members[0]]
        if first:
            with listener:
                by_number = connected(listener, key, members[1:])
            self.others = [by_number[other] for other in members[1:]]
        else:
            self.others = [Client(tuple(address), authkey=key)]
            self.others[0].send_bytes(number.to_bytes(8, "little"))
        for connection in self.others:
            send_at_once(connection)
        self.is_first, self.size = first, len(members)

    def sum(self, array):
        """The sum of all members' arrays, on all of them; they are of one shape and dtype."""
        return self.combined(array, sum, array.shape)

    def stack(self, array):
        """[size, ...]: all members' arrays in order, on all of them; they are of one shape and dtype."""
        return self.combined(array, np.stack, (self.size, *array.shape))

    def combined(self, array, combine, shape):
        """combine(list of all members' arrays, in order), which is of this shape, on all of them."""
        if not self.is_first:
            self.others[0].send_bytes(content_of(array))
            return np.ndarray(shape, array.dtype, bytearray(self.others[0].recv_bytes()))
        received = [np.ndarray(array.shape, array.dtype, other.recv_bytes()) for other in self.others]
        result = combine([array, *received])
        for other in self.others:
            other.send_bytes(content_of(result))
        return result


def connected(listener, key, members):
    """{number: connection} of the members, once each has connected and shown that it knows the key.

    Whoever else connects is refused, and told of: who says nothing, or something else, holds nobody up, for each is
    listened to in a thread of its own. Raises RunError where a member does not come within PATIENCE seconds.
    """
    found, arrived = {}, queue.Queue()
    until = time.monotonic() + PATIENCE
    while found.keys() != set(members):
        if time.monotonic() > until:
            missing = ", ".join(map(str, sorted(set(members) - found.keys())))
            raise RunError(f"ranks {missing} did not connect within {PATIENCE:g} s; their logs (workerlog.N) say why")
        listener.settimeout(0.05)
        try:
            taken, place = listener.accept()
            threading.Thread(target=welcome, args=(taken, place, key, members, arrived), daemon=True).start()
        except TimeoutError:
            pass
        while not arrived.empty():
            number, connection = arrived.get()
            found.setdefault(number, connection)
    return found


def welcome(taken, place, key, members, arrived):
    """Have who has connected show that it knows the key, within HANDSHAKE seconds: its (number, connection) arrives."""
    taken.settimeout(None)
    # Not by settimeout(): what multiprocessing reads with is the descriptor.
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", HANDSHAKE, 0))
    connection = Connection(taken.detach())
    try:
        deliver_challenge(connection, key)
        answer_challenge(connection, key)
        number = int.from_bytes(connection.recv_bytes(8), "little")
        if number not in members:
            raise ValueError(f"there is no rank {number}")
    except (OSError, EOFError, ValueError, AuthenticationError) as error:
        connection.close()
        line = f"{place[0]}:{place[1]} connected to this rank and is none of this job: {one_line(error)}"
        note(f"{line}; it is not listened to")
        return
    with socket.socket(fileno=os.dup(connection.fileno())) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 0))
    arrived.put((number, connection))


def content_of(array):
    """The bytes of an array, without a copy if they lie together."""
    # A view of no numbers cannot be cast.
    return memoryview(np.ascontiguousarray(array)).cast("B") if array.size else b""


def send_at_once(connection):
    """Switch off waiting for more to send: by default the system holds a small message back for up to 40 ms."""
    with socket.socket(fileno=os.dup(connection.fileno())) as one:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
