"""paddlenlp's training arguments with this project's, through the project's own parser."""

import dataclasses

import pytest

from glm.command_line import parse


@pytest.fixture
def training(tmp_path):
    """A function from flags to GLMTrainingArguments."""
    from glm.training.arguments import GLMTrainingArguments

    def parsed(*argv):
        return parse((GLMTrainingArguments,), ["--output_dir", str(tmp_path / "out"), "--do_train", *argv])[0]

    return parsed


def test_every_field_is_a_flag_that_takes_its_own_default(training):
    arguments = training()
    fields = [field for field in dataclasses.fields(arguments) if field.init]
    assert len(fields) > 80
    for field in fields:
        if isinstance(field.default, (bool, int, float)) and field.name != "do_train":
            assert getattr(training(f"--{field.name}={field.default}"), field.name) == getattr(arguments, field.name)


def test_help_lists_every_field_that_something_acts_on_under_what_it_is_for(capsys):
    from glm.training.arguments import GLMTrainingArguments

    with pytest.raises(SystemExit) as ended:
        parse((GLMTrainingArguments,), ["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    fields = {field.name for field in dataclasses.fields(GLMTrainingArguments) if field.init}
    grouped = " ".join(GLMTrainingArguments.GROUPS.values()).split()
    assert len(grouped) == len(set(grouped))
    assert set(grouped) <= fields
    assert {name for name in fields if f"  --{name} " in shown} == set(grouped)
    assert all(f"\n{title}:\n" in shown for title in GLMTrainingArguments.GROUPS)


@pytest.mark.parametrize("flag", ["unified_checkpoint", "to_static", "past_index=3", "max_evaluate_steps=2"])
def test_a_flag_that_nothing_acts_on_is_refused(training, capsys, flag):
    with pytest.raises(SystemExit) as ended:
        training(f"--{flag}")
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: --{flag.split('=')[0]}: nothing here acts on it; leave it out\n"


def test_eval_steps_turns_evaluation_on(training):
    assert training().evaluation_strategy.value == "no"
    assert not training().do_eval
    arguments = training("--eval_steps", "5")
    assert arguments.do_eval
    assert (arguments.evaluation_strategy.value, arguments.eval_steps) == ("steps", 5)
    assert training("--do_eval").evaluation_strategy.value == "steps"
    assert training("--evaluation_strategy", "epoch").do_eval


def test_evaluation_at_the_end_alone_can_be_asked_for(training):
    arguments = training("--do_eval", "--evaluation_strategy", "no")
    assert (arguments.do_eval, arguments.evaluation_strategy.value) == (True, "no")


def test_the_device_is_what_there_is_and_another_is_refused(training, monkeypatch, capsys):
    from glm.training import arguments

    monkeypatch.setattr(arguments.device, "is_built_for_gpus", lambda: False)
    assert training().device == training("--device", "cpu").device == "cpu"
    for flags, told in ((["gpu"], "built for CPU"), (["tpu"], "must be one of cpu, gpu")):
        with pytest.raises(SystemExit):
            training("--device", *flags)
        assert told in capsys.readouterr().err


def test_half_precision_on_cpu_is_turned_off_with_one_warning(training, monkeypatch):
    from glm.training import arguments

    warnings = []
    monkeypatch.setattr(arguments.device, "is_built_for_gpus", lambda: False)
    monkeypatch.setattr(arguments.logger, "warning", warnings.append)
    arguments = training("--fp16", "--fp16_opt_level", "O2")
    assert (arguments.fp16, arguments.fp16_opt_level) == (False, "O1")
    assert [text for text in warnings if "float32" in text] == [
        "--fp16 needs a GPU; on CPU everything is computed in float32"
    ]


def test_report_to_none_reports_to_nobody(training):
    assert training("--report_to", "none").report_to == []


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--label_smoothing", "1"], "--label_smoothing is 1.0; it must be at least 0 and below 1"),
        (["--label_smoothing", "-0.1"], "--label_smoothing is -0.1"),
        (["--lr_decay_ratio", "2"], "--lr_decay_ratio is 2.0"),
        (["--evaluation_strategy", "often"], "--evaluation_strategy is 'often'; it must be one of no, steps, epoch"),
        (["--output_dir", __file__], "is a file; give a directory"),
        (["--sharding", "stage1"], "--sharding needs GPUs"),
        (
            ["--tensor_parallel_degree", "2"],
            "needs 2 processes, or a multiple, and there are 1",
        ),
        (["--do_export"], "export_generation_model.py"),
        (["--no_cuda"], "--device cpu"),
        (["--fp16", "--bf16"], "give one of them"),
        (["--report_to", "tensorboard"], "-m pip install tensorboardX"),
        (["--lr_scheduler_type", "polynomial", "--learning_rate", "1e-8"], "--lr_end 1e-07 must be below"),
        (["--do_eval", "--load_best_model_at_end", "--save_strategy", "no"], "give --save_strategy steps"),
        (["--do_eval", "--load_best_model_at_end", "--eval_steps", "3"], "a multiple of --eval_steps 3"),
        (
            ["--do_eval", "--metric_for_best_model", "blue4"],
            "--metric_for_best_model is blue4; it must be one of loss, perplexity",
        ),
    ],
)
def test_bad_values_are_told_in_one_line(training, flags, expected, capsys):
    with pytest.raises(SystemExit) as ended:
        training(*flags)
    told = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert expected in told[-1]
    assert told[-1].startswith("error: ")
