"""The server: over real connections with a real model, and its app with an engine whose pace a test decides."""

import asyncio
import json
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import predict_generation
import serve_generation
from glm.command_line import parse
from glm.inference.arguments import DecodingArguments
from glm.serving.app import make_app
from glm.weights import builtin_model, model_directory
from tests.helpers import ROOT
from tests.helpers.served import Served, events_of

DEV = ROOT / "demo" / "qg" / "dev.json"
RECORDS = [json.loads(line) for line in DEV.read_text(encoding="utf8").splitlines()]
PROMPTS = [{"context": record["context"], "answer": record["answer"]} for record in RECORDS]
JSON_TYPE = {"Content-Type": "application/json"}


def told(response):
    """What a response says, but for the request's id."""
    return {name: value for name, value in response.json().items() if name not in ("id", "model")}


@pytest.fixture(scope="module")
def predicted(briefly_trained, tmp_path_factory):
    """The lines that predict_generation.py writes for the prompts, decoding as the server does."""
    return predictions(briefly_trained, tmp_path_factory.mktemp("predicted") / "lines.jsonl")


def predictions(model, path, *flags):
    """[(source, prediction)] of predict_generation.py for the prompts."""
    flags = ["--data_file", str(DEV), "--src_length", "128", "--tgt_length", "24", "--with_source", *flags]
    predict_generation.main(["--model_name_or_path", str(model), *flags, "--output_file", str(path)])
    lines = [json.loads(line) for line in Path(path).read_text(encoding="utf8").splitlines()]
    return [(line["source"], line["prediction"]) for line in lines]


def answer_of(response):
    """(source, prediction) of a response that must be an answer."""
    assert response.status_code == 200, response.text
    return response.json()["source"], response.json()["prediction"]


def test_200_requests_at_once_are_answered_like_predict_generation_and_add_up_in_the_metrics(served, predicted):
    before = served.metrics()
    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(lambda prompt: served.ask(**prompt), PROMPTS[:200]))
    assert [answer_of(answer) for answer in answers] == predicted[:200]
    assert len(set(predicted)) == len(predicted)
    assert len({prediction for _, prediction in predicted}) > 40, "mixed up, answers would differ"

    after = served.metrics()
    grown = {name: value - before.get(name, 0) for name, value in after.items()}
    assert grown['glm_requests_total{status="200"}'] == grown["glm_request_seconds_count"] == 200
    assert grown["glm_prompts_total"] == grown["glm_batch_size_sum"] == 200
    assert grown["glm_batch_size_count"] < 200, "requests share batches"
    assert grown["glm_tokens_generated_total"] == sum(answer.json()["tokens"] for answer in answers)
    assert after["glm_queue_length"] == after["glm_requests_in_progress"] == 0
    total = sum(value for name, value in after.items() if name.startswith("glm_requests_total"))
    assert total == after["glm_request_seconds_count"] == after['glm_request_seconds_bucket{le="+Inf"}']


def test_a_batch_is_answered_in_its_order(served, predicted):
    response = served.ask(prompts=PROMPTS[:8])
    assert [(answer["source"], answer["prediction"]) for answer in response.json()["answers"]] == predicted[:8]


def test_streamed_pieces_join_to_the_answer(served, predicted):
    events = events_of(served.ask(**PROMPTS[3], stream=True).text)
    *pieces, (last, answer) = events
    assert last == "done"
    assert {event for event, _ in pieces} == {"piece"}
    assert (answer["source"], "".join(piece["text"] for _, piece in pieces)) == predicted[3]
    assert answer["prediction"] == predicted[3][1]

    *pieces, (last, content) = events_of(served.ask(prompts=PROMPTS[:3], stream=True).text)
    joined = ["".join(piece["text"] for _, piece in pieces if piece["index"] == number) for number in range(3)]
    assert joined == [answer["prediction"] for answer in content["answers"]] == [text for _, text in predicted[:3]]


def test_a_request_chooses_its_own_length_limits(served, briefly_trained, predicted, tmp_path):
    expected = predictions(briefly_trained, tmp_path / "longer", "--min_tgt_length", "20")
    assert expected[:5] != predicted[:5]
    shorter = predictions(briefly_trained, tmp_path / "shorter", "--tgt_length", "4")
    with ThreadPoolExecutor(15) as pool:
        plain = pool.map(lambda prompt: served.ask(**prompt), PROMPTS[:5])
        longer = pool.map(lambda prompt: served.ask(**prompt, min_tgt_length=20), PROMPTS[:5])
        short = pool.map(lambda prompt: served.ask(**prompt, tgt_length=4), PROMPTS[:5])
        assert [answer_of(answer) for answer in plain] == predicted[:5]
        assert [answer_of(answer) for answer in longer] == expected[:5]
        assert [answer_of(answer) for answer in short] == shorter[:5]


