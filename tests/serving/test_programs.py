"""Whatever decodes behind a server, and however prompts come together: the texts are those of prediction."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

import export_generation_model
import predict_generation
from tests.helpers import ROOT
from tests.helpers.served import Served

DEV = ROOT / "demo" / "qg" / "dev.json"
PAIRS = [json.loads(line) for line in DEV.read_text(encoding="utf8").splitlines()[:8]]
PROMPTS = [{"context": pair["context"], "answer": pair["answer"]} for pair in PAIRS]
LIMITS = ["--src_length", "128", "--tgt_length", "24"]
DRAWN = ["--select_topk", "False"]
# Options of requests, and the flags that ask prediction for the same.
KINDS = [
    ({}, []),
    ({"tgt_length": 5}, ["--tgt_length", "5"]),
    ({"min_tgt_length": 20}, ["--min_tgt_length", "20"]),
    ({"num_beams": 3, "length_penalty": 0.5}, ["--num_beams", "3", "--length_penalty", "0.5"]),
    ({"select_topk": False, "temperature": 1.5, "seed": 3}, [*DRAWN, "--temperature", "1.5", "--seed", "3"]),
    ({"select_topk": False, "top_k": 5, "top_p": 0.9}, [*DRAWN, "--top_k", "5", "--top_p", "0.9"]),
    ({"repetition_penalty": 1.3}, ["--repetition_penalty", "1.3"]),
    ({"stop": ["什", "哪"]}, ["--stop", "什", "哪"]),
    (
        {"num_beams": 2, "frequency_penalty": 1.0, "stop": "在"},
        ["--num_beams", "2", "--frequency_penalty", "1.0", "--stop", "在"],
    ),
]


@pytest.fixture(scope="module")
def predicted(briefly_trained, tmp_path_factory):
    """Of each kind the texts of predict_generation.py."""
    root, found = tmp_path_factory.mktemp("predicted"), []
    (root / "data.json").write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    for number, (_, flags) in enumerate(KINDS):
        path = root / f"{number}.jsonl"
        model = ["--model_name_or_path", str(briefly_trained), *LIMITS, *flags]
        predict_generation.main([*model, "--data_file", str(root / "data.json"), "--output_file", str(path)])
        found.append([json.loads(line)["prediction"] for line in path.read_text(encoding="utf8").splitlines()])
    return found


def all_at_once(server):
    """Texts of all prompts in all kinds, asked at once, those of a kind in one request and each by itself: [kind]."""

    def ask(kind, prompts):
        answer = server.ask(prompts=prompts, **KINDS[kind][0])
        assert answer.status_code == 200, answer.text
        return [one["prediction"] for one in answer.json()["answers"]]

    # What is drawn depends on a prompt's place in its request.
    alone = [kind for kind, (options, _) in enumerate(KINDS) if "select_topk" not in options]
    asked = [(kind, [prompt]) for prompt in PROMPTS for kind in alone]
    asked += [(kind, PROMPTS) for kind in range(len(KINDS))]
    with ThreadPoolExecutor(len(asked)) as pool:
        found = list(pool.map(lambda one: ask(*one), asked))
    whole = found[len(found) - len(KINDS) :]
    for number in range(len(PROMPTS)):
        for place, kind in enumerate(alone):
            assert found[number * len(alone) + place] == [whole[kind][number]]
    return whole


@pytest.mark.parametrize(
    "flags", [["--batching", "continuous"], ["--batching", "closed"], ["--engine", "python"]], ids=" ".join
)
def test_however_prompts_come_together_texts_are_the_same(flags, briefly_trained, predicted):
    with Served("--model_name_or_path", briefly_trained, *LIMITS, *flags) as server:
        assert all_at_once(server) == predicted
    assert len({text for texts in predicted for text in texts}) > 20


def exported(model, directory, *flags):
    """Directory of a program of a model."""
    flags = ["--model_name_or_path", str(model), "--output_path", str(directory / "glm"), "--tgt_length", "24", *flags]
    export_generation_model.main(flags)
    return directory


def test_an_onnx_program_takes_any_search(briefly_trained, predicted, tmp_path):
    program = exported(briefly_trained, tmp_path, "--format", "onnx")
    with Served("--model_path", program, "--src_length", "128") as server:
        assert all_at_once(server) == predicted
        assert server.ask(**PROMPTS[0]).json()["model"] == "glm"


def test_a_program_of_paddle_searches_as_it_was_exported(briefly_trained, predicted, tmp_path):
    program = exported(briefly_trained, tmp_path, "--num_beams", "3", "--length_penalty", "0.5")
    with Served(
        "--model_path", program, "--src_length", "128", "--runtime", "paddle", "--served_model_name", "beams"
    ) as server:
        answers = server.ask(prompts=PROMPTS).json()
        assert [answer["prediction"] for answer in answers["answers"]] == predicted[3]
        assert (answers["model"], answers["answers"][0]["finish_reason"]) == ("beams", "stop")
        longer = server.ask(**PROMPTS[0], min_tgt_length=20, length_penalty=0.5).json()
        assert longer["tokens"] >= 20
        several = server.ask(**PROMPTS[0], num_return_sequences=3).json()["predictions"]
        assert (several[0], len(set(several))) == (predicted[3][0], 3)
        for options in ({"num_beams": 2}, {"select_topk": False}, {"repetition_penalty": 1.2}):
            refused = server.ask(**PROMPTS[0], **options)
            assert (refused.status_code, refused.json()["error"]["param"]) == (422, next(iter(options)))
            assert "exported to search in another way" in refused.json()["error"]["message"]


def test_as_many_beams_as_the_operator_allows(briefly_trained):
    with Served("--model_name_or_path", briefly_trained, *LIMITS, "--max_num_beams", "2") as server:
        assert server.ask(**PROMPTS[0], num_beams=2).status_code == 200
        refused = server.ask(**PROMPTS[0], num_beams=3)
        assert (refused.status_code, "this server allows 2" in refused.json()["error"]["message"]) == (422, True)
