"""Exchange of arrays among a few processes over connections of their own: for tensor parallelism beside data
parallelism on CPU, where gloo's further groups cannot be relied upon. NumPy and the standard library only."""

import os
import secrets
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
        self.is_first = first

    def combined(self, array, combine):
        """combine(list of all members' arrays, in order), on all of them; their arrays are of one shape and dtype."""
        if not self.is_first:
            self.others[0].send_bytes(np.ascontiguousarray(array).data.cast("B"))
            shape = np.frombuffer(self.others[0].recv_bytes(), np.int64)
            return np.frombuffer(bytearray(self.others[0].recv_bytes()), array.dtype).reshape(shape)
        received = [np.frombuffer(other.recv_bytes(), array.dtype).reshape(array.shape) for other in self.others]
        result = np.ascontiguousarray(combine([array, *received]))
        for other in self.others:
            other.send_bytes(np.array(result.shape, np.int64).tobytes())
            other.send_bytes(result.data.cast("B"))
        return result
