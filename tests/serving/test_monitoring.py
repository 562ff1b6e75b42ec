"""What a server counts, read back by Prometheus' own parser."""

from prometheus_client.parser import text_string_to_metric_families

from glm.serving.monitoring import Monitor


def samples(monitor):
    """{(name, labels as items): value} of what a Monitor says."""
    families = text_string_to_metric_families(monitor.text().decode())
    return {
        (sample.name, tuple(sample.labels.items())): sample.value for family in families for sample in family.samples
    }


def test_what_was_counted_can_be_read_under_the_names_that_dashboards_have():
    waiting = [3]
    monitor = Monitor(lambda: waiting[0], lambda: 4)
    monitor.request_ended(200, 0.5)
    monitor.request_ended(429, 1e-6)
    monitor.batch_started([0.02, 0.3])
    monitor.stepped(2)
    monitor.stepped(40)
    monitor.token_came(0.2, is_first=True)
    monitor.token_came(0.003, is_first=False)
    monitor.prompt_answered(12)
    found = samples(monitor)
    expected = {
        ("glm_requests_total", (("status", "200"),)): 1,
        ("glm_requests_total", (("status", "429"),)): 1,
        ("glm_request_seconds_count", ()): 2,
        ("glm_request_seconds_bucket", (("le", "0.01"),)): 1,
        ("glm_prompts_total", ()): 1,
        ("glm_tokens_generated_total", ()): 12,
        ("glm_batch_size_sum", ()): 2,
        ("glm_batch_size_count", ()): 1,
        ("glm_batch_occupancy_sum", ()): 42,
        ("glm_batch_occupancy_bucket", (("le", "2.0"),)): 1,
        ("glm_queue_wait_seconds_count", ()): 2,
        ("glm_queue_wait_seconds_bucket", (("le", "0.025"),)): 1,
        ("glm_time_to_first_token_seconds_count", ()): 1,
        ("glm_time_between_tokens_seconds_bucket", (("le", "0.005"),)): 1,
        ("glm_queue_length", ()): 3,
        ("glm_requests_in_progress", ()): 4,
    }
    assert {name: found[name] for name in expected} == expected
    assert found["process_resident_memory_bytes", ()] > 2**20
    waiting[0] = 0
    assert samples(monitor)["glm_queue_length", ()] == 0


def test_servers_of_one_process_count_each_for_itself():
    one, other = Monitor(int, int), Monitor(int, int)
    one.prompt_answered(5)
    assert samples(one)["glm_prompts_total", ()] == 1
    assert samples(other)["glm_prompts_total", ()] == 0
