"""A prompt of one's own goes wherever the model goes: nobody has to tell it again."""

import json

import pytest

import export_generation_model
import finetune_generation
import infer_generation
import predict_generation
import serve_generation
from glm.command_line import parse
from glm.data import preparation
from glm.data.preparation import Preparation
from glm.data.tokenization import Tokenizer
from glm.files import manifest
from glm.inference.arguments import DecodingArguments
from glm.serving.requests import read_request
from glm.weights import model_directory, peft_export, resharding
from tests.helpers.runs import DEV, read_lines

PROMPT = "段落：{context}\n{{问}}关于{a}："
RECORDS = [{"text": r["context"], "a": r["answer"], "q": r["question"]} for r in read_lines(DEV)[:6]]
SOURCES = [f"段落：{r['text']}\n{{问}}关于{r['a']}：" for r in RECORDS]
COLUMNS = ["--columns", "context=text,target=q"]
RUN = ["--model_name_or_path", "glm-tiny-chinese", "--src_length", "100", "--tgt_length", "12"]
RUN += [*COLUMNS, "--do_train", "--max_steps", "1", "--save_steps", "1", "--per_device_train_batch_size", "2"]
REMEMBERED = Preparation(PROMPT, "simplified")


@pytest.fixture(scope="module")
def data_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS), encoding="utf8")
    return str(path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data_file):
    """Output directories of two short runs with a prompt, the second one of a LoRA adapter."""
    directory = tmp_path_factory.mktemp("runs")
    flags = [*RUN, "--task_name", data_file, "--disable_tqdm", "True"]
    own = ["--prompt", PROMPT, "--normalize", "simplified"]
    finetune_generation.main([*flags, *own, "--output_dir", str(directory / "whole")])
    finetune_generation.main([*flags, *own, "--lora", "True", "--output_dir", str(directory / "adapter")])
    # What goes on from it needs no flags, and forgets it when told so.
    finetune_generation.main(
        [*flags, "--max_steps", "1", "--output_dir", str(directory / "after")]
        + ["--model_name_or_path", str(directory / "whole")]
    )
    return directory


def predicted(tmp_path, data_file, *flags):
    output = tmp_path / "predictions.jsonl"
    predict_generation.main(
        [*flags, "--data_file", data_file, *COLUMNS, "--tgt_length", "4", "--output_file", str(output), "--with_source"]
    )
    return read_lines(output)


def test_every_directory_of_a_run_remembers_its_prompt_and_answers_for_it(runs):
    for name in ("whole", "whole/checkpoint-1", "adapter", "adapter/checkpoint-1", "after"):
        assert preparation.read(runs / name) == REMEMBERED
        assert preparation.FILE in manifest.verify(runs / name, required=True)["files"]


def test_prediction_takes_the_prompt_of_a_model_and_that_of_an_adapter_before_its_base(runs, data_file, tmp_path):
    whole = predicted(tmp_path, data_file, "--model_name_or_path", str(runs / "whole"))
    assert [line.pop("source") for line in whole] == SOURCES
    assert [{name: line[name] for name in record} for line, record in zip(whole, RECORDS, strict=True)] == RECORDS
    base = ["--model_name_or_path", "glm-tiny-chinese", "--lora_path", str(runs / "adapter")]
    by_adapter = predicted(tmp_path, data_file, *base)
    assert [line["source"] for line in by_adapter] == SOURCES
    predict_generation.main([*base, "--merge_lora_path", str(tmp_path / "merged")])
    assert predicted(tmp_path, data_file, "--model_name_or_path", str(tmp_path / "merged")) == by_adapter


def test_shards_and_what_is_put_together_of_them_remember_it(runs, tmp_path):
    resharding.reshard(runs / "whole", tmp_path / "shards", 2)
    resharding.reshard(tmp_path / "shards", tmp_path / "whole", 1)
    for name in ("shards", "whole"):
        assert preparation.read(tmp_path / name) == REMEMBERED


def test_an_adapter_that_is_written_for_peft_remembers_it(runs, tmp_path):
    peft_export.export(runs / "adapter", tmp_path / "peft", "base")
    assert model_directory.load_tokenizer("glm-tiny-chinese", tmp_path / "peft").preparation == REMEMBERED


def test_a_program_remembers_it_whatever_stands_beside_it(runs, data_file, tmp_path):
    expected = predicted(tmp_path, data_file, "--model_name_or_path", str(runs / "whole"))
    for model, prefix in ((str(runs / "whole"), "own"), ("glm-tiny-chinese", "plain")):
        flags = ["--model_name_or_path", model, "--output_path", str(tmp_path / prefix), "--format", "onnx"]
        export_generation_model.main(flags)
    preparation.write(Preparation("{other}"), tmp_path)
    flags = [
        "--data_file",
        data_file,
        "--tgt_length",
        "4",
        "--with_source",
        "--output_file",
        str(tmp_path / "inferred.jsonl"),
    ]
    infer_generation.main(["--model_path", str(tmp_path), "--model_prefix", "own", *flags, *COLUMNS])
    assert read_lines(tmp_path / "inferred.jsonl") == expected
    infer_generation.main(
        ["--model_path", str(tmp_path), "--model_prefix", "plain", *flags, "--columns", "context=text", "answer=a"]
    )
    assert read_lines(tmp_path / "inferred.jsonl")[0]["source"].startswith("答案：")


def test_a_server_takes_the_placeholders(runs):
    flags = ["--model_name_or_path", "glm-tiny-chinese", "--lora_path", str(runs / "adapter")]
    service = serve_generation.build(*parse((serve_generation.ServerArguments, DecodingArguments), flags))
    asked = read_request({"context": RECORDS[0]["text"], "a": RECORDS[0]["a"]}, service.catalogue.base.offer)
    assert [row.example.source for row in asked.encoded] == SOURCES[:1]


def test_a_saved_tokenizer_alone_says_nothing_of_prompts(runs, tmp_path):
    tokenizer = Tokenizer(runs / "whole")
    assert tokenizer.preparation == REMEMBERED
    tokenizer.save(tmp_path)
    assert Tokenizer(tmp_path).preparation == preparation.DEFAULT
