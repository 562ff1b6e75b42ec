"""What moves between the stacks: either makes the same bytes, as recorded on the reference stack."""

import json

from tests.helpers import both_stacks

RECORDED = json.loads(both_stacks.RECORD.read_text(encoding="utf8"))


def test_eager_decoding_gives_the_same_ids_on_both_stacks():
    """Greedy search, beams, sampling, beams of samples."""
    found = both_stacks.texts()
    assert set(found) == set(RECORDED["texts"])
    assert [name for name, ids in found.items() if ids != RECORDED["texts"][name]] == []


def test_models_shards_adapters_and_token_ids_are_the_same_files_on_both_stacks(tmp_path):
    found = both_stacks.files(tmp_path)
    assert len(found) >= 7
    assert found == RECORDED["files"]