def test_what_a_model_does_not_read_of_a_prompt_is_in_its_answer(served):
    short, long, rare = ({"source": text} for text in ("天空", "天空" * 200, "𠮷的😀𠮷"))
    found = served.ask(prompts=[short, long, rare]).json()["answers"]
    assert [answer["source_cut"] for answer in found] == [False, True, False]
    assert [answer["unknown_characters"] for answer in found] == [[], [], ["𠮷", "😀"]]
    tokens = [answer["source_tokens"] for answer in found]
    assert 3 < tokens[0] < tokens[1] <= 128
    # What is answered is what was read.
    assert long["source"].startswith(found[1]["source"])
    assert len(found[1]["source"]) < 400
    assert told(served.ask(**rare)) == found[2]
    (*_, (last, answer)) = events_of(served.ask(**long, stream=True).text)
    assert (last, {**answer, **found[1]}) == ("done", answer)


def test_what_is_null_is_as_if_it_were_not_there(served):
    expected = told(served.ask(**PROMPTS[0]))
    unset = dict.fromkeys(
        ["source", "input", "prompts", "stream", "tgt_length", "seed", "temperature", "length_penalty"]
    )
    assert told(served.ask(**PROMPTS[0], **unset)) == expected
    batch = served.ask(prompts=[{**PROMPTS[0], "instruction": None}], context=None, stream=None)
    assert told(batch) == {"answers": [expected]}
    refused = served.ask(context="天空", answer=None)
    assert (refused.status_code, "no field 'answer'" in refused.text) == (422, True)


@pytest.mark.parametrize("path", ["/", "/page.css", "/page.js", "/healthz", "/metrics"])
def test_the_head_of_what_is_read_can_be_asked_for_alone(served, path):
    head, whole = httpx.head(served.url + path), httpx.get(served.url + path)
    assert (head.status_code, whole.status_code, head.content) == (200, 200, b"")
    assert whole.content
    names = ["content-type", "cache-control", *(["content-length"] if path != "/metrics" else [])]
    assert [head.headers[name] for name in names] == [whole.headers[name] for name in names]
    refused = httpx.post(served.url + path)
    assert (refused.status_code, "use GET, HEAD" in refused.text) == (405, True)


def test_lines_of_a_stream_are_the_same_to_every_client(served):
    text = served.ask(source="你\u2028好\x85", stream=True).text
    data = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data:")]
    assert data[-1]["source"] == "你\u2028好\x85"


def test_every_template_of_prediction_makes_prompts(served):
    sources = [
        served.ask(**prompt).json()["source"]
        for prompt in ({"source": "随便写写"}, {"instruction": "写诗", "input": "春天"}, {"instruction": "写诗"})
    ]
    assert sources == ["随便写写", "Human:写诗春天\nAssistant:", "Human:写诗\nAssistant:"]
    assert served.ask(prompts=["随便写写"]).json()["answers"][0]["source"] == "随便写写"


