"""Decoding: stock paddlenlp's generate() against ours, eagerly and exported.

    python benchmarks/bench_decode.py --json

A model of 6 layers, hidden size 512, 8 heads, vocabulary 50048 and random weights decodes 2 prompts to 160 new tokens
by greedy search and with 5 beams. Exported it is run by Paddle Inference, FastDeploy and, with float32 and with 8-bit
weights, onnxruntime. All sides have the same weights, threads and environment, each in a process of its
own, and take turns; so does copying memory, whose speed bounds a step. Stock paddlenlp is timed on fewer tokens
(--stock_tokens): its time for 160 is that of the first plus 159 times that of a later one, which flatters it, since its
steps grow slower with every token.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import glm.runtime  # noqa: F401  sets what paddle reads when it is imported

import argparse
import importlib.util
from contextlib import ExitStack

import numpy as np
from measuring import (
    Figure,
    Worker,
    alternated,
    array_copier,
    machine,
    parser,
    prepared_directory,
    report,
    seconds,
    serve,
)
from safetensors.numpy import load_file, save_file

from glm.decoding import generation_config
from glm.decoding.generation_config import GenerationConfig, SpecialIds
from glm.export import program, runners
from glm.files.atomic import replaced_files
from glm.model.configuration import GLMConfig
from glm.weights import model_directory
from glm.weights.stored_weights import CONFIG_FILE, write_json
from glm.weights.weight_sources import SAFETENSORS

SMALL = {"num_layers": 6, "hidden_size": 512, "num_attention_heads": 8, "vocab_size": 50048, "attention_scale": 8.0}
LARGE = {"num_layers": 24, "hidden_size": 1024, "num_attention_heads": 16, "vocab_size": 50048}
BATCH, NEW, BEAMS, SOURCES = 2, 160, 5, (64, 257, 608)
SPECIAL = SpecialIds(sop=50006, eop=50007, pad=50000, banned=(50000, 50002, 50006, 50009))

# Exports by the prefix of their files: format and dtype.
EXPORTS = {
    "beams": ("paddle", "float32"),
    "int8_": ("paddle", "int8"),
    "onnx": ("onnx", "float32"),
    "onnx_int8_": ("onnx", "int8"),
}
REPORT = """
Milliseconds a token of each prompt's text:

| Side | greedy 64 | 257 | 608 | 5 beams 64 | 257 | 608 |
|---|---|---|---|---|---|---|
{TIMES}

| Key | Figure |
|---|---|
{KEYS}
| peak memory in MiB with 5 beams at 608: stock | {beam5_608_stock_peak_mib} |
| ours in Python, exported | {beam5_608_eager_peak_mib}, {beam5_608_exported_peak_mib} |
| ONNX, ONNX with int8 | {beam5_608_onnx_peak_mib}, {beam5_608_onnx_int8_peak_mib} |
"""
TITLES = {
    "stock": "stock paddlenlp",
    "eager": "ours, in Python",
    "exported": "ours, exported, Paddle Inference",
    "fastdeploy": "ours, exported, FastDeploy",
    "onnx": "ours, ONNX, onnxruntime",
    "onnx_int8": "ours, ONNX with `--dtype int8`, onnxruntime",
}


def decoding(beams, new):
    """The GenerationConfig of a run: exactly `new` tokens."""
    return GenerationConfig(max_new_tokens=new, min_new_tokens=new - 1, num_beams=beams, length_penalty=0.0)


def random_prompts(source):
    """BATCH prompts of `source` tokens, as arrays by name."""
    ids = np.random.default_rng(source).integers(0, 50000, [BATCH, source])
    mask = np.ones([BATCH, source], "float32")
    return {"input_ids": ids, "source_mask": mask, "mask_index": np.full([BATCH], source - 2)}


def save_model(directory, shape):
    """Write a model of a shape with random weights."""
    config = GLMConfig(**shape, max_sequence_length=1024)
    write_json(config.as_dict(), Path(directory, CONFIG_FILE))
    rng, weights = np.random.default_rng(1), {}
    for name, parameter in model_directory.empty_model(config).named_parameters():
        centre = float("layernorm.weight" in name)
        weights[name] = centre + np.float32(0.02) * rng.standard_normal(parameter.shape, dtype="float32")
    save_file(weights, Path(directory) / SAFETENSORS)


def prepare(directory, shape=SMALL):
    """Write a model of a shape, and the programs exported from it."""
    save_model(directory, shape)
    for beams in (1, BEAMS):
        config = decoding(beams, NEW)
        for start, (kind, dtype) in EXPORTS.items():
            prefix = f"{start}{beams}"
            with replaced_files(directory, {}, program.manifest_name(prefix)) as workshop:
                model = model_directory.load_model(directory)
                program.write(model, SPECIAL, config, workshop, prefix, dtype, kind)


def stock_model(config, directory):
    """paddlenlp's own model with the weights in a directory."""
    from paddlenlp import transformers

    model = transformers.GLMForConditionalGeneration(transformers.GLMConfig(**vars(config), output_predict=True))
    missing, unexpected = model.set_state_dict(load_file(Path(directory) / SAFETENSORS))
    assert not missing + unexpected
    return model


