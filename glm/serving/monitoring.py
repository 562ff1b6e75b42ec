"""What a server counts, as text in Prometheus' exposition format 0.0.4. Standard library only."""

import bisect
import threading


class Counter:
    """A number that only grows, apart for each value of a label if it has one."""

    kind = "counter"

    def __init__(self, name, help, label=None):
        self.name, self.help, self.label = name, help, label
        self.values = {} if label else {"": 0}

    def add(self, amount=1, label=""):
        """Count `amount` more, under a value of the label."""
        self.values[label] = self.values.get(label, 0) + amount

    def samples(self):
        """Lines of the counter's present values."""
        for value, number in sorted(self.values.items()):
            labels = f'{{{self.label}="{value}"}}' if self.label else ""
            yield f"{self.name}{labels} {number}"


class Gauge:
    """A number that is asked for when it is shown: read() gives it."""

    kind = "gauge"

    def __init__(self, name, help, read):
        self.name, self.help, self.read = name, help, read

    def samples(self):
        """The line of the present value."""
        yield f"{self.name} {self.read()}"


class Histogram:
    """How many observations were at most each of some bounds; their sum and number."""

    kind = "histogram"

    def __init__(self, name, help, bounds):
        self.name, self.help, self.bounds = name, help, sorted(bounds)
        self.counts, self.total = [0] * (len(bounds) + 1), 0

    def observe(self, value):
        """Count a value."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value

    def samples(self):
        """Lines of the buckets, each counting those below it too, of the sum and of the number."""
        below = 0
        for bound, count in zip([*self.bounds, "+Inf"], self.counts, strict=True):
            below += count
            yield f'{self.name}_bucket{{le="{bound}"}} {below}'
        yield f"{self.name}_sum {self.total}"
        yield f"{self.name}_count {below}"


class Monitor:
    """What a server of a model counts. Its methods may be called from any thread."""

    def __init__(self, queue_length, in_progress):
        """queue_length(), in_progress(): present numbers of waiting prompts and of requests without their answer."""
        self.lock = threading.Lock()
        self.requests = Counter("glm_requests_total", "Requests to /generate that have ended, by status.", "status")
        self.prompts = Counter("glm_prompts_total", "Prompts answered whole.")
        self.tokens = Counter("glm_tokens_generated_total", "Tokens in the answers, end tokens included.")
        self.batches = Histogram("glm_batch_size", "Prompts decoded together.", [2**i for i in range(9)])
        seconds = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0]
        self.seconds = Histogram("glm_request_seconds", "Time from a request's arrival to its end.", seconds)
        self.families = (
            self.requests,
            self.prompts,
            self.tokens,
            self.batches,
            self.seconds,
            Gauge("glm_queue_length", "Prompts that wait for a batch.", queue_length),
            Gauge("glm_requests_in_progress", "Requests that are being read, wait or are decoded.", in_progress),
        )

    def request_ended(self, status, seconds):
        """Count a request: the status of its outcome, and how long it took."""
        with self.lock:
            self.requests.add(1, str(status))
            self.seconds.observe(seconds)

    def batch_started(self, size):
        """Count a batch of `size` prompts."""
        with self.lock:
            self.batches.observe(size)

    def prompt_answered(self, tokens):
        """Count a prompt whose answer has `tokens` tokens."""
        with self.lock:
            self.prompts.add()
            self.tokens.add(tokens)

    def text(self):
        """All that was counted, in Prometheus' format."""
        with self.lock:
            lines = []
            for family in self.families:
                lines += [f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}"]
                lines += family.samples()
        return "\n".join(lines) + "\n"
