"""Exchange of arrays among a few processes over connections of their own: tensor parallelism on CPU. NumPy and the
standard library only.

Not gloo: a sum over two ranks takes it about 2 ms, however small, where this takes a tenth, and its further groups fail
to connect now and then. With many ranks the first one has much to add up; it is meant for a machine's few.
"""

import os
import secrets
import socket
from multiprocessing.connection import Client, Listener

import numpy as np


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
        listener = Listener((host, 0), authkey=key, backlog=len(members)) if first else None
        address, key = gather((listener.address, key) if first else None)[members[0]]
        if first:
            with listener:
                connections = [listener.accept() for _ in members[1:]]
            by_number = {int.from_bytes(connection.recv_bytes(), "little"): connection for connection in connections}
            self.others = [by_number[other] for other in members[1:]]
        else:
            self.others = [Client(address, authkey=key)]
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


def content_of(array):
    """The bytes of an array, without a copy if they lie together."""
    # A view of no numbers cannot be cast.
    return memoryview(np.ascontiguousarray(array)).cast("B") if array.size else b""


def send_at_once(connection):
    """Switch off waiting for more to send: by default the system holds a small message back for up to 40 ms."""
    with socket.socket(fileno=os.dup(connection.fileno())) as one:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
