"""What flags change: runs of every script, and what there is to be seen of each. docs/effects.json declares the rest.

A value may hold names in braces, of Inputs.
"""

import asyncio
import contextlib
import gc
import hashlib
import importlib
import io
import json
import re
import shutil
import socket
import sys
from functools import cached_property

from glm.weights import builtin_model
from tests.helpers import ROOT
from tests.helpers.runs import read_lines

DECLARED = json.loads((ROOT / "docs" / "effects.json").read_text(encoding="utf8"))
# A file: what it has for parts of a run or beside other flags gives way.
TRAINING = [str(ROOT / "tests" / "helpers" / "brief.json")]
DECODING = [str(ROOT / "tests" / "helpers" / "decoding.json")]
# Flags of the run that one flag more is compared with.
BASES = {
    "finetune_generation.py": [*TRAINING, "--output_dir", "{tmp}/out"],
    "finetune_instruction_generation.py": [*TRAINING, "--task_name", "demo_instruction", "--output_dir", "{tmp}/out"],
    "export_generation_model.py": [*DECODING, "--output_path", "{tmp}/program/glm"],
    "infer_generation.py": ["--model_path", "{program}", "--runtime", "paddle"],
    "predict_generation.py": DECODING,
    "serve_generation.py": DECODING,
    "generate_pairs.py": [
        *("--model_name_or_path", "glm-tiny-chinese", "--data_file", "{document}", "--keep", "all"),
        *("--question_length", "8", "--output_file", "{tmp}/predictions.jsonl"),
    ],
}
# Flags of finetune_generation.py that are about questions alone.
OF_QUESTIONS = ("tasks", "extract_candidates")
# What differs between two runs of the same, in what they say.
VOLATILE = re.compile(
    r"/tmp/\S+|\d+:\d+(:\d+)?|[\d.,]+ ?(s\b|it/s|GiB|tokens/s|prompt/s)|\d{4}-\d\d-\d\d|[\d.]+(?=/s)|\d+%"
)


def effects_of(script):
    """{flag: its declaration} of a script."""
    own = DECLARED["flags"][script]
    shared = DECLARED["flags"]["finetune_generation.py"] if script.startswith("finetune_instruction") else {}
    return {**{flag: effect for flag, effect in shared.items() if flag not in OF_QUESTIONS}, **own}


