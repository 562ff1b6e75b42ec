"""The table of texts is complete: every message in the code has its Chinese, and nothing else is in the table."""

import argparse
import ast
import errno
import inspect
import json.decoder
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core._pydantic_core import list_all_errors

from glm import metrics, texts
from tests.helpers import ROOT
from tests.helpers.messages import PLACE, WORDS, core, strings, texts_of

SCRIPTS = ("finetune_generation", "finetune_instruction_generation", "export_generation_model")
SCRIPTS += ("infer_generation", "predict_generation", "serve_generation", "generate_pairs")
# What the code puts together from parts → the messages that come of it.
UNKNOWN = ["no column {0} (it has {1})", "no column {0}, did you mean {1}? (it has {2})"]
UNKNOWN += ["no column {0} (there are {1})", "no column {0}, did you mean {1}? (there are {2})"]
UNKNOWN_FIELDS = ["no field {0} (known are {1})", "no field {0}, did you mean {1}? (known are {2})"]
UNKNOWN_TASKS = ["no task {0} (known are {1})", "no task {0}, did you mean {1}? (known are {2})"]
MUST = "{0} is {1}; it must be"
BOUNDS = [f"{MUST} {least} {{2}} and {most} {{3}}" for least in ("at least", "above") for most in ("at most", "below")]
EMPTY = ["field {0} is empty", "field {0} holds only white space"]
KEPT = ["{0} of {1} answers are kept in {2}; the same command with --resume goes on"]
PAIRS_KEPT = ["the pairs of {0} of {1} passages are kept in {2}; the same command with --resume goes on"]
NOT_KEPT = ["nothing is kept; with --output_file it would be"]
CHECKPOINT = ["{0}: the checkpoint lacks {1}; config.json and weights do not match"]
CHECKPOINT += ["{0}: the checkpoint has an unknown {1}; config.json and weights do not match"]
ROWS = ["{0} rows x {1} accumulated", "{0} rows x {1} ranks", "{0} rows x {1} accumulated x {2} ranks"]
PLAN = ["plan: {0} steps in {1} epochs, {2} examples a step ({3})"]
PLAN += ["plan: {0} steps in {1} epochs, {2} of them done, {3} examples a step ({4})"]
STEP = ["step {0}/{1}, {2}, {3} left", "step {0}/{1}, loss not finite, {2}, {3} left"]
PARAMETERS = ["parameters: {0}, of which trained: {1}", "parameters of each of {0} ranks: {1}, of which trained: {2}"]
MEMORY = "weights {1}, gradients {2}, optimizer {3}, process {4}, activations {5}, total {6}"
BESIDE = ["{0} has no effect beside {1}; leave one of them out"]
BESIDE += ["{0} have no effect beside {1}; leave these or that out"]
NO_MODULE = ["{0} has no module {1}: run make setup, then {2} …"]
NO_MODULE += ["{0} has no module {1}: run make setup in {2}, then {3} …"]
COMPOSED = {
    "{0} is {1}; it must be {2}": [f"{MUST} {kind}" for kind in ("a number", "a whole number")],
    **dict.fromkeys(("at least", "at most", "{0} and {1}"), BOUNDS),
    "unknown name {0}": ["unknown name {0}; did you mean {1}?", "unknown name {0}; --help lists all"],
    "; --help lists all": ["unknown name {0}; --help lists all"],
    **dict.fromkeys(("no column", "it has", "there are"), UNKNOWN),
    **dict.fromkeys(("no field", "known are"), UNKNOWN_FIELDS),
    **dict.fromkeys(("no task", "--tasks: {0}"), UNKNOWN_TASKS),
    "--columns {0}={1}: {2}": UNKNOWN_FIELDS,
    "{0} at column {1} ({2})": ["bad UTF-8 at column {0} ({1})", "bad JSON at column {0} ({1})"],
    **dict.fromkeys(("holds only white space", "is empty", "field {0} {1}"), EMPTY),
    "it {0}": ["it {0}", "{0} is {1}; it {2}"],
    "{0}: {1} ({2} of {3} bytes); {4}": [
        f"{{0}}: {kind} ({{1}} of {{2}} bytes); {{3}}" for kind in ("empty", "truncated", "altered")
    ],
    **dict.fromkeys(("{0} of {1} answers are kept in {2}", "; the same command with --resume goes on"), KEPT),
    **dict.fromkeys(
        ("the pairs of {0} of {1} passages are kept in {2}", "{0}; the same command with --resume goes on"), PAIRS_KEPT
    ),
    "; with --output_file it would be": NOT_KEPT,
    "{0} {1}, now {2} ({3})": ["examples a step {0}, now {1} ({2})"],
    "{0}: the checkpoint {1} {2}; config.json and weights do not match": CHECKPOINT,
    "has an unknown": CHECKPOINT,
    **dict.fromkeys((" x {0} accumulated", " x {0} ranks"), ROWS),
    **dict.fromkeys(("{0} steps in {1} epochs", ", {0} of them done", "plan: {0}, {1} examples a step ({2})"), PLAN),
    **dict.fromkeys(("step {0}/{1}", "{0} left", "loss {0}", "lr {0}", "{0} tokens/s"), STEP),
    "{0} processes, ": ["model: {0}; {1} processes, {2}, {3} threads each"],
    **dict.fromkeys((" of each of {0} ranks", "parameters{0}: {1}, of which trained: {2}"), PARAMETERS),
    "estimated memory of training on each device in {0}, GiB: {1}": [
        f"estimated memory of training on each device in {{0}}, GiB: {MEMORY}"
    ],
    "runtime: {0}, device: {1}": ["runtime: {0}, device: {1}, backend: {2}"],
    "{0} {1} no effect without {2}; give that too, or leave {3} out": [
        "{0} has no effect without {1}; give that too, or leave it out",
        "{0} have no effect without {1}; give that too, or leave them out",
    ],
    "{0} {1} no effect beside {2}; leave {3} out": BESIDE,
    **dict.fromkeys(("these or that", "one of them"), BESIDE),
    "{0} has no module {1}: run make setup{2}, then {3} {4} …": NO_MODULE,
    **dict.fromkeys((" in {0}", "Python {0}.{1}, {2},"), NO_MODULE),
    ": {0} GiB are needed, {1} GiB of them are missing": [
        f"{full}: {{0}} GiB are needed, {{1}} GiB of them are missing"
        for full in ("No space left on device", "Disk quota exceeded")
    ],
    "{0}: {1}": [f"{what}: {{0}}" for what in ("model", "LoRA adapter", "predictions", "curves", "scores")],
}
# No message: names, figures, what is told to programs, what other programs say.
NOT_TOLD = re.compile(
    r"FastDeploy \{0\}|Paddle Inference \{0\}|onnxruntime \{0\}|Hugging Face|%\(prog\)s \{0\}|example \{0\}"
    r"|--output_dir \{0\}"
    r"|unexpected end of data|Input should be|must be|a valid integer"  # of csv and pydantic, looked for in theirs
    r"|WARNING: OMP_NUM_THREADS.*|PLEASE USE OMP.*|The Attr\.force_cpu.*|.*/\{0\}"
    r"|Setuptools is replacing.*|No ccache found|invalid escape sequence"
    r"|default-src.*|the client has gone|; use \{0\}|something in the server broke; its log says what"
    r"|The request makes no sense; the message says why\.|The same\.|this server asks for a key: send the header.*"
    r"|adapters come and go by requests with a key alone; .*"
    r"|python -m paddle\.distributed\.launch --nproc_per_node \{0\}| --backend gloo"
    r"|loss per target token \(nats\)|score of evaluation|learning rate|optimizer step|center left"  # of a figure
    r"|Linear layers with an update: \{0\}.*|Shape of the schedule: \{0\}\."  # known once their values are in them
    r"|error: this is Python .*\s*"  # of a Python too old for the table
    r"|(?:PRAGMA|CREATE|SELECT|INSERT) .*|consistency_exact, [\s\S]*"
    r"|--\w+ \w+|argument \(--.*|\{0\} \w+_\w+ [\w ]+"  # flags
    r"|[\s\w.:]*_[\w.:]*[\s\w.:]*|\s*:Abs [\s\w.:]*"  # lists of names
)


