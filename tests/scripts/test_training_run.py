"""A training run from end to end on the built-in model: what it leaves, and how its evaluation decodes."""

import json
import shutil

import numpy as np
import pytest

import finetune_generation
from glm import metrics
from tests.helpers.runs import DEV, SMALL, TRAINING, read_lines, weights_of


def test_a_run_leaves_every_output(trained):
    results = json.loads((trained / "all_results.json").read_text(encoding="utf8"))
    scores = {"eval_loss", "eval_perplexity", *metrics.SCORES, "train_loss", "train_tokens_per_second"}
    assert scores <= results.keys()
    assert np.isclose(results["eval_perplexity"], np.exp(results["eval_loss"]))
    assert json.loads((trained / "args.json").read_text(encoding="utf8"))["num_beams"] == 3
    assert (trained / "loss.png").read_bytes().startswith(b"\x89PNG")
    for name in ("model.safetensors", "config.json", "cog-pretrain.model", "added_tokens.json", "checkpoint-8"):
        assert (trained / name).exists(), name

    logged = [entry for entry in read_lines(trained / "metrics.jsonl") if "loss" in entry]
    assert [entry["step"] for entry in logged] == list(range(1, 9))
    assert all({"learning_rate", "tokens_per_second", "grad_norm", "memory_gib"} <= entry.keys() for entry in logged)
    evaluated = [entry["step"] for entry in read_lines(trained / "metrics.jsonl") if "eval_bleu4" in entry]
    assert evaluated == [4, 8], "every eval_steps; the last one is the end's"

    predictions = read_lines(trained / "predictions.jsonl")
    records = read_lines(DEV)[:6]
    assert [line["target"] for line in predictions] == [record["question"] for record in records]
    assert [line["id"] for line in predictions] == [record["id"] for record in records]
    assert {tuple(line) for line in predictions} == {("id", "source", "target", "prediction")}
    again = metrics.score([line["prediction"] for line in predictions], [line["target"] for line in predictions])
    assert {name: results[name] for name in again} == pytest.approx(again)


def test_a_resumed_run_ends_with_the_same_weights(trained, tmp_path):
    shutil.copytree(trained / "checkpoint-4", tmp_path / "checkpoint-4")
    finetune_generation.main([*SMALL, *TRAINING, "--output_dir", str(tmp_path)])
    expected, resumed = weights_of(trained), weights_of(tmp_path)
    assert all(np.array_equal(expected[name], resumed[name]) for name in expected)
    assert not np.array_equal(
        expected["glm.word_embeddings.weight"], weights_of(trained / "checkpoint-4")["glm.word_embeddings.weight"]
    )


@pytest.mark.parametrize(
    ("flags", "holds"),
    [
        (["--min_tgt_length", "6", "--num_beams", "1"], lambda ids: len(ids) >= 6),
        (["--no_repeat_ngram_size", "1", "--num_beams", "2"], lambda ids: len(set(ids)) == len(ids)),
    ],
)
def test_evaluation_decodes_as_the_flags_say(flags, holds, tmp_path):
    from glm.weights import model_directory

    defaults = ["--min_tgt_length", "0", "--no_repeat_ngram_size", "0"]
    finetune_generation.main([*SMALL, *defaults, *flags, "--do_eval", "--output_dir", str(tmp_path)])
    tokenizer = model_directory.load_tokenizer("glm-tiny-chinese")
    texts = [line["prediction"] for line in read_lines(tmp_path / "predictions.jsonl")]
    assert all(holds(tokenizer.encode(text)) or "\u2047" in text for text in texts)


def test_drawing_in_evaluation_depends_on_the_seed(tmp_path):
    texts = []
    for seed in ("1", "1", "2"):
        flags = ["--select_topk", "False", "--top_k", "50", "--num_beams", "1", "--seed", seed, "--min_tgt_length", "5"]
        finetune_generation.main([*SMALL, *flags, "--do_eval", "--output_dir", str(tmp_path)])
        texts.append([line["prediction"] for line in read_lines(tmp_path / "predictions.jsonl")])
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_half_precision_on_cpu_and_an_overlong_minimum_are_told_once(tmp_path, capsys):
    flags = ["--fp16", "--fp16_opt_level", "O2", "--min_tgt_length", "11", "--num_beams", "1"]
    finetune_generation.main([*SMALL, *flags, "--do_eval", "--output_dir", str(tmp_path)])
    output = capsys.readouterr().out
    assert output.count("everything is computed in float32") == 1
    assert output.count("min_tgt_length is 11, but 6 of 6 targets are shorter") == 1


