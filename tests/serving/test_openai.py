"""OpenAI's interface, asked by its official client."""

import json
import subprocess
import sys

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm.serving.openai_requests import ChatCompletion, TextCompletion
from tests.helpers import ROOT
from tests.helpers.served import Served

DEV = ROOT / "demo" / "qg" / "dev.json"
PAIRS = [json.loads(line) for line in DEV.read_text(encoding="utf8").splitlines()[:12]]
KEY = "a-key-for-tests"


@pytest.fixture(scope="module")
def served(briefly_trained, tmp_path_factory):
    """A server that asks for a key."""
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"{KEY}\nanother-key-of-them\n")
    flags = ["--src_length", "128", "--tgt_length", "24", "--max_prompt_characters", "500", "--api_key_file", str(path)]
    with Served("--model_name_or_path", briefly_trained, "--served_model_name", "glm-qg", *flags) as server:
        yield server


@pytest.fixture(scope="module")
def client(served):
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key=KEY, max_retries=0)


@pytest.fixture(scope="module")
def generate(served):
    """A function that asks POST /generate."""

    def ask(**content):
        answer = httpx.post(f"{served.url}/generate", json=content, headers={"Authorization": f"Bearer {KEY}"})
        assert answer.status_code == 200, answer.text
        return answer.json()

    return ask


def asked(client, content="写一首诗", **more):
    """A chat completion of one message."""
    messages = [{"role": "user", "content": content}]
    return client.chat.completions.create(model="glm-qg", messages=messages, **more)


def test_a_chat_is_the_instruction_template_with_its_history(client, generate):
    found = asked(client)
    answer = generate(instruction="写一首诗")
    (choice,) = found.choices
    assert (choice.message.role, choice.message.content) == ("assistant", answer["prediction"])
    assert choice.finish_reason == answer["finish_reason"]
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (answer["source_tokens"], answer["tokens"])
    assert found.usage.total_tokens == answer["source_tokens"] + answer["tokens"]
    assert (found.object, found.model, found.id[:9]) == ("chat.completion", "glm-qg", "chatcmpl-")

    talk = [
        {"role": "system", "content": "你是诗人。"},
        {"role": "user", "content": "写诗"},
        {"role": "assistant", "content": "春天来了"},
        {"role": "user", "content": [{"type": "text", "text": "再"}, {"type": "text", "text": "来一首"}]},
    ]
    found = client.chat.completions.create(model="glm-qg", messages=talk)
    source = "你是诗人。\nHuman:写诗\nAssistant:春天来了\nHuman:再来一首\nAssistant:"
    assert found.choices[0].message.content == generate(source=source)["prediction"]


def test_a_streamed_chat_joins_to_the_whole_one(client):
    more = {"extra_body": {"min_tokens": 16}}
    whole = asked(client, **more)
    chunks = list(asked(client, stream=True, stream_options={"include_usage": True}, **more))
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons == [None] * (len(reasons) - 1) + [whole.choices[0].finish_reason]
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
    assert len({chunk.id for chunk in chunks}) == 1
    assert list(asked(client, stream=True))[-1].usage is None


def test_a_question_is_asked_about_an_answer_in_a_context(client, generate):
    for pair in PAIRS[:4]:
        prompt = {name: pair[name] for name in ("context", "answer")}
        found = client.completions.create(model="glm-qg", prompt=None, extra_body=prompt)
        answer = generate(**prompt)
        assert found.choices[0].text == answer["prediction"]
        raw = client.completions.create(model="glm-qg", prompt=answer["source"])
        assert raw.choices[0].text == answer["prediction"]
        assert raw.object == "text_completion"


