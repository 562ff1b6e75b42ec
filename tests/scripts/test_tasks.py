"""finetune_generation.py --tasks: three rows of every record, and evaluation of each task by itself."""

import json

import pytest

import finetune_generation
from glm import metrics
from glm.data import allowed_texts
from glm.data.records import ReadReport
from glm.data.selections import Selection
from tests.helpers import ROOT
from tests.helpers.runs import read_lines

RECORDS = [
    {"context": "甲湖在乙山的东边。", "answer": "乙山", "question": "甲湖在哪座山的东边", "id": "one"},
    {"context": "甲湖在乙山的东边。", "answer": "甲湖", "id": "two"},
    {"context": "桥长九米。", "answers": [{"text": "九米"}], "question": "桥有多长"},
]
BRIEF = ["--model_name_or_path", "glm-tiny-chinese", "--task_name", "demo_qg", "--max_train_samples", "512"]
BRIEF += ["--max_eval_samples", "8", "--do_train", "--do_eval", "--num_train_epochs", "1", "--save_strategy", "no"]
BRIEF += ["--per_device_train_batch_size", "16", "--src_length", "128", "--tgt_length", "24", "--min_tgt_length", "0"]
BRIEF += ["--no_repeat_ngram_size", "0", "--num_beams", "1", "--learning_rate", "4e-3", "--evaluation_strategy", "no"]


def examples(path, tasks, **more):
    return list(Selection(path, "qg", tasks=tasks, **more).examples(ReadReport(str(path))))


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS), encoding="utf8")
    return path


def test_a_record_is_an_example_for_each_task_that_it_has_the_fields_of(data):
    found = examples(data, ("ask", "extract", "answer"))
    assert [(one.task, one.source, one.target) for one in found] == [
        ("ask", "答案：乙山，上下文：甲湖在乙山的东边。。在已知答案的前提下，问题：", "甲湖在哪座山的东边"),
        ("extract", "上下文：甲湖在乙山的东边。。答案：", "乙山"),
        ("answer", "问题：甲湖在哪座山的东边，上下文：甲湖在乙山的东边。。答案：", "乙山"),
        ("extract", "上下文：甲湖在乙山的东边。。答案：", "甲湖"),
        ("ask", "答案：九米，上下文：桥长九米。。在已知答案的前提下，问题：", "桥有多长"),
        ("extract", "上下文：桥长九米。。答案：", "九米"),
        ("answer", "问题：桥有多长，上下文：桥长九米。。答案：", "九米"),
    ]
    assert [one.record_id for one in found] == ["one", "one", "one", "two", None, None, None]
    assert [one.task for one in examples(data, ("extract",), max_samples=2)] == ["extract", "extract"]


def test_a_record_that_serves_no_task_is_told_with_what_it_would_need(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"context": "甲在乙。", "question": "甲在哪"}\n' * 2, encoding="utf8")
    with pytest.raises(Exception, match=r"data.jsonl:1: the record serves no task, which would need context, answer"):
        examples(path, ("ask", "extract"))


def test_asking_alone_is_what_it_was(tmp_path):
    """The same weights with --tasks ask and without it."""
    for name, flags in (("plain", []), ("ask", ["--tasks", "ask"])):
        few = ["--max_train_samples", "16", "--max_eval_samples", "1", "--output_dir", str(tmp_path / name)]
        finetune_generation.main([*BRIEF, *few, *flags])
    assert (tmp_path / "plain/model.safetensors").read_bytes() == (tmp_path / "ask/model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Output directory of a run of all tasks."""
    directory = tmp_path_factory.mktemp("tasks") / "out"
    finetune_generation.main([*BRIEF, "--tasks", "ask,extract,answer", "--output_dir", str(directory)])
    return directory


def test_each_task_is_evaluated_by_itself_by_the_scores_of_its_texts(run):
    results = json.loads((run / "all_results.json").read_text(encoding="utf8"))
    answers = read_lines(run / "predictions.jsonl")
    of_task = {task: [one for one in answers if one["task"] == task] for task in ("ask", "extract", "answer")}
    asked = metrics.score(*zip(*((one["prediction"], one["target"]) for one in of_task["ask"]), strict=True))
    assert results["bleu4"] == pytest.approx(asked["bleu4"])
    pairs = [(one["prediction"], one["target"]) for one in of_task["answer"]]
    answered = metrics.answer_scores(*zip(*pairs, strict=True))
    assert results["answer_f1"] == pytest.approx(answered["answer_f1"])
    assert results["answer_exact_match"] == pytest.approx(answered["answer_exact_match"])
    records = read_lines(ROOT / "demo" / "qg" / "dev.json")[:8]
    candidates = {one["source"]: one.get("predictions", [one["prediction"]]) for one in of_task["extract"]}
    found = [candidates[f"上下文：{record['context']}。答案："] for record in records]
    assert results["extract_recall"] == metrics.recall(found, [record["answer"] for record in records])
    losses = [results[f"eval_{task}_loss"] for task in of_task]
    assert min(losses) < results["eval_loss"] < max(losses)


def test_candidates_are_different_runs_of_the_context_between_words(run):
    for one in read_lines(run / "predictions.jsonl"):
        if one["task"] == "ask":
            continue
        context = one["source"].partition("上下文：")[2].removesuffix("。答案：")
        texts = one.get("predictions", [one["prediction"]])
        assert len(set(texts)) == len(texts)
        ends = set(allowed_texts.word_ends(metrics.normalize(context).replace(" ", "▁")))
        plain = metrics.normalize(context)
        for text in texts:
            places = [i for i in range(len(plain)) if plain.startswith(text, i)]
            assert any({place, place + len(text)} <= ends for place in places), (text, context)


def test_more_candidates_find_more(run, tmp_path):
    recalls = []
    for count in ("1", "6"):
        flags = ["--tasks", "extract", "--extract_candidates", count, "--task_name", "demo_qg", "--do_eval"]
        flags += ["--model_name_or_path", str(run), "--max_eval_samples", "40", "--src_length", "128"]
        flags += ["--tgt_length", "24", "--min_tgt_length", "0", "--output_dir", str(tmp_path / count)]
        finetune_generation.main(flags)
        recalls.append(json.loads((tmp_path / count / "all_results.json").read_text())["extract_recall"])
    assert recalls[0] < recalls[1]


def test_a_model_with_a_prompt_of_its_own_has_no_tasks(tmp_path, capfd):
    flags = [*BRIEF, "--tasks", "ask,answer", "--prompt", "问{answer}", "--output_dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        finetune_generation.main(flags)
    assert ended.value.code == 2
    assert "--tasks has prompts of its own, and not '问{answer}'; give --prompt builtin, too" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("tasks", "told"),
    [
        ("ask,extrct", "--tasks: no task 'extrct', did you mean 'extract'?"),
        ("ask,ask", "--tasks ask,ask: a task is there twice"),
    ],
)
def test_tasks_that_there_are_not_are_told(tasks, told, tmp_path, capfd):
    with pytest.raises(SystemExit) as ended:
        finetune_generation.main([*BRIEF, "--tasks", tasks, "--output_dir", str(tmp_path)])
    assert ended.value.code == 2
    assert told in capfd.readouterr().err