class Inputs:
    """Models, programs and data files by the names that declarations have for them, made when they are first needed."""

    def __init__(self, directory):
        self.directory = directory

    def path(self, name, text):
        path = self.directory / name
        path.write_text(text, encoding="utf8")
        return path

    @cached_property
    def ending(self):
        """A model that has learnt to end at once."""
        return self.trained("ending", "1")

    @cached_property
    def ending_program(self):
        return self.exported("ending_program", "--model_name_or_path", str(self.ending), "--scores")

    @cached_property
    def ending_beams(self):
        return self.exported("ending_beams", "--model_name_or_path", str(self.ending), "--num_beams", "4", "--scores")

    @cached_property
    def other_model(self):
        return self.trained("other", "2", "--learning_rate", "1e-3")

    def trained(self, name, seed, *flags):
        """A model that has learnt for some steps, or an adapter."""
        directory = self.directory / name
        values = {"tmp": self.directory}
        flags = [*TRAINING, "--max_steps", "6", "--seed", seed, *flags, "--output_dir", str(directory)]
        run_script("finetune_generation.py", [flag.format(**values) for flag in flags])
        return directory

    @cached_property
    def adapter(self):
        return self.trained("adapter", "1", "--lora", "True", "--lora_target_modules", "all")

    @property
    def earlier_run(self):
        """A run to go on from, anew for each that does."""
        source = self.directory / "earlier"
        if not source.exists():
            self.trained("earlier", "1", "--save_strategy", "steps", "--save_steps", "2")
        copy = self.directory / "earlier_run"
        shutil.rmtree(copy, ignore_errors=True)
        return shutil.copytree(source, copy)

    @cached_property
    def shards(self):
        from glm.weights import resharding

        resharding.reshard(builtin_model.build(), self.directory / "shards", degree=2)
        return self.directory / "shards"

    def exported(self, name, *flags):
        target = self.directory / name / "glm"
        flags = [*DECODING, "--output_path", str(target), *flags]
        run_script("export_generation_model.py", flags)
        return target.parent

    @cached_property
    def program(self):
        return self.exported("program")

    @cached_property
    def sampled(self):
        return self.exported("sampled", "--select_topk", "False")

    @cached_property
    def onnx_program(self):
        return self.exported("onnx_program", "--format", "onnx")

    @cached_property
    def penalized(self):
        return self.exported("penalized", "--min_tgt_length", "9", "--repetition_penalty", "1.01")

    @cached_property
    def beams(self):
        return self.exported("beams", "--num_beams", "4", "--scores")

    @cached_property
    def data(self):
        places = zip("甲乙丙丁戊己庚辛", "子丑寅卯辰巳午未", strict=True)
        records = [
            json.dumps({"context": f"{one}在{other}，{one}不在别处。", "answer": other, "question": f"{one}在哪里"})
            for one, other in places
        ]
        return self.path("data.json", "\n".join(records) + "\n")

    @cached_property
    def document(self):
        return self.path(
            "document.txt", "云栖湖位于青岚山脚下。湖面海拔一千二百米，四月到六月可以观鸟。湖边有一座木桥。" * 2
        )

    @cached_property
    def other_document(self):
        return self.path("other.txt", "竹编灯笼要先把竹子剖成细篾，再编成骨架，最后糊上棉纸。")

    @cached_property
    def passages(self):
        record = {"passage": self.document.read_text(encoding="utf8"), "context": "灯笼要编两天。"}
        return self.path("passages.jsonl", json.dumps(record) + "\n")

    @cached_property
    def listed(self):
        return self.path("listed.txt", "观鸟\n木桥\n")

    @cached_property
    def bound_program(self):
        return self.exported("bound", "--num_beams", "4", "--within_source", "True")

    @cached_property
    def renamed(self):
        return self.path("renamed.json", self.data.read_text(encoding="utf8").replace('"context"', '"passage"'))

    @cached_property
    def renamed_instructions(self):
        text = self.instructions.read_text(encoding="utf8").replace('"output"', '"answer"')
        return self.path("renamed_i.json", text)

    @cached_property
    def traditional(self):
        record = {"context": "這個門開著，湖邊東面有馬車。", "answer": "馬車", "question": "東面有什麼"}
        return self.path("traditional.json", (json.dumps(record, ensure_ascii=False) + "\n") * 4)

    @cached_property
    def long(self):
        return self.path("long.json", json.dumps({"context": "云栖湖位于青岚山脚下。" * 9, "answer": "山脚下"}) + "\n")

    @cached_property
    def bad_data(self):
        return self.path("bad.json", self.data.read_text(encoding="utf8") + '{"context": "甲"}\n')

    @cached_property
    def instructions(self):
        records = [{"instruction": f"{c}是什么", "input": "", "output": f"{c}在湖边。"} for c in "甲乙丙丁戊己"]
        return self.path("instructions.json", "".join(json.dumps(record) + "\n" for record in records))

    @cached_property
    def bad_instructions(self):
        return self.path("bad_i.json", self.instructions.read_text(encoding="utf8") + '{"instruction": 3}\n')

    @cached_property
    def talks(self):
        talk = "Human: {0}是什么\n\nAssistant: {0}在湖边。\n\nHuman: 再说\n\nAssistant:"
        records = [{"instruction": talk.format(c), "input": "", "output": f"{c}在山上。"} for c in "甲乙丙丁戊己"]
        return self.path("talks.json", "".join(json.dumps(record) + "\n" for record in records))

    @cached_property
    def mixed(self):
        record = {"context": "甲在乙。", "answer": "乙", "instruction": "说甲", "input": ""}
        return self.path("mixed.json", json.dumps(record, ensure_ascii=False) + "\n")

    @property
    def kept(self):
        """A file of answers, beside which those of another run are kept."""
        path = self.directory / "kept.jsonl"
        (self.directory / "kept.jsonl.partial").write_text('{"settings": "of another run"}\n', encoding="utf8")
        return path

    @property
    def free_port(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            return listener.getsockname()[1]

    def filled(self, flags, tmp):
        """Flags with what stands in braces put in."""

        def value(found):
            # Templates have braces of their own.
            if found[1] == "tmp":
                return str(tmp)
            return str(getattr(self, found[1])) if hasattr(type(self), found[1]) else found[0]

        return [re.sub(r"\{(\w+)\}", value, flag) for flag in flags]


def run_script(script, flags):
    """(exit code, stdout, stderr) of a script's main()."""
    from paddlenlp.utils.log import logger

    main = importlib.import_module(script.removesuffix(".py")).main
    out, err, code = io.StringIO(), io.StringIO(), 0
    said = logger.handler.stream
    # Who is asked for prompts gives none.
    asked, sys.stdin = sys.stdin, io.StringIO("\n")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(flag) for flag in flags])
        except SystemExit as ended:
            code = ended.code
    sys.stdin = asked
    logger.handler.stream = said
    gc.collect()
    return code, out.getvalue(), err.getvalue()


