"""LoRA adapters of one base, served together."""

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import openai
import paddle
import pytest

import predict_generation
import serve_generation
from glm.data.preparation import Preparation
from glm.model.lora import LoraConfig, add_lora, lora_parameters
from glm.weights import adapters, model_directory
from tests.helpers import ROOT
from tests.helpers.served import Served

DEV = ROOT / "demo" / "qg" / "dev.json"
PAIRS = [json.loads(line) for line in DEV.read_text(encoding="utf8").splitlines()[:12]]
PROMPTS = [{"context": pair["context"], "answer": pair["answer"]} for pair in PAIRS]
KEY = "a-key-for-tests"
KINDS = {
    "first": LoraConfig(r=4, target_modules=("all",)),
    "second": LoraConfig(r=2, target_modules=("query_key_value",)),
    "third": LoraConfig(r=6, target_modules=("dense_4h_to_h",)),
}
OWN_PROMPT = "问题是什么：{question}"


def write_adapter(directory, base, config, seed, preparation=None):
    """Write an adapter that changes what a model says."""
    fingerprint = {}
    model = add_lora(model_directory.load_model(base, fingerprint=fingerprint), config)
    for number, factor in enumerate(lora_parameters(model).values()):
        value = 0.3 * np.random.default_rng([seed, number]).standard_normal(factor.shape)
        factor.set_value(paddle.to_tensor(value.astype("float32")))
    directory.mkdir()
    adapter = adapters.Adapter(model, config, str(base), fingerprint, preparation or Preparation())
    adapter.save(directory, adapter.tensors())
    return directory


@pytest.fixture(scope="module")
def directories(briefly_trained, tmp_path_factory):
    """{name: directory of an adapter}."""
    return write_adapters(tmp_path_factory.mktemp("adapters"), briefly_trained)


def write_adapters(root, base):
    """{name: directory} of an adapter of each kind, which are written."""
    return {name: write_adapter(root / name, base, config, seed) for seed, (name, config) in enumerate(KINDS.items())}