def test_only_so_many_checkpoints_are_kept_and_the_best_among_them(tmp_path):
    flags = ["--save_steps", "2", "--eval_steps", "2", "--save_total_limit", "2", "--load_best_model_at_end"]
    # The highest loss counts as the best: an early one.
    flags += ["--do_eval", "--prediction_loss_only", "--metric_for_best_model", "loss", "--greater_is_better", "True"]
    finetune_generation.main([*SMALL, *TRAINING, *flags, "--output_dir", str(tmp_path)])
    state = json.loads((tmp_path / "trainer_state.json").read_text(encoding="utf8"))
    losses = {entry["step"]: entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry}
    best = max(losses, key=losses.get)
    assert best < 6
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {f"checkpoint-{best}", "checkpoint-8"}
    ours, saved = weights_of(tmp_path), weights_of(tmp_path / f"checkpoint-{best}")
    assert all(np.array_equal(ours[name], saved[name]) for name in ours)
    assert not (tmp_path / "predictions.jsonl").exists()


def test_results_are_not_overwritten_unasked(trained, tmp_path, capfd):
    finished = tmp_path / "finished"
    shutil.copytree(trained, finished, ignore=shutil.ignore_patterns("checkpoint-*"))
    before = (finished / "model.safetensors").read_bytes()
    with pytest.raises(SystemExit) as stopped:
        finetune_generation.main([*SMALL, *TRAINING, "--output_dir", str(finished)])
    assert stopped.value.code == 2
    assert "--overwrite_output_dir" in capfd.readouterr().err
    assert (finished / "model.safetensors").read_bytes() == before


def test_starting_anew_removes_what_a_run_has_written_and_nothing_else(trained, tmp_path):
    shutil.copytree(trained / "checkpoint-4", tmp_path / "checkpoint-4")
    shutil.copytree(trained / "checkpoint-4", tmp_path / "checkpoint-6")
    (tmp_path / "checkpoint-6" / "manifest.json").unlink()
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(trained / "checkpoint-4", elsewhere)
    own = ("checkpoint-best-of-last-year", "checkpoint-4-copy", "checkpoint-77", "my-checkpoint-4", "checkpoint-")
    for name in own:
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("mine", encoding="utf8")
    (tmp_path / "checkpoint-notes.txt").write_text("mine", encoding="utf8")
    (tmp_path / "checkpoint-5").write_text("mine", encoding="utf8")
    (tmp_path / "checkpoint-9").symlink_to(elsewhere)
    (tmp_path / "checkpoint-10").symlink_to(tmp_path / "nowhere")
    finetune_generation.main(
        [*SMALL, *TRAINING, "--max_steps", "1", "--overwrite_output_dir", "--output_dir", str(tmp_path)]
    )
    assert not (tmp_path / "checkpoint-4").exists()
    assert not (tmp_path / "checkpoint-6").exists()
    assert all((tmp_path / name / "notes.txt").read_text(encoding="utf8") == "mine" for name in own)
    assert (tmp_path / "checkpoint-notes.txt").read_text(encoding="utf8") == "mine"
    assert (tmp_path / "checkpoint-5").read_text(encoding="utf8") == "mine"
    assert (tmp_path / "checkpoint-9").is_symlink()
    assert (tmp_path / "checkpoint-10").is_symlink()
    assert (elsewhere / "model.safetensors").is_file()


def test_evaluation_alone_makes_its_directory(trained, tmp_path):
    flags = [*SMALL, "--model_name_or_path", str(trained), "--do_eval", "--num_beams", "1"]
    finetune_generation.main([*flags, "--output_dir", str(tmp_path / "new" / "results")])
    assert {"all_results.json", "predictions.jsonl", "args.json"} <= {
        path.name for path in (tmp_path / "new" / "results").iterdir()
    }
