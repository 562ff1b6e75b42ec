"""Tests import the scripts and the library from the project's root, as the scripts do: glm.runtime first."""

import glm.runtime  # noqa: F401

import os

import pytest
from hypothesis import settings

from tests.helpers import ROOT

os.environ["GLM_LANG"] = "en"  # whatever the locale here is
settings.register_profile("unhurried", deadline=None)  # a busy machine is no failure
settings.register_profile("faults", deadline=None, max_examples=400)
settings.load_profile("unhurried")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """What tests write names files that are not UTF-8; processes that run tests tell each other in UTF-8."""
    report = yield
    report.sections = [
        (title, text.encode("utf8", "backslashreplace").decode("utf8")) for title, text in report.sections
    ]
    return report


@pytest.fixture(scope="session")
def briefly_trained(tmp_path_factory):
    """Directory of a model that one epoch has taught to write questions, most of them wrong."""
    import finetune_generation

    directory = tmp_path_factory.mktemp("briefly_trained")
    flags = ["--num_train_epochs", "1", "--max_train_samples", "2048", "--evaluation_strategy", "no"]
    flags += ["--per_device_train_batch_size", "12", "--do_eval", "False"]
    flags += ["--disable_tqdm", "True", "--save_strategy", "no"]
    recipe = ROOT / "configs" / "tiny_cpu.json"
    finetune_generation.main([str(recipe), *flags, "--output_dir", str(directory)])
    return directory


@pytest.fixture(scope="session")
def served(briefly_trained):
    """A server of that model."""
    from tests.helpers.served import Served

    flags = ["--src_length", "128", "--tgt_length", "24", "--max_batch_size", "4", "--max_prompt_characters", "500"]
    flags += ["--max_prompts_per_request", "8", "--max_request_bytes", "20000"]
    with Served("--model_name_or_path", briefly_trained, *flags) as server:
        yield server
