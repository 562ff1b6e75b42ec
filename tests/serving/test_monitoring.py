"""Metrics by the definition of Prometheus' text format."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm.serving.monitoring import Histogram, Monitor

LINE = re.compile(r'# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{[a-z]+="[^"\\\n]*"\})? -?[0-9.e+-]+')


@given(st.lists(st.floats(0, 100)), st.lists(st.floats(0, 100), min_size=1, max_size=5, unique=True))
def test_a_bucket_counts_all_that_is_at_most_its_bound(values, bounds):
    histogram = Histogram("h", "", bounds)
    for value in values:
        histogram.observe(value)
    samples = dict(line.rsplit(" ", 1) for line in histogram.samples())
    for bound in bounds:
        assert int(samples[f'h_bucket{{le="{bound}"}}']) == sum(value <= bound for value in values)
    assert int(samples['h_bucket{le="+Inf"}']) == int(samples["h_count"]) == len(values)
    assert float(samples["h_sum"]) == pytest.approx(sum(values))


def test_every_line_is_one_of_the_format():
    monitor = Monitor(lambda: 3, lambda: 4)
    monitor.request_ended(200, 0.5)
    monitor.request_ended(429, 1e-6)
    monitor.batch_started(7)
    monitor.prompt_answered(12)
    lines = monitor.text().splitlines()
    assert all(LINE.fullmatch(line) for line in lines)
    assert {'glm_requests_total{status="200"} 1', 'glm_requests_total{status="429"} 1', "glm_queue_length 3"} <= {
        *lines
    }
    assert {"glm_requests_in_progress 4", "glm_tokens_generated_total 12", "glm_batch_size_sum 7"} <= {*lines}