def table(section):
    return texts.table()[section]


def whole_texts():
    """Texts of --help."""
    return {text for section in texts.WHOLE for text in table(section)}


def is_noise(template):
    """Whether a string is what paddlenlp's log lines begin with, which are not shown."""
    from glm.training.display import NOISE

    return template in NOISE


def test_every_message_has_its_chinese():
    known, whole = {core(key) for key in table("messages")}, whole_texts()
    lacking = {
        template: place
        for template, place in strings().items()
        if WORDS.search(template)
        and not (
            core(template) in known or template in COMPOSED or " ".join(template.split()).replace("{0}", "{}") in whole
        )
        and not (NOT_TOLD.fullmatch(template) or is_noise(template))
    }
    assert not lacking, f"glm/texts.zh.json needs their Chinese: {lacking}"


def test_every_part_of_a_message_is_in_messages_that_the_table_has():
    there = strings()
    for part, messages in COMPOSED.items():
        assert part in there, part
        assert set(messages) <= table("messages").keys(), part


def test_there_is_no_text_that_nothing_says():
    cores = {core(template) for template in strings()} | {core(key) for keys in COMPOSED.values() for key in keys}
    assert not [key for key in table("messages") if core(key) not in cores]
    of_code = {" ".join(template.split()) for template in strings()}
    docstrings = {" ".join(part.split()) for path in SCRIPTS for part in docstring(path).split("\n\n")}
    epilog = {" ".join(metrics.EPILOG.split())}
    for section in ("headings", "descriptions"):
        assert not [key for key in table(section) if numbered_later(key).strip() not in of_code | docstrings | epilog]