def test_several_prompts_and_several_texts_have_their_places(client, generate):
    prompts = [generate(context=pair["context"], answer=pair["answer"])["source"] for pair in PAIRS[:3]]
    alone = [client.completions.create(model="glm-qg", prompt=prompt).choices[0].text for prompt in prompts]
    found = client.completions.create(model="glm-qg", prompt=prompts, n=2)
    assert [choice.text for choice in found.choices] == [text for text in alone for _ in range(2)]
    assert [choice.index for choice in found.choices] == list(range(6))

    drawn = client.completions.create(model="glm-qg", prompt=prompts, n=3, temperature=1.5, seed=11)
    expected = generate(prompts=prompts, num_return_sequences=3, select_topk=False, temperature=1.5, seed=11)
    texts = [text for answer in expected["answers"] for text in answer["predictions"]]
    assert [choice.text for choice in drawn.choices] == texts
    assert len(set(texts)) > 3

    streamed = client.completions.create(model="glm-qg", prompt=prompts, n=3, temperature=1.5, seed=11, stream=True)
    joined = dict.fromkeys(range(9), "")
    for chunk in streamed:
        for choice in chunk.choices:
            joined[choice.index] += choice.text
    assert list(joined.values()) == texts

    beams = generate(source=prompts[0], num_beams=4, num_return_sequences=4)
    found = client.completions.create(model="glm-qg", prompt=prompts[0], n=4, extra_body={"num_beams": 4})
    assert [choice.text for choice in found.choices] == beams["predictions"]
    assert len(set(beams["predictions"])) == 4
    joined = dict.fromkeys(range(4), "")
    for chunk in client.completions.create(
        model="glm-qg", prompt=prompts[0], n=4, stream=True, extra_body={"num_beams": 4}
    ):
        for choice in chunk.choices:
            joined[choice.index] += choice.text
    assert list(joined.values()) == beams["predictions"]


def test_without_a_seed_each_request_draws_anew_and_with_one_the_same(client):
    def texts(**more):
        return [choice.message.content for choice in asked(client, n=4, temperature=2, **more).choices]

    assert texts(seed=-3) == texts(seed=-3)
    assert texts() != texts()
    assert asked(client, temperature=0).choices == asked(client).choices


def test_a_text_ends_before_a_stop(client, generate):
    prompt = generate(context=PAIRS[0]["context"], answer=PAIRS[0]["answer"])["source"]

    def completed(**more):
        return client.completions.create(model="glm-qg", prompt=prompt, **more)

    whole = completed().choices[0].text
    stop = whole[2:4]
    found = completed(stop=[stop, "绝不会有"])
    assert (found.choices[0].text, found.choices[0].finish_reason) == (whole[: whole.find(stop)], "stop")
    assert found.usage.completion_tokens < completed().usage.completion_tokens
    streamed = completed(stop=stop, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == whole[: whole.find(stop)]
    beams = {"num_beams": 3}
    whole = completed(extra_body=beams).choices[0].text
    found = completed(stop=whole[2], extra_body=beams)
    assert found.choices[0].text == whole[: whole.find(whole[2])]


def test_limits_and_penalties_are_those_of_generate(client, generate):
    found = asked(client, max_tokens=3)
    assert (found.choices[0].finish_reason, found.usage.completion_tokens) == ("length", 3)
    assert asked(client, max_completion_tokens=3).choices == found.choices
    assert asked(client, max_tokens=10**6).choices == asked(client).choices
    options = {"presence_penalty": 1.5, "frequency_penalty": 0.5}
    found = asked(client, **options).choices[0].message.content
    assert found == generate(instruction="写一首诗", **options)["prediction"]
    longer = asked(client, extra_body={"min_tokens": 23}).usage.completion_tokens
    assert longer == 24


def test_log_probabilities_are_those_of_the_tokens(client):
    found = asked(client, logprobs=True)
    tokens = found.choices[0].logprobs.content
    assert len(tokens) == found.usage.completion_tokens
    assert "".join(token.token for token in tokens) == found.choices[0].message.content
    assert all(token.logprob <= 0 for token in tokens)
    assert all(bytes(token.bytes).decode() == token.token for token in tokens)
    raw = client.completions.create(model="glm-qg", prompt="Human:写一首诗\nAssistant:", logprobs=0)
    assert raw.choices[0].logprobs.token_logprobs == [token.logprob for token in tokens]
    assert asked(client).choices[0].logprobs is None


def test_models_are_listed(client):
    (model,) = client.models.list().data
    assert (model.id, model.object) == ("glm-qg", "model")
    assert client.models.retrieve("glm-qg") == model
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("gpt-5")
    assert refused.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"temperature": "hot"}, "temperature", 'temperature is "hot"; it must be a number'),
        ({"temperature": 3}, "temperature", "at least 0 and at most 2"),
        ({"n": 0}, "n", "at least 1"),
        ({"n": 100}, "n", "100 texts for each prompt"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
        ({"stop": ""}, "stop", "texts of 1 to 200 characters"),
        ({"messages": []}, "messages", "at least one message"),
        ({"messages": "hi"}, "messages", "at least one message"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages", "messages[0]: content is 7"),
        ({"messages": [{"role": "owner", "content": "a"}]}, None, "is said by 'owner'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "no texts"),
        ({"messages": [{"role": "user", "content": "天" * 501}]}, None, "at most 500"),
        ({"tools": [{"type": "function"}]}, "tools", "does not know"),
        ({"response_format": {"type": "json_object"}}, "response_format", "does not know"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "does not know"),
        ({"logprobs": True, "top_logprobs": 2}, "top_logprobs", "does not know"),
        ({"logprobs": True, "stream": True}, "logprobs", "whole texts"),
        ({"extra": 1}, "extra", "unknown field"),
    ],
)
def test_what_is_refused_is_an_error_of_its_kind(client, fields, param, message):
    content = {"model": "glm-qg", "messages": [{"role": "user", "content": "你好"}], **fields}
    with pytest.raises(openai.BadRequestError) as refused:
        client.post("/chat/completions", body=content, cast_to=object)
    error = refused.value
    assert (error.type, error.param) == ("invalid_request_error", param)
    assert message in error.message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
turns = st.fixed_dictionaries({}, optional={"role": st.sampled_from(["user", "system", "x"]), "content": json_values})


@settings(max_examples=80)
@given(st.data())
def test_no_request_breaks_the_interface(served, data):
    kind = data.draw(st.sampled_from([ChatCompletion, TextCompletion]))
    names = st.sampled_from([*kind.model_fields, "other"])
    content = data.draw(st.dictionaries(names, json_values, max_size=4))
    if kind is ChatCompletion and data.draw(st.booleans()):
        content["messages"] = data.draw(st.lists(turns | json_values, max_size=3))
    path = "chat/completions" if kind is ChatCompletion else "completions"
    answer = httpx.post(f"{served.url}/v1/{path}", json=content, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)
    assert answer.status_code in (200, 400, 404), answer.text
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert error["message"]
        assert "\n" not in error["message"]
        assert error["type"] == "invalid_request_error"


def test_what_changes_nothing_is_taken(client):
    plain = asked(client).choices
    extra = {"parallel_tool_calls": True, "tools": [], "logit_bias": {}, "top_logprobs": None, "audio": None}
    assert asked(client, user="me", metadata={"a": "b"}, extra_body=extra).choices == plain


def test_a_key_is_asked_for(served, client):
    for key in ("wrong-key-1", "another-key-of-the"):
        with pytest.raises(openai.AuthenticationError) as refused:
            asked(openai.OpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0))
        assert refused.value.code == "invalid_api_key"
    assert asked(openai.OpenAI(base_url=f"{served.url}/v1", api_key="another-key-of-them")).choices
    answer = httpx.post(f"{served.url}/generate", json={"source": "你好"})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert httpx.get(f"{served.url}/v1/models").status_code == 401
    for open_to_all in ("/", "/healthz", "/metrics", "/docs", "/openapi.json"):
        assert httpx.get(served.url + open_to_all).status_code == 200


