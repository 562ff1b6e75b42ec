"""How fast a run is and how much memory it takes."""

import resource
import time

from glm.ops import device


class Meter:
    """Counts tokens and the time they took. Counts stay tensors until read: reading one waits for the device."""

    def __init__(self):
        self.total = self.since_lap = 0
        self.lap_start = self.start = None

    def add(self, count):
        """Count tokens; the clock starts with the first call."""
        if self.start is None:
            self.start = self.lap_start = time.time()
        self.since_lap = self.since_lap + count

    def lap(self):
        """Tokens per second since the last lap."""
        count, now = int(self.since_lap), time.time()
        speed = count / max(now - (now if self.lap_start is None else self.lap_start), 1e-9)
        self.total, self.since_lap, self.lap_start = self.total + count, 0, now
        return speed

    def mean(self):
        """Tokens per second since the first call, 0 if there was none."""
        if self.start is None:
            return 0.0
        return (self.total + int(self.since_lap)) / max(time.time() - self.start, 1e-9)


def peak_memory_gib():
    """Most memory used so far, in GiB: of the GPU where there is one, else of the process."""
    of_gpu = device.peak_gpu_gib()
    return of_gpu if of_gpu is not None else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