def docstring(path):
    return ast.get_docstring(ast.parse((ROOT / f"{path}.py").read_text(encoding="utf8")))


def numbered_later(text):
    """A text that is filled in later, with numbers in its places."""
    return next((template for _, template in texts_of(ast.parse(repr(text), mode="eval"))), text)


def test_what_other_libraries_say_is_said_by_them():
    theirs = inspect.getsource(argparse) + inspect.getsource(json.decoder)
    theirs += json.dumps([os.strerror(number) for number in errno.errorcode])
    theirs += json.dumps([told["message_template_python"] for told in list_all_errors()])
    with pytest.raises(ValueError, match="line 1") as broken:
        json.loads('"\n"')
    theirs += str(broken.value)
    for key in table("foreign"):
        longest = max(PLACE.split(key.replace("must be a whole number", "a valid integer")), key=len)
        assert longest.strip(" (:").removeprefix("must be ") in theirs, key


def test_both_languages_have_the_same_values():
    for section in ("messages", "foreign"):
        for key, chinese in table(section).items():
            places = [place.strip("{}*") for place in PLACE.findall(chinese)]
            assert PLACE.findall(key) == [f"{{{i}}}" for i in range(len(PLACE.findall(key)))], key
            assert sorted(places) == [place.strip("{}") for place in PLACE.findall(key)], key
            assert "}{" not in key


# Nothing that a message consists of.
TAME = st.text(alphabet="αβγδ/_7", min_size=1, max_size=12)
ENDS = [part for key in texts.table()["messages"] for part in PLACE.split(key)[::2] if part.strip()]
WILD = st.lists(st.sampled_from(ENDS) | st.text(max_size=5), max_size=3).map("".join)
KEYS = st.sampled_from(sorted({**texts.table()["messages"], **texts.table()["foreign"]}))


def filled(key, values):
    return PLACE.sub(lambda place: values[int(place[0].strip("{}"))], key)


@pytest.fixture(scope="module", autouse=True)
def in_chinese():
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("GLM_LANG", "zh")
        yield


@given(KEYS, st.data())
def test_every_message_is_told_in_chinese_with_its_values_as_they_are(key, data):
    values = [data.draw(TAME) for _ in PLACE.findall(key)]
    told = texts.translated(filled(key, values))
    assert is_chinese(told) or not is_chinese(texts.table()["messages"].get(key, "")), (key, told)
    for value in values:
        assert value in told


@given(KEYS, st.data())
def test_whatever_values_hold_nothing_is_lost(key, data):
    """Neither what is data to the template that is taken, nor a word of a message that none is taken for."""
    message = filled(key, [data.draw(WILD) for _ in PLACE.findall(key)])
    told = texts.translated(message)
    if told == message or "\n" in message:
        return
    for character in set(re.findall(r"[^\x00-\x7f]", message)):
        assert told.count(character) >= message.count(character)


def is_chinese(text):
    return any("一" <= character <= "鿿" for character in text)


