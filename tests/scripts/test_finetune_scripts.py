"""LoRA and instruction tuning from end to end on the built-in model."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

import export_generation_model
import finetune_generation
import finetune_instruction_generation
import infer_generation
import predict_generation
from glm.weights import builtin_model
from tests.helpers import ROOT
from tests.helpers.runs import DEV, SMALL, TRAINING, read_lines, weights_of

LORA = ["--lora", "True", "--r", "4", "--lora_target_modules", "all", "--lora_dropout", "0.1"]
BASE = ["--model_name_or_path", "glm-tiny-chinese"]
PROBLEMS = ROOT / "demo" / "instruction" / "dev.json"
ADAPTER_FILES = ("lora_model_state.safetensors", "lora_config.json", "base_fingerprint.json")


def ended(main, *flags):
    """Exit code of a script that stops."""
    with pytest.raises(SystemExit) as error:
        main([str(flag) for flag in flags])
    return error.value.code


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """Output directory of a short LoRA run."""
    directory = tmp_path_factory.mktemp("lora")
    finetune_generation.main(
        [*SMALL, *TRAINING, *LORA, "--do_eval", "--eval_steps", "8", "--output_dir", str(directory)]
    )
    return directory


def test_a_run_leaves_the_adapter_and_every_output_but_no_model(adapter):
    for directory in (adapter, adapter / "checkpoint-4"):
        assert all((directory / name).is_file() for name in ADAPTER_FILES)
        assert not list(directory.glob("model*"))
    results = json.loads((adapter / "all_results.json").read_text(encoding="utf8"))
    assert {"train_loss", "eval_loss", "bleu4"} <= results.keys()
    assert len(read_lines(adapter / "predictions.jsonl")) == 6
    assert json.loads((adapter / "args.json").read_text(encoding="utf8"))["r"] == 4
    losses = [entry["loss"] for entry in read_lines(adapter / "metrics.jsonl") if "loss" in entry]
    assert losses[-1] < losses[0]


def test_a_resumed_adapter_ends_with_the_same_factors(adapter, tmp_path):
    shutil.copytree(adapter / "checkpoint-4", tmp_path / "checkpoint-4")
    finetune_generation.main([*SMALL, *TRAINING, *LORA, "--output_dir", str(tmp_path)])
    expected, resumed = weights_of(adapter), weights_of(tmp_path)
    assert expected.keys() == resumed.keys()
    assert all(np.array_equal(expected[name], resumed[name]) for name in expected)
    assert any(
        not np.array_equal(expected[name], array) for name, array in weights_of(adapter / "checkpoint-4").items()
    )


def test_going_on_from_an_adapter_begins_where_it_ended(adapter, tmp_path, capsys):
    """Its loss before any step is that of the adapter, and its shape need not be said again."""
    flags = [*SMALL, "--do_eval", "--prediction_loss_only", "True", "--disable_tqdm", "True"]
    finetune_generation.main([*flags, "--lora_path", str(adapter), "--output_dir", str(tmp_path)])
    results, first = (json.loads((d / "all_results.json").read_text()) for d in (tmp_path, adapter))
    assert results["eval_loss"] == pytest.approx(first["eval_loss"], rel=1e-6)
    going_on = [*SMALL, *TRAINING, "--lora_path", adapter, "--output_dir", tmp_path / "more"]
    assert ended(finetune_generation.main, *going_on, "--r", "16") == 2
    assert "r of this adapter is 4, not 16" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_adapter_and_merged_model_predict_and_are_exported_alike(adapter, tmp_path, dtype):
    prompts = ["--data_file", str(DEV), "--tgt_length", "8"]
    merging = ["--lora_path", str(adapter), "--merge_lora_path", str(tmp_path / "merged")]
    predict_generation.main([*BASE, *merging])
    sides = {
        "adapter": [*BASE, "--lora_path", str(adapter)],
        "merged": ["--model_name_or_path", str(tmp_path / "merged")],
    }
    for name, model in sides.items():
        predict_generation.main([*model, *prompts, "--output_file", str(tmp_path / f"{name}.jsonl")])
        program = ["--output_path", str(tmp_path / name / "glm"), "--tgt_length", "8", "--dtype", dtype]
        export_generation_model.main([*model, *program])
        program = ["--model_path", str(tmp_path / name), "--model_prefix", "glm", "--runtime", "paddle"]
        infer_generation.main([*program, *prompts, "--output_file", str(tmp_path / f"{name}_cpp.jsonl")])
    for file in ("{}.jsonl", "{}_cpp.jsonl", "{}/glm.pdiparams"):
        one, other = ((tmp_path / file.format(name)).read_bytes() for name in sides)
        assert one == other, file
    predict_generation.main([*BASE, *prompts, "--output_file", str(tmp_path / "base.jsonl")])
    assert read_lines(tmp_path / "base.jsonl") != read_lines(tmp_path / "adapter.jsonl")


def test_an_adapter_written_for_peft_predicts_is_exported_and_goes_on_alike(adapter, tmp_path, capsys):
    predict_generation.main([*BASE, "--lora_path", str(adapter), "--export_peft", str(tmp_path / "peft")])
    prompts = ["--data_file", str(DEV), "--tgt_length", "8"]
    evaluation = [*SMALL, "--do_eval", "--disable_tqdm", "True"]
    for name, path in (("own", adapter), ("peft", tmp_path / "peft")):
        model = [*BASE, "--lora_path", str(path)]
        predict_generation.main([*model, *prompts, "--output_file", str(tmp_path / f"{name}.jsonl")])
        export_generation_model.main([*model, "--output_path", str(tmp_path / name / "glm"), "--tgt_length", "8"])
        finetune_generation.main([*evaluation, "--lora_path", str(path), "--output_dir", str(tmp_path / f"{name}_run")])
    for file in ("{}.jsonl", "{}/glm.pdiparams", "{}_run/predictions.jsonl"):
        one, other = ((tmp_path / file.format(name)).read_bytes() for name in ("own", "peft"))
        assert one == other, file
    assert "an adapter of PEFT" in capsys.readouterr().err
    # What is trained from it is this project's own again, and knows its base.
    going_on = [*SMALL, *TRAINING, "--lora_path", str(tmp_path / "peft"), "--output_dir", str(tmp_path / "more")]
    finetune_generation.main(going_on)
    assert all((tmp_path / "more" / name).is_file() for name in ADAPTER_FILES)
    assert weights_of(tmp_path / "more").keys() == weights_of(adapter).keys()


def test_writing_for_peft_needs_an_adapter_and_a_new_directory_and_nothing_else(adapter, tmp_path, capsys):
    assert ended(predict_generation.main, *BASE, "--export_peft", tmp_path / "new") == 2
    assert "--lora_path" in capsys.readouterr().err
    (tmp_path / "mine").write_text("mine")
    assert ended(predict_generation.main, *BASE, "--lora_path", adapter, "--export_peft", tmp_path) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    both = ["--export_peft", tmp_path / "one", "--merge_lora_path", tmp_path / "other"]
    assert ended(predict_generation.main, *BASE, "--lora_path", adapter, *both) == 2
    assert "one at a time" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_merging_needs_an_adapter_and_a_new_directory(adapter, tmp_path, capsys):
    assert ended(predict_generation.main, *BASE, "--merge_lora_path", tmp_path / "new") == 2
    assert "--lora_path" in capsys.readouterr().err
    (tmp_path / "mine").write_text("mine")
    assert ended(predict_generation.main, *BASE, "--lora_path", adapter, "--merge_lora_path", tmp_path) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    "flag", [["--r", "8"], ["--lora_dropout", "0.1"], ["--rslora", "True"], ["--lora_plus_scale", "4"]]
)
def test_what_shapes_an_adapter_needs_lora(flag, tmp_path, capsys):
    assert ended(finetune_generation.main, *SMALL, *TRAINING, *flag, "--output_dir", tmp_path) == 2
    told = capsys.readouterr().err
    assert f"error: {flag[0]} " in told
    assert "has no effect without --lora True; give that too" in told


def test_an_adapter_on_another_base_stops_every_script(adapter, tmp_path, capsys):
    other = shutil.copytree(builtin_model.build(), tmp_path / "other")
    weights = load_file(str(other / "model.safetensors"))
    weights["glm.transformer.final_layernorm.bias"] += 1
    from safetensors.numpy import save_file

    save_file(weights, str(other / "model.safetensors"))
    flags = ["--model_name_or_path", other, "--lora_path", adapter]
    target = ["--output_path", tmp_path / "infer" / "glm"]
    for main, more in (
        (predict_generation.main, []),
        (export_generation_model.main, target),
        (finetune_generation.main, [*SMALL, *TRAINING, "--output_dir", tmp_path / "out"]),
    ):
        assert ended(main, *more, *flags) == 2
        assert f"{adapter}: this adapter was not trained on {other}" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "infer").exists()


INSTRUCTIONS = [*BASE, "--src_length", "128", "--tgt_length", "48"]


def test_instruction_tuning_from_one_file_splits_it_and_scores_numbers(tmp_path):
    lines = PROBLEMS.read_text(encoding="utf8").splitlines(keepends=True)[:40]
    (tmp_path / "mine.json").write_text("".join(lines), encoding="utf8")
    flags = [*INSTRUCTIONS, "--task_name", str(tmp_path / "mine.json"), *TRAINING, "--do_eval", "--dev_ratio", "0.2"]
    flags += ["--max_eval_samples", "5"]
    finetune_instruction_generation.main([*flags, "--output_dir", str(tmp_path / "out")])
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert {"eval_loss", "eval_perplexity", "bleu4", "rougel", "exact_match", "number_match"} <= results.keys()
    evaluated = read_lines(tmp_path / "out" / "predictions.jsonl")
    records = {record["output"]: record for record in map(json.loads, lines)}
    assert len(evaluated) == 5
    for line in evaluated:
        record = records[line["target"]]
        assert line["source"] == f"Human:{record['instruction']}{record['input']}\nAssistant:"
    # The trained model answers records of the same layout.
    model = [
        "--model_name_or_path",
        str(tmp_path / "out"),
        "--tgt_length",
        "8",
        "--data_file",
        str(tmp_path / "mine.json"),
    ]
    predict_generation.main([*model, "--output_file", str(tmp_path / "predicted.jsonl")])
    assert [line["output"] for line in read_lines(tmp_path / "predicted.jsonl")] == list(records)


def test_talks_and_arrays_train_with_their_history(tmp_path, capsys):
    talk = "Human:小明有几个苹果？\nAssistant:小明有三个苹果。\nHuman:小红呢？\nAssistant:"
    records = [{"instruction": talk, "input": "", "output": f"小红有{i}个苹果。"} for i in range(12)]
    (tmp_path / "talks.json").write_text(json.dumps(records), encoding="utf8")
    flags = [*INSTRUCTIONS, "--task_name", str(tmp_path / "talks.json"), *TRAINING, *LORA, "--train_on_history", "True"]
    finetune_instruction_generation.main([*flags, "--output_dir", str(tmp_path / "out")])
    assert "12 records read" in capsys.readouterr().out
    args = json.loads((tmp_path / "out" / "args.json").read_text())
    assert args["train_on_history"] is True
    assert "source_count 24" in run_log(flags, tmp_path / "dry", capsys)
    assert "source_count 12" in run_log(flags[:-1] + ["False"], tmp_path / "dry", capsys)


def run_log(flags, directory, capsys):
    """What a dry run says."""
    capsys.readouterr()
    finetune_instruction_generation.main([*flags, "--dry_run", "--output_dir", str(directory)])
    return capsys.readouterr().out


def test_the_best_model_by_number_match_needs_numbers(tmp_path, capsys):
    records = [{"instruction": "说一句话", "output": "你好"}] * 8
    (tmp_path / "data.json").write_text(json.dumps(records), encoding="utf8")
    flags = [*INSTRUCTIONS, "--task_name", tmp_path / "data.json", *TRAINING, "--do_eval", "--max_eval_samples", "5"]
    best = ["--metric_for_best_model", "number_match", "--output_dir", tmp_path / "out"]
    assert ended(finetune_instruction_generation.main, *flags, *best) == 2
    assert "number_match needs instructions whose answers have numbers" in capsys.readouterr().err


def test_a_run_can_be_run_again_from_what_its_checkpoint_holds(tmp_path):
    """Flags of every kind included: the same weights, bit for bit."""
    flags = [*SMALL, *TRAINING, "--max_steps", "4", "--report_to", "none", "--lora", "True", "--lora_target_modules"]
    finetune_generation.main([*flags, "query_key_value", "dense", "--output_dir", str(tmp_path / "one")])
    config = tmp_path / "one" / "checkpoint-4" / "args.json"
    finetune_generation.main([str(config), "--output_dir", str(tmp_path / "two")])
    one, two = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert json.loads(config.read_text(encoding="utf8"))["num_beams"] == 5
