"""generate_pairs.py from documents to files: what pairs are, batches, resuming, bad input."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

import generate_pairs
from glm.pairs import pipeline
from tests.helpers import ROOT
from tests.helpers.runs import read_lines

DEMO = ROOT / "demo" / "qg" / "dev.json"
FIELDS = ["id", "document", "start", "end", "passage_start", "passage", "answer", "question", "question_log_p"]
FIELDS += ["answer_log_p", "model_answer", "round_trip", "duplicate_of", "kept", "reason"]
BRIEF = ["--candidates", "3", "--answer_beams", "2", "--passage_length", "60", "--overlap", "12"]


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """A directory of a text file, a Markdown file and JSON Lines."""
    directory = tmp_path_factory.mktemp("documents")
    contexts = [record["context"] for record in read_lines(DEMO)[:48]]
    (directory / "a.txt").write_text("\n".join(contexts[:16]), encoding="utf8")
    (directory / "b.md").write_text("# 题目\n\n" + "\n\n".join(contexts[16:32]), encoding="utf8")
    lines = [json.dumps({"passage": context}, ensure_ascii=False) + "\n" for context in contexts[32:]]
    (directory / "c.jsonl").write_text("".join(lines), encoding="utf8")
    return directory


def made(model, documents, target, *flags):
    """(pairs kept, others) of a run."""
    rejected = target.with_suffix(".rejected")
    command = ["--model_name_or_path", str(model), "--data_file", str(documents), "--output_file", str(target)]
    generate_pairs.main([*command, "--rejected", str(rejected), *BRIEF, *flags])
    assert not target.with_name(f"{target.name}.partial").exists()
    return read_lines(target), read_lines(rejected)


@pytest.fixture(scope="module")
def whole(of_tasks, documents, tmp_path_factory):
    return made(of_tasks, documents, tmp_path_factory.mktemp("whole") / "pairs.jsonl", "--keep", "beam")


def text_of(documents, name):
    """The text of a document of the directory."""
    if name.startswith("c.jsonl:"):
        return read_lines(documents / "c.jsonl")[int(name.partition(":")[2]) - 1]["passage"]
    return (documents / name).read_text(encoding="utf8")


def test_every_answer_is_the_text_at_its_place_in_its_document(whole, documents):
    kept, rejected = whole
    assert len(kept) > 5
    assert len(rejected) > 20
    for pair in [*kept, *rejected]:
        assert list(pair) == FIELDS
        text = text_of(documents, pair["document"])
        assert text[pair["start"] : pair["end"]] == pair["answer"] != ""
        assert text[pair["passage_start"] :].startswith(pair["passage"])
        assert pair["passage_start"] <= pair["start"] < pair["end"] <= pair["passage_start"] + len(pair["passage"])
        assert pair["question_log_p"] <= 0
        assert pair["answer_log_p"] <= 0
    assert len({pair["id"] for pair in [*kept, *rejected]}) == len(kept) + len(rejected)


def test_kept_pairs_hold_and_the_others_say_why_they_do_not(whole):
    kept, rejected = whole
    assert all(pair["kept"] and pair["reason"] is None and pair["round_trip"]["beam"] for pair in kept)
    for pair in rejected:
        assert not pair["kept"]
        if pair["reason"] == "not_answered":
            assert not pair["round_trip"]["beam"]
        else:
            assert pair["reason"] == "duplicate"
            assert pair["duplicate_of"] in {one["id"] for one in [*kept, *rejected]}
    questions = [pair["question"] for pair in kept]
    assert len(set(questions)) == len(questions)


def test_levels_keep_less_the_more_they_ask_for(of_tasks, documents, whole, tmp_path):
    held = {}
    for level in ("all", "f1=0.5", "exact"):
        kept, rejected = made(of_tasks, documents, tmp_path / "pairs.jsonl", "--keep", level)
        held[level] = {pair["id"] for pair in [*kept, *rejected] if pair["reason"] != "not_answered"}
    beam = {pair["id"] for part in whole for pair in part if pair["reason"] != "not_answered"}
    assert held["exact"] < beam < held["all"]
    assert held["exact"] <= held["f1=0.5"] < held["all"]


def test_a_passage_has_as_many_pairs_as_asked_for_at_most(of_tasks, documents, tmp_path):
    kept, rejected = made(of_tasks, documents, tmp_path / "pairs.jsonl", "--keep", "all", "--questions", "1")
    places = [(pair["document"], pair["passage_start"]) for pair in kept]
    assert len(set(places)) == len(places)
    assert {pair["reason"] for pair in rejected} == {"not_chosen", "duplicate"}


def test_the_batch_size_and_the_window_change_nothing(of_tasks, documents, whole, tmp_path, monkeypatch):
    for size in ("1", "5"):
        assert made(of_tasks, documents, tmp_path / size, "--keep", "beam", "--batch_size", size) == whole
    monkeypatch.setattr(pipeline, "WINDOW", 7)
    assert made(of_tasks, documents, tmp_path / "window", "--keep", "beam") == whole


def test_a_run_that_is_killed_goes_on_to_the_same_pairs(of_tasks, documents, whole, tmp_path):
    target = tmp_path / "pairs.jsonl"
    code = "import generate_pairs, glm.pairs.pipeline as p, sys; p.WINDOW = 4; generate_pairs.main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "--model_name_or_path", str(of_tasks), "--data_file", str(documents)]
    command += ["--output_file", str(target), "--rejected", str(tmp_path / "rejected"), "--keep", "beam", *BRIEF]
    kept, rng = tmp_path / "pairs.jsonl.partial", random.Random(1)
    for lines in (2, 20):
        process = subprocess.Popen([*command, "--resume"], cwd=ROOT, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (kept.exists() and kept.read_bytes().count(b"\n") > lines):
            time.sleep(0.01)
        time.sleep(rng.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert kept.exists()
        # What was being written when it was killed.
        with open(kept, "ab") as file:
            file.write(b'{"pair": {"id"')
    assert subprocess.run([*command, "--resume"], cwd=ROOT, capture_output=True).returncode == 0
    assert (read_lines(target), read_lines(tmp_path / "rejected")) == whole
    assert not kept.exists()


def test_an_interrupted_run_says_what_is_kept_and_other_documents_are_not_gone_on_with(
    of_tasks, documents, tmp_path, monkeypatch, capfd
):
    def interrupted(self, pairs, passages):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("glm.pairs.progress.Kept.add", interrupted)
        with pytest.raises(SystemExit) as ended:
            made(of_tasks, documents, tmp_path / "pairs.jsonl")
    assert ended.value.code == 130
    assert "pairs.jsonl.partial; the same command with --resume goes on" in capfd.readouterr().err
    with pytest.raises(SystemExit) as ended:
        made(of_tasks, documents / "a.txt", tmp_path / "pairs.jsonl", "--resume")
    assert ended.value.code == 2
    assert "its pairs are of other documents, another model or other flags" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no passages to make pairs of: "),
        (b" \n", "there is nothing in it"),
        (b"\x00\x01", "is no text (or UTF-16)"),
        ("甲".encode("gbk"), "byte 1 is not UTF-8"),
    ],
)
def test_a_document_that_is_none_is_told_in_one_line(of_tasks, content, told, tmp_path, capfd):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        made(of_tasks, tmp_path / "a.txt", tmp_path / "pairs.jsonl")
    assert ended.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert told in line
    assert not (tmp_path / "pairs.jsonl").exists()


def test_odd_passages_make_pairs_or_none_and_never_an_empty_answer(of_tasks, tmp_path):
    lines = ["甲", "。！？", "𠮷𠮷", "甲" * 5000, "a b c", "1.5", "云栖湖位于青岚山脚下。"]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"passage": text}) + "\n" for text in lines), encoding="utf8")
    kept, rejected = made(of_tasks, path, tmp_path / "pairs.jsonl", "--keep", "all")
    assert all(pair["answer"].strip("。！？ ") for pair in [*kept, *rejected])
    assert {pair["document"] for pair in kept} >= {"a.jsonl:7"}


def test_prompts_that_do_not_fit_the_model_are_refused_before_anything(of_tasks, documents, tmp_path, capfd):
    with pytest.raises(SystemExit) as ended:
        made(of_tasks, documents, tmp_path / "pairs.jsonl", "--passage_length", "5000")
    assert ended.value.code == 2
    assert "positions" in capfd.readouterr().err
    assert os.listdir(tmp_path) == []