GOOD = {"context": "天空是蓝色的。", "answer": "蓝色"}


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (413, {**GOOD, "context": "天" * 600}, "602 characters; at most 500"),
        (413, {"prompts": [GOOD] * 9}, "9 prompts in one request; at most 8"),
        (413, {**GOOD, "context": "天" * 20000}, "larger than 20000 bytes"),
        (422, [], "must be a JSON object"),
        (422, {"prompts": []}, "at least one prompt"),
        (422, {"prompts": [GOOD, 7]}, "prompts[1]: a prompt must be an object or a string, not 7"),
        (422, {"prompts": [GOOD, {**GOOD, "answer": ""}]}, "prompts[1]: field 'answer' is empty"),
        (422, {"prompts": [GOOD], "contxt": ""}, 'unknown field "contxt"'),
        (422, {"context": "天空"}, "no field 'answer'"),
        (422, {**GOOD, "source": "天空"}, "makes no prompt"),
        (422, {}, "nothing makes no prompt"),
        (422, {**GOOD, "context": 3}, "field 'context' is a number, not a string"),
        (422, {**GOOD, "context": "\ud800"}, "half a surrogate pair"),
        (422, {**GOOD, "answer": "蓝色" * 200}, "even without its context"),
        (422, {**GOOD, "stream": 1}, "stream is 1; it must be true or false"),
        (422, {**GOOD, "tgt_length": 25}, "tgt_length is 25; this server allows 24"),
        (422, {**GOOD, "tgt_length": True}, "tgt_length is true; it must be a whole number"),
        (422, {**GOOD, "min_tgt_length": 24}, "min_tgt_length (24) must be below tgt_length (24)"),
        (422, {**GOOD, "temperature": 0.5}, 'nothing is drawn; send "select_topk": false'),
        (422, {**GOOD, "select_topk": "no"}, 'select_topk is "no"; it must be true or false'),
        (422, {**GOOD, "length_penalty": 0.5}, "nothing is decoded with beams; send num_beams"),
        (422, {**GOOD, "num_beams": 9}, "num_beams is 9; this server allows 8"),
        (
            422,
            {**GOOD, "num_beams": 2, "num_return_sequences": 3},
            "num_return_sequences (3) is more than num_beams",
        ),
        (422, {**GOOD, "num_return_sequences": 2}, 'send num_beams, or "select_topk": false'),
        (413, {"prompts": [GOOD] * 4, "num_beams": 3, "num_return_sequences": 3}, "3 texts for each of 4 prompts"),
        (422, {**GOOD, "stop": ["", "。"]}, "it must be texts of 1 to 200 characters"),
        (422, {**GOOD, "stop": [str(i) for i in range(17)]}, "17 texts; at most 16"),
        (422, {**GOOD, "repetition_penalty": 0}, "repetition_penalty is 0; it must be at least 0.01"),
    ],
)
def test_what_is_refused_is_told_why(served, status, content, message):
    response = httpx.post(f"{served.url}/generate", content=json.dumps(content), headers=JSON_TYPE)
    error = response.json()["error"]
    assert (response.status_code, error["status"]) == (status, status)
    assert message in error["message"]


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (400, b"", "not JSON"),
        (400, b'{"context": "a"', "line 1 column"),
        (400, b"\xff{}", "not UTF-8"),
        (400, b'{"top_p": NaN}', "NaN is no JSON value"),
        (400, b"[" * 9000 + b"]" * 9000, "nested too deeply"),
        (400, b'{"a":' * 3000 + b"1" + b"}" * 3000, "nested too deeply"),
        (400, b'{"seed": ' + b"9" * 9000 + b"}", "number that is too long"),
    ],
)
def test_bodies_that_are_no_json_are_refused(served, status, body, message):
    response = httpx.post(f"{served.url}/generate", content=body, headers=JSON_TYPE)
    assert response.status_code == status
    assert message in response.json()["error"]["message"]


def test_other_paths_methods_and_types_are_refused_as_json(served):
    for status, response in (
        (404, httpx.get(f"{served.url}/../app.py")),
        (405, httpx.get(f"{served.url}/generate")),
        (415, httpx.post(f"{served.url}/generate", content=b"{}", headers={"Content-Type": "text/plain"})),
        # Sent in chunks, a body does not say its length beforehand.
        (413, httpx.post(f"{served.url}/generate", content=iter([b" " * 15000] * 3), headers=JSON_TYPE)),
    ):
        assert response.status_code == response.json()["error"]["status"] == status


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(
    ["context", "answer", "source", "prompts", "stream", "tgt_length", "min_tgt_length", "seed", "num_beams", "stop"]
    + ["num_return_sequences", "select_topk", "template", "within_source", "model", "temperature", "question"]
)


@settings(max_examples=120)
@given(st.binary(max_size=60) | st.dictionaries(names, json_values, max_size=4).map(lambda x: json.dumps(x).encode()))
def test_no_body_breaks_the_server(served, body):
    response = httpx.post(f"{served.url}/generate", content=body, headers=JSON_TYPE)
    assert response.status_code < 500
    if response.status_code != 200:
        assert response.json()["error"]["message"]


def asked_in_process(flags, contents):
    """Responses to requests sent at once to a server with some flags, without a process and connections of its own."""
    arguments = parse((serve_generation.ServerArguments, DecodingArguments), [*flags, "--src_length", "128"])

    async def scenario():
        service = serve_generation.build(*arguments)
        service.engine.start()
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(make_app(service)), base_url="http://localhost"
        ) as client:
            while service.engine.state == "loading":
                await asyncio.sleep(0.02)
            responses = await asyncio.gather(*(client.post("/generate", json=content) for content in contents))
        assert await asyncio.to_thread(service.engine.close, 10)
        return responses

    return asyncio.run(scenario())