def test_a_server_that_is_full_tells_when_to_come_back(briefly_trained):
    flags = ["--tgt_length", "900", "--src_length", "64", "--max_concurrent_requests", "1"]
    with Served("--model_name_or_path", briefly_trained, "--served_model_name", "glm-qg", *flags) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        stream = asked(client, stream=True, extra_body={"min_tokens": 899})
        next(iter(stream))
        with pytest.raises(openai.RateLimitError) as refused:
            asked(client)
        assert (refused.value.code, refused.value.response.headers["retry-after"]) == ("rate_limit_exceeded", "1")
        stream.close()


def test_the_schema_says_what_requests_may_have(served):
    schema = httpx.get(f"{served.url}/openapi.json").json()
    assert {"/generate", "/v1/chat/completions", "/v1/completions", "/v1/models", "/healthz"} <= schema["paths"].keys()
    of_generate = schema["components"]["schemas"]["GenerateRequest"]["properties"]
    assert {"context", "answer", "prompts", "temperature", "stop", "num_beams"} <= of_generate.keys()
    assert (of_generate["temperature"]["minimum"], of_generate["temperature"]["maximum"]) == (0.01, 100)
    assert of_generate["tgt_length"]["type"] == "integer"
    assert "messages" in schema["components"]["schemas"]["ChatCompletion"]["properties"]


def test_keys_stay_out_of_logs(briefly_trained, tmp_path):
    flags = ["--model_name_or_path", str(briefly_trained), "--port", "0", "--api_key_file", str(tmp_path / "keys")]
    (tmp_path / "keys").write_text("secret words\n")
    done = subprocess.run([sys.executable, str(ROOT / "serve_generation.py"), *flags], capture_output=True, text=True)
    assert done.returncode == 2
    assert "secret" not in done.stdout + done.stderr
