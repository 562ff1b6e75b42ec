"""A model that a short run has trained."""

import pytest

import finetune_generation
from tests.helpers.runs import SMALL, TRAINING


@pytest.fixture(scope="package")
def trained(tmp_path_factory):
    """Output directory of a short run with beams, n-gram bans and a length penalty in its evaluation."""
    directory = tmp_path_factory.mktemp("run")
    search = ["--num_beams", "3", "--no_repeat_ngram_size", "2", "--min_tgt_length", "4", "--length_penalty", "0.5"]
    finetune_generation.main(
        [*SMALL, *TRAINING, *search, "--do_eval", "--eval_steps", "4", "--output_dir", str(directory)]
    )
    return directory