def stock_side(directory, beams):
    """A function that decodes by paddlenlp, with any number of beams."""
    import paddle

    model = stock_model(model_directory.load_config(directory), directory)
    model.eval()

    def decode(source, beams, new):
        prompts, total = random_prompts(source), source + new
        ids = np.concatenate([prompts["input_ids"], np.full([BATCH, 1], SPECIAL.sop)], axis=1)
        positions = np.zeros([BATCH, 2, total], "int64")
        positions[:, 0, :source] = np.arange(source)
        positions[:, 0, source:] = source - 2
        positions[:, 1, source:] = np.arange(1, new + 1)
        mask = np.ones([BATCH, 1, total, total], "int64")
        mask[:, 0, :, source:] = np.tril(np.ones([total, total], "int64"))[:, source:]
        model.generate(
            paddle.to_tensor(ids),
            position_ids=paddle.to_tensor(positions),
            attention_mask=paddle.to_tensor(mask),
            max_new_tokens=new,
            min_new_tokens=new - 1,
            eos_token_id=SPECIAL.eop,
            pad_token_id=SPECIAL.pad,
            decode_strategy="beam_search" if beams > 1 else "greedy_search",
            num_beams=beams,
            length_penalty=0.0,
        )

    return decode


def eager_side(directory, beams):
    """A function that decodes by our model in Python, with one of the numbers of `beams`."""
    from glm.decoding.decoder import Decoder, run

    model = model_directory.load_model(directory)
    decoders = {count: Decoder(model, decoding(count, NEW), SPECIAL) for count in beams}
    return lambda source, beams, new: run(decoders[beams], random_prompts(source), decoding(beams, new))


def exported_side(directory, beams, runtime_name, prefix="beams"):
    """A function that decodes by exported programs, with one of the numbers of `beams`."""
    opened = {
        count: runners.open_program(program.describe(directory, f"{prefix}{count}"), runtime_name) for count in beams
    }
    return lambda source, beams, new: opened[beams](
        generation_config.feeds(random_prompts(source), decoding(beams, new))
    )


SIDES = {
    "stock": stock_side,
    "eager": eager_side,
    "exported": lambda directory, beams: exported_side(directory, beams, "paddle"),
    "exported_int8": lambda directory, beams: exported_side(directory, beams, "paddle", "int8_"),
    "fastdeploy": lambda directory, beams: exported_side(directory, beams, "fastdeploy"),
    "onnx": lambda directory, beams: exported_side(directory, beams, "onnx", "onnx"),
    "onnx_int8": lambda directory, beams: exported_side(directory, beams, "onnx", "onnx_int8_"),
}


def available(*sides):
    """Those of some sides that can run here."""
    return [side for side in sides if side != "fastdeploy" or importlib.util.find_spec("fastdeploy")]


def work(side, directory, beams):
    """Serve requests {source, beams, new} of a side."""
    if side == "copy":
        copy, size = array_copier()
        return serve(lambda: {"seconds": seconds(copy) / size})
    if side == "prepare":
        return serve(lambda: prepare(directory) or {})
    decode = SIDES[side](directory, beams)
    return serve(lambda **request: {"seconds": seconds(lambda: decode(**request))})


def cases(stock_tokens):
    """{side: {(source, beams, new): request}} to be timed."""
    shapes = [(source, beams) for beams in (1, BEAMS) for source in SOURCES]
    result = {"copy": {number: {} for number in range(5)}}
    for side in available(*TITLES):
        lengths = (2, stock_tokens) if side == "stock" else (2, NEW)
        result[side] = {
            (source, beams, new): {"source": source, "beams": beams, "new": new}
            for source, beams in shapes
            for new in lengths
        }
    return result


