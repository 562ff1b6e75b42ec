"""What a server counts, by prometheus-client: one registry for each server."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
SIZES = tuple(2**i for i in range(9))

disable_created_metrics()


class Monitor:
    """What a server of a model counts. Its methods may be called from any thread."""

    def __init__(self, queue_length, in_progress):
        """queue_length(), in_progress(): present numbers of waiting prompts and of requests without their answer."""
        self.registry = registry = CollectorRegistry()

        def histogram(name, help, bounds):
            return Histogram(name, help, buckets=bounds, registry=registry)

        self.requests = Counter("glm_requests", "Requests for texts that have ended, by status.", ["status"],
                                registry=registry)  # fmt: skip
        self.prompts = Counter("glm_prompts", "Prompts answered whole.", registry=registry)
        self.tokens = Counter("glm_tokens_generated", "Tokens in the answers, end tokens included.", registry=registry)
        self.batches = histogram("glm_batch_size", "Prompts that began to be decoded together.", SIZES)
        self.occupancy = histogram("glm_batch_occupancy", "Prompts that were decoded together, at each step.", SIZES)
        self.seconds = histogram("glm_request_seconds", "Time from a request's arrival to its end.", SECONDS)
        self.wait = histogram("glm_queue_wait_seconds", "Time that a prompt waits to be decoded.", SECONDS)
        self.first = histogram("glm_time_to_first_token_seconds", "Time from a prompt's arrival to its first token.",
                               SECONDS)  # fmt: skip
        self.between = histogram("glm_time_between_tokens_seconds", "Time from one token of a text to the next.", SHORT)
        for name, help, read in (
            ("glm_queue_length", "Prompts that wait to be decoded.", queue_length),
            ("glm_requests_in_progress", "Requests that are being read, wait or are decoded.", in_progress),
        ):
            Gauge(name, help, registry=registry).set_function(read)
        ProcessCollector(registry=registry)

    def request_ended(self, status, seconds):
        """Count a request: the status of its outcome, and how long it took."""
        self.requests.labels(str(status)).inc()
        self.seconds.observe(seconds)

    def batch_started(self, waited):
        """Count prompts that begin together; waited: the seconds that each has waited."""
        self.batches.observe(len(waited))
        for seconds in waited:
            self.wait.observe(seconds)

    def stepped(self, size):
        """Count a step of so many prompts."""
        self.occupancy.observe(size)

    def token_came(self, seconds, is_first):
        """Count a token, so long after its prompt's arrival, or else after the token before."""
        (self.first if is_first else self.between).observe(seconds)

    def prompt_answered(self, tokens):
        """Count a prompt whose answer has `tokens` tokens."""
        self.prompts.inc()
        self.tokens.inc(tokens)

    def text(self):
        """All that was counted, bytes in Prometheus' text format."""
        return generate_latest(self.registry)