def seen(script, flags, tmp):
    """{what there is to be seen of a run: value}; flags: filled in. tmp: where it writes."""
    tmp.mkdir(parents=True, exist_ok=True)
    batches = []
    with watched(batches):
        if script == "serve_generation.py":
            return served(flags)
        code, out, err = run_script(script, flags)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code in (0, 2), err
    said = (out + err).replace(str(tmp), "")
    lines = sorted({VOLATILE.sub("", line) for line in re.split(r"[\n\r]", said)})
    result = {"refusal": errors, "screen": lines, "batches": batches}
    texts = [line for line in out.splitlines() if line.startswith("{")] if not script.startswith("finetune") else []
    return {**result, "texts": texts, **of_files(tmp)}


@contextlib.contextmanager
def watched(batches):
    """While this lasts, note how many prompts are decoded together."""
    from glm.data import examples

    collate = examples.collate_prompts

    def counting(rows, *arguments):
        batches.append(len(rows))
        return collate(rows, *arguments)

    examples.collate_prompts = counting
    try:
        yield
    finally:
        examples.collate_prompts = collate


def of_files(tmp):
    """What the files of a run show."""
    files = sorted(path for path in tmp.rglob("*") if path.is_file() and ".lock" not in path.name)
    names = [re.sub(r"vdlrecords.*|\d{10,}.*|runs/.*", "log", str(path.relative_to(tmp))) for path in files]
    result = {"files": names, "checkpoints": [name for name in names if "checkpoint-" in name]}
    weights = [path for path in files if path.name.startswith(("model.", "lora_model", "adapter")) or
               path.suffix in (".pdiparams", ".safetensors", ".data")]  # fmt: skip
    weights = [path for path in weights if "checkpoint-" not in str(path.relative_to(tmp))]
    result["weights"] = [hashlib.sha256(path.read_bytes()).hexdigest() for path in weights]
    for path in files:
        if path.suffix == ".pdmodel" or path.name.endswith("generation_config.json"):
            result.setdefault("program", []).append(hashlib.sha256(path.read_bytes()).hexdigest())
        elif path.name == "predictions.jsonl":
            result["written"] = path.read_text(encoding="utf8")
        elif path.name == "all_results.json":
            scores = json.loads(path.read_text(encoding="utf8"))
            result["scores"] = sorted(name for name in scores if "runtime" not in name and "second" not in name)
        elif path.name == "metrics.jsonl":
            entries = read_lines(path)
            result["logged"] = [entry["step"] for entry in entries]
            result["figures"] = sorted({name for entry in entries for name in entry})
            result["rates"] = [entry["learning_rate"] for entry in entries if "learning_rate" in entry]
            result["evaluations"] = [entry["step"] for entry in entries if "eval_loss" in entry]
        elif path.name == "trainer_state.json" and path.parent.name == "out":
            state = json.loads(path.read_text(encoding="utf8"))
            result["steps"] = state["global_step"]
            result["best"] = [(state["best_model_checkpoint"] or "").split("/")[-1], state["best_metric"]]
    return result


def served(flags):
    """What a server with these flags answers, and where it listens."""
    import httpx

    import serve_generation
    from glm.command_line import parse
    from glm.errors import UserError
    from glm.inference.arguments import DecodingArguments
    from glm.serving.app import make_app

    arguments, decoding = parse((serve_generation.ServerArguments, DecodingArguments), list(map(str, flags)))
    with serve_generation.listen(arguments.host, arguments.port) as listener:
        address = listener.getsockname()
    asked = arguments.port if arguments.port != 8000 else "any"
    try:
        service = serve_generation.build(arguments, decoding)
    except UserError as error:
        return {"refusal": [str(error)]}
    service.engine.start()
    long = {"context": "甲在乙的西边。" * 12, "answer": "乙"}
    questions = [({"source": "你好"}, "localhost"), (long, "localhost"), ({"prompts": [long, long]}, "localhost")]
    questions.append(({"source": "你好"}, "example.org"))

    async def answers():
        transport = httpx.ASGITransport(make_app(service), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30) as client:
            while service.engine.state == "loading":
                await asyncio.sleep(0.01)
            return [await client.post("/generate", json=content, headers={"host": host}) for content, host in questions]

    try:
        found = asyncio.run(answers())
    finally:
        service.engine.close(10)
    texts = [re.sub(r'"id":"\w+"', "", answer.text) for answer in found if answer.status_code == 200]
    return {"texts": texts, "answers": [answer.status_code for answer in found], "address": [address[0], asked]}


def differs(one, other, what):
    """Whether two runs differ in what is seen under this name."""
    if what == "texts":
        return (one.get("texts"), one.get("written")) != (other.get("texts"), other.get("written"))
    return one.get(what) != other.get(what)