@pytest.mark.parametrize(
    ("message", "chinese"),
    [
        (
            "error: /o/checkpoint-6 is of another run: --learning_rate 0.004, now 1.0; --task_name: other tr"
            "aining data; examples a step 4, now 5 (--per_device_train_batch_size, --gradient_accumulation_s"
            "teps and processes); --model_name_or_path: another base model; give what it was made with, anot"
            "her --output_dir, or --overwrite_output_dir to start anew",
            "错误：/o/checkpoint-6 属于另一次训练：--learning_rate 0.004，现在为 1.0；--task_name：是另一份"
            "训练数据；每步样本数 4，现在为 5（--per_device_train_batch_size、--gradient_accumulation_steps "
            "和进程数）；--model_name_or_path：是另一个基座模型；请改回原来的取值，换一个 --output_dir，或加"
            " --overwrite_output_dir 从头开始",
        ),
        (
            "step 5 of metrics.jsonl is not written: a/b: No space left on device; the run goes on without it",
            "metrics.jsonl 中第 5 步 未写入：a/b: 磁盘空间不足；训练照常继续",
        ),
        (
            "error: /o: No space left on device: 0.500 GiB are needed, 0.200 GiB of them are missing; /o/che"
            "ckpoint-3 is whole",
            "错误：/o: 磁盘空间不足：需要 0.500 GiB，还差 0.200 GiB；/o/checkpoint-3 是完整的",
        ),
        (
            "error: x.json: no column 'a', did you mean 'b'? (it has b, c); mend --columns a=b",
            "错误：x.json: 没有列 'a'，是否想写 'b'？（现有 b, c）；请改正 --columns a=b",
        ),
        (
            "error: /a b/x y.json: no column 'a', did you mean 'b'? (it has b, c); mend --columns a=b",
            "错误：/a b/x y.json: 没有列 'a'，是否想写 'b'？（现有 b, c）；请改正 --columns a=b",
        ),
        (
            "f.json: 7 records read, 2 blank lines passed over, 2 bad records skipped (bad JSON x 1, first f"
            ".json:3: bad JSON at column 2 (Expecting value); write one whole JSON object on each line | emp"
            "ty field x 1, first f.json:4: field 'q' is empty; fill it in or remove the record)",
            "f.json: 读入 7 条记录，跳过 2 个空行，跳过 2 条坏记录（JSON 有误 1 条，第一处 f.json:3: 第 2 列"
            "起 JSON 有误（应有一个值）；每行应是一个完整的 JSON 对象 | 字段为空 1 条，第一处 f.json:4: 字段"
            " 'q' 为空；请填写，或删去这条记录）",
        ),
        (
            "error: a/b is in no cache, and HF_HUB_OFFLINE forbids to download it; ModelScope's cache has on"
            "e that cannot be used: /c: no weights there; fetch it by one of: `huggingface-cli download THUD"
            'M/glm`, `modelscope download --model X`, `python -c "from paddlenlp.transformers import *; foo;'
            ' bar"`',
            "错误：a/b 不在缓存中，而 HF_HUB_OFFLINE 禁止下载; ModelScope 的缓存中有一份不能用：/c: 没有权重"
            "；可用以下命令之一下载：`huggingface-cli download THUDM/glm`、`modelscope download --model X`、"
            '`python -c "from paddlenlp.transformers import *; foo; bar"`',
        ),
        (
            "plan: 8 steps in 2.0 epochs, 3 of them done, 32 examples a step (8 rows x 2 accumulated x 2 ranks)",
            "计划：2.0 轮共 8 步，已完成 3 步，每步 32 个样本（8 行 × 累积 2 次 × 2 个进程）",
        ),
        (
            "model: /a; 2 processes, cpu, 1 threads each",
            "模型：/a；2 个进程，cpu，每个进程 1 线程",
        ),
        (
            "SIGINT: 3 of 7 answers are kept in /tmp/x; the same command with --resume goes on",
            "SIGINT: 7 条回答中已有 3 条保存在 /tmp/x；用同一条命令加 --resume 可继续",
        ),
        (
            "error: o/model.safetensors: truncated (5 of 9 bytes); put it back as it was, or, if you meant t"
            "he change, delete o/manifest.json",
            "错误：o/model.safetensors: 不完整（5，应为 9 字节）；请恢复原状；如果是有意改动，请删去 o/manifest.json",
        ),
        (
            "rank 1: error: --src_length is 0; it must be at least 1 and at most 2^20",
            "进程 1：错误：--src_length 为 0；应不小于 1 且不大于 2^20",
        ),
        (
            "error: my file; v2.json: no such file; check the path",
            "错误：my file; v2.json: 文件不存在；请检查路径",
        ),
        (
            "error: data.json:2: field 'context' is a number, not a string; write it as a \"string\"; --on_bad"
            "_data skip leaves such records out (id 5)",
            "错误：data.json:2: 字段 'context' 是数字，不是字符串；请写成 \"字符串\"；--on_bad_data skip 可跳"
            "过这样的记录（id 为 5）",
        ),
    ],
)
def test_what_the_code_puts_together_is_told_as_one(message, chinese):
    assert texts.translated(message) == chinese
