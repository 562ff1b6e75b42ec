"""A model that has learned a little of all three tasks."""

import pytest


@pytest.fixture(scope="session")
def of_tasks(tmp_path_factory):
    """Its directory."""
    import finetune_generation
    from tests.helpers import ROOT

    directory = tmp_path_factory.mktemp("of_tasks")
    flags = ["--num_train_epochs", "1", "--max_train_samples", "1024", "--do_eval", "False", "--save_strategy", "no"]
    flags += ["--per_device_train_batch_size", "16", "--disable_tqdm", "True", "--output_dir", str(directory)]
    finetune_generation.main([str(ROOT / "configs" / "tiny_pairs_cpu.json"), *flags])
    return directory