def test_sampling_depends_on_the_requests_seed_alone(briefly_trained, tmp_path):
    sampling = ["--select_topk", "False", "--temperature", "2.0", "--tgt_length", "12"]
    expected = predictions(briefly_trained, tmp_path / "7", *sampling, "--seed", "7")[:2]
    model = ["--model_name_or_path", str(briefly_trained)]
    contents = [{"prompts": PROMPTS[:2], "seed": seed} for seed in (7, 1, 7, 2, 7, 3)]
    batches = asked_in_process([*model, *sampling], contents)
    answers = [[(line["source"], line["prediction"]) for line in batch.json()["answers"]] for batch in batches]
    assert answers[0] == answers[2] == answers[4] == expected
    assert answers[1] != expected


def test_beams_give_their_text_at_the_end(briefly_trained, tmp_path):
    beams = ["--num_beams", "3", "--length_penalty", "0.6", "--no_repeat_ngram_size", "2"]
    expected = predictions(briefly_trained, tmp_path / "beams", *beams)[:6]
    flags = ["--model_name_or_path", str(briefly_trained), "--tgt_length", "24", *beams]
    *answers, streamed = asked_in_process(flags, [*PROMPTS[:6], {**PROMPTS[0], "stream": True}])
    (_, piece), (_, answer) = events_of(streamed.text)
    assert [answer_of(answer) for answer in answers] == expected
    assert piece["text"] == answer["prediction"] == expected[0][1]


@pytest.mark.parametrize("engine", ["python", "onnx"])
def test_sigterm_refuses_what_is_new_and_finishes_what_was_accepted(engine, tmp_path, monkeypatch):
    # Where the graph is not there yet, the model is loaded for it.
    monkeypatch.setenv("GLM_CACHE_DIR", str(tmp_path))
    # The untrained model never ends by itself: each text takes as many steps as are allowed.
    long = ["--tgt_length", "800", "--min_tgt_length", "799", "--src_length", "64", "--engine", engine]
    with Served("--model_name_or_path", builtin_model.NAME, *long) as server, httpx.Client(timeout=60) as client:
        streams = []
        for number in range(6):
            content = {"source": f"第{number}个", "stream": True}
            request = client.build_request("POST", f"{server.url}/generate", json=content)
            streams.append(client.send(request, stream=True))
        chunks = streams[0].iter_raw()
        started = next(chunks).decode()
        server.process.send_signal(signal.SIGTERM)
        assert "stopping" in server.process.stderr.readline()
        refused = server.ask(source="太晚了")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert httpx.get(f"{server.url}/healthz").json() == {"status": "stopping"}
        texts = [started + b"".join(chunks).decode()]
        texts += [stream.read().decode() for stream in streams[1:]]
        for text in texts:
            *pieces, (last, answer) = events_of(text)
            assert last == "done"
            assert answer["tokens"] == 800
            assert "".join(piece["text"] for _, piece in pieces) == answer["prediction"]
        assert server.process.wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model_name_or_path", "/nowhere"], "no such directory"),
        (["--port", "99999"], "--port is 99999"),
        (["--max_batch_size", "0"], "--max_batch_size is 0; it must be at least 1"),
        (["--request_timeout", "nan"], "--request_timeout is nan"),
        (["--top_k", "3"], "no effect without --select_topk False"),
        (["--model_name_or_path", builtin_model.NAME, "--src_length", "2000"], "the model has 1025"),
    ],
)
def test_mistakes_on_the_command_line_are_told_in_one_line(flags, message, capsys):
    with pytest.raises(SystemExit) as ended:
        serve_generation.main(["--port", "0", *flags])
    assert ended.value.code == 2
    # Whatever paddle writes on its own import comes before.
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_model_that_cannot_be_loaded_ends_the_server(tmp_path, capsys):
    for path in model_directory.resolve(builtin_model.NAME).iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, tmp_path)
    with pytest.raises(SystemExit) as ended:
        serve_generation.main(["--port", "0", "--model_name_or_path", str(tmp_path)])
    assert ended.value.code == 2
    told = capsys.readouterr().err.splitlines()
    assert [line for line in told if line.startswith("error: ")] == told[-1:]


def test_a_port_that_is_taken_is_told_in_one_line(capsys):
    with serve_generation.listen("127.0.0.1", 0) as taken, pytest.raises(SystemExit) as ended:
        serve_generation.main(["--port", str(taken.getsockname()[1])])
    assert ended.value.code == 2
    assert "choose others" in capsys.readouterr().err