@pytest.fixture(scope="module")
def served(briefly_trained, directories, tmp_path_factory):
    """A server of the first two adapters."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(KEY)
    flags = ["--src_length", "128", "--tgt_length", "24", "--api_key_file", keys, "--served_model_name", "base"]
    for name in ("first", "second"):
        flags += ["--lora", f"{name}={directories[name]}"]
    with Served("--model_name_or_path", briefly_trained, *flags) as server:
        yield server


def post(served, path, **content):
    return httpx.post(f"{served.url}{path}", json=content, headers={"Authorization": f"Bearer {KEY}"}, timeout=300)


def predictions(model, path, *flags):
    """Texts of predict_generation.py for the prompts."""
    flags = ["--data_file", str(DEV), "--src_length", "128", "--tgt_length", "24", *flags]
    predict_generation.main(["--model_name_or_path", str(model), *flags, "--output_file", str(path)])
    lines = path.read_text(encoding="utf8").splitlines()[: len(PROMPTS)]
    return [json.loads(line)["prediction"] for line in lines]


@pytest.fixture(scope="module")
def predicted(briefly_trained, directories, tmp_path_factory):
    """{name: texts of predict_generation.py}; None: without an adapter."""
    root = tmp_path_factory.mktemp("predicted")
    found = {
        name: predictions(briefly_trained, root / name, "--lora_path", str(path)) for name, path in directories.items()
    }
    return {None: predictions(briefly_trained, root / "base"), **found}


def test_requests_for_several_adapters_at_once_get_the_texts_of_each(served, predicted):
    names = [None, "first", "second"]
    asked = [(name, number) for number in range(len(PROMPTS)) for name in names]
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(lambda one: post(served, "/generate", **PROMPTS[one[1]], model=one[0]), asked))
    for (name, number), answer in zip(asked, answers, strict=True):
        content = answer.json()
        assert content["model"] == (name or "base")
        assert content["prediction"] == predicted[name][number]
    assert predicted[None] != predicted["first"] != predicted["second"]


def test_adapters_come_and_go_behind_the_key(served, predicted, directories):
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key=KEY, max_retries=0)
    assert [model.id for model in client.models.list()] == ["base", "first", "second"]
    missing = post(served, "/generate", **PROMPTS[0], model="third")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
    added = post(served, "/v1/load_lora_adapter", lora_name="third", lora_path=str(directories["third"]))
    assert added.status_code == 200
    models = {model.id: model for model in client.models.list()}
    assert (models["third"].parent, models["third"].root) == ("base", str(directories["third"]))
    answer = post(served, "/generate", prompts=PROMPTS, model="third").json()
    assert [one["prediction"] for one in answer["answers"]] == predicted["third"]
    chat = client.chat.completions.create(model="third", messages=[{"role": "user", "content": "你好"}])
    assert chat.model == "third"
    assert post(served, "/v1/load_lora_adapter", lora_name="third", lora_path="x").status_code == 409
    assert post(served, "/v1/unload_lora_adapter", lora_name="third").status_code == 200
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="third", messages=[{"role": "user", "content": "你好"}])
    assert post(served, "/generate", **PROMPTS[0], model="first").json()["prediction"] == predicted["first"][0]


def test_what_is_being_decoded_with_an_adapter_goes_on_when_that_is_gone(served, predicted, directories):
    post(served, "/v1/load_lora_adapter", lora_name="passing", lora_path=str(directories["third"]))
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(lambda: post(served, "/generate", prompts=PROMPTS[:8], model="passing"))
        while served.metrics()["glm_requests_in_progress"] == 0 and not waiting.done():
            pass
        post(served, "/v1/unload_lora_adapter", lora_name="passing")
        post(served, "/v1/load_lora_adapter", lora_name="another", lora_path=str(directories["second"]))
        answers = waiting.result().json()["answers"]
    assert [one["prediction"] for one in answers] == predicted["third"][:8]
    another = post(served, "/generate", **PROMPTS[1], model="another").json()["prediction"]
    assert another == predicted["second"][1]
    post(served, "/v1/unload_lora_adapter", lora_name="another")


def test_an_adapter_has_its_own_way_of_making_prompts(served, briefly_trained, tmp_path):
    own = write_adapter(tmp_path / "own", briefly_trained, KINDS["second"], 9, Preparation(prompt=OWN_PROMPT))
    assert post(served, "/v1/load_lora_adapter", lora_name="own", lora_path=str(own)).status_code == 200
    answer = post(served, "/generate", question="谁", model="own")
    assert answer.json()["source"] == "问题是什么：谁"
    refused = post(served, "/generate", question="谁")
    assert (refused.status_code, 'unknown field "question"' in refused.json()["error"]["message"]) == (422, True)
    refused = post(served, "/generate", **PROMPTS[0], model="own")
    assert (refused.status_code, 'unknown field "context"' in refused.json()["error"]["message"]) == (422, True)
    post(served, "/v1/unload_lora_adapter", lora_name="own")


def test_what_is_no_adapter_of_the_base_is_refused(served, briefly_trained, tmp_path):
    other = tmp_path / "other"
    model = model_directory.load_model(briefly_trained)
    model.parameters()[0].set_value(model.parameters()[0] + 1)
    model_directory.save_model(model, model_directory.load_tokenizer(briefly_trained), other)
    wrong = write_adapter(tmp_path / "wrong", other, KINDS["second"], 3)
    for path, message in (
        (wrong, "was not trained on"),
        (tmp_path, "no lora_config.json"),
        (tmp_path / "x", "no such"),
    ):
        refused = post(served, "/v1/load_lora_adapter", lora_name="new", lora_path=str(path))
        assert refused.status_code == 400
        assert message in refused.json()["error"]["message"]
    for name, status in (("base", 400), ("nobody", 404)):
        assert post(served, "/v1/unload_lora_adapter", lora_name=name).status_code == status
    assert post(served, "/v1/load_lora_adapter", lora_name="", lora_path="x").status_code == 400
    large = post(served, "/v1/load_lora_adapter", lora_name="x" * 2**21, lora_path="x")
    assert (large.status_code, "larger than 1048576 bytes" in large.text) == (400, True)
    assert post(served, "/v1/load_lora_adapter", lora_path="x").json()["error"]["message"] == "lora_name is missing"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lora", "x"], "give NAME=DIR"),
        (["--lora", "a=/nowhere"], "--lora a=/nowhere: "),
        (["--lora", "a=b", "--batching", "closed"], "beside --batching closed"),
        (["--lora", "a=b", "--lora_path", "c"], "beside --lora_path"),
        (["--lora", "a=b", "--engine", "python"], "--engine onnx alone"),
    ],
)
def test_mistakes_with_adapters_are_told_in_one_line(flags, message, capsys):
    with pytest.raises(SystemExit) as ended:
        serve_generation.main(["--port", "0", "--model_name_or_path", "glm-tiny-chinese", *flags])
    assert ended.value.code == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