def bytes_of_a_step(source):
    """Bytes that a greedy step has to read, half way: all matrices once, keys and values of both prompts."""
    hidden, layers = SMALL["hidden_size"], SMALL["num_layers"]
    weights = 4 * (12 * layers * hidden**2 + SMALL["vocab_size"] * hidden)
    return weights + 4 * BATCH * (source + NEW // 2) * 2 * layers * hidden


def summary(times, stock_tokens):
    """The figures of the report from seconds [repeats] by (side, (source, beams, new)), and for copying a byte by
    ("copy", number). Ratios are of the times of one repeat."""
    bandwidth = 1 / np.median([times.pop(("copy", number)) for number in range(5)], axis=0)
    sides = [side for side in TITLES if any(key[0] == side for key in times)]

    def milliseconds_a_token(side, source, beams):
        most = stock_tokens if side == "stock" else NEW
        return (times[side, (source, beams, most)] - times[side, (source, beams, 2)]) / (most - 2) * 1e3

    def total(side, source, beams):
        if side != "stock":
            return times[side, (source, beams, NEW)]
        return times[side, (source, beams, 2)] + (NEW - 2) * milliseconds_a_token(side, source, beams) / 1e3

    def ratio(slow, fast, source, beams):
        return Figure(total(slow, source, beams) / total(fast, source, beams), 2)

    results = {}
    for side in sides:
        for beams, source in ((beams, source) for beams in (1, BEAMS) for source in SOURCES):
            name = f"{side}_{'greedy' if beams == 1 else f'beam{beams}'}_{source}"
            results[f"{name}_ms_a_token"] = Figure(milliseconds_a_token(side, source, beams), 1)
            results[f"{name}_tokens_per_second"] = Figure(BATCH * NEW / total(side, source, beams), 1)
    results["copy_bandwidth_gb"] = Figure(bandwidth / 1e9, 1)
    ideal = bytes_of_a_step(608) / bandwidth * 1e3
    results["bandwidth_share"] = Figure(ideal / milliseconds_a_token("eager", 608, 1), 3)
    results["greedy_64_vs_stock"] = ratio("stock", "eager", 64, 1)
    results["greedy_608_vs_stock"] = ratio("stock", "eager", 608, 1)
    results["beam5_608_vs_stock"] = ratio("stock", "eager", 608, BEAMS)
    for side in sides:
        if side not in ("stock", "eager"):
            results[f"{side}_vs_eager"] = ratio("eager", side, 608, 1)
            results[f"{side}_vs_eager_beam5"] = ratio("eager", side, 608, BEAMS)
    return results


def tables(results):
    """REPORT with a row for each side and for each key."""
    columns = [f"{search}_{source}" for search in ("greedy", f"beam{BEAMS}") for source in SOURCES]
    rows = [
        f"| {title} | " + " | ".join(f"{{{side}_{column}_ms_a_token}}" for column in columns) + " |"
        for side, title in TITLES.items()
    ]
    keys = [name for name in results if "_vs_" in name or "bandwidth" in name]
    keys = [f"| `{name}` | {{{name}}} |" for name in keys]
    return REPORT.replace("{TIMES}", "\n".join(rows)).replace("{KEYS}", "\n".join(keys))


def peak_memory(directory):
    """Peak memory in MiB of a process that decodes with beams once, prompts of 608: stock 4 tokens, ours all."""
    results = {}
    for side, new in (("stock", 4), ("eager", NEW), ("exported", NEW), ("onnx", NEW), ("onnx_int8", NEW)):
        with Worker(__file__, side, "--directory", directory, "--beams", BEAMS) as worker:
            answer = worker.ask(source=608, beams=BEAMS, new=new)
        results[f"beam5_608_{side}_peak_mib"] = round(answer["peak_mib"])
    return results


def main():
    """Compare the sides and report."""
    flags = parser(__doc__)
    flags.add_argument("--stock_tokens", type=int, default=12, help="tokens that stock is timed on (default: 12)")
    flags.add_argument("--beams", type=int, help=argparse.SUPPRESS)
    arguments = flags.parse_args()
    if arguments.worker:
        return work(arguments.worker, arguments.directory, [arguments.beams] if arguments.beams else [1, BEAMS])
    print(machine())
    with prepared_directory(__file__) as directory:
        requests = cases(arguments.stock_tokens)
        with ExitStack() as running:
            workers = {
                side: running.enter_context(Worker(__file__, side, "--directory", directory)) for side in requests
            }
            times = alternated(workers, requests, arguments.repeats)
        results = {**peak_memory(directory), **summary(times, arguments.stock_tokens)}
    return report(results, arguments, __file__, tables(results))


if __name__ == "__main__":
    main()
