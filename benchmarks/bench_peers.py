"""What a user might take instead: CTranslate2, llama.cpp and PyTorch, beside the ONNX programs, in GLM-Large's shape.

    python benchmarks/bench_peers.py --json --peers .venv-peers/bin/python

The others have no GLM: they run a GPT-2 of the same numbers (24 layers, hidden size 1024, 16 heads, vocabulary 50048)
with random weights, which computes the same products. Prompts of 257 tokens, alone and eight together: the time to the
first token, and a step. All take turns, each in a process of its own with the same number of threads. --peers is a
Python that has their packages (`make bench-peers` makes one); a package that it does not have is left out.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import glm.runtime  # noqa: F401  sets what libraries read when they are imported

import os
import subprocess
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

SHAPE = {"num_layers": 24, "hidden_size": 1024, "num_attention_heads": 16, "vocab_size": 50048}
SOURCE, NEW, POSITIONS = 257, 32, 1025
# By side: what it is called, the packages that it takes, and the bytes that one of its weights has.
PEERS = {
    "ctranslate2": ("CTranslate2, int8", "ctranslate2", 1),
    "ctranslate2_float32": ("CTranslate2, float32", "ctranslate2", 4),
    "llama": ("llama.cpp, q8_0", "llama_cpp gguf", 34 / 32),
    "torch": ("PyTorch (transformers), float32", "torch transformers", 4),
}
OURS = {
    "int8": ("ours, ONNX with `--dtype int8`", "", 1),
    # Of 4 bits are matrices alone, with a scale and a zero point for 32 numbers; the head has 8.
    "int4": ("ours, ONNX with `--dtype int4`", "", 0.69),
    "onnx": ("ours, ONNX, float32", "", 4),
}
SIDES = OURS | PEERS
THREADS = int(os.environ["OMP_NUM_THREADS"])
COLUMNS = ("first", "step", "bandwidth", "peak", "first8", "step8", "memory")
ROWS = "\n".join(
    f"| {title} | " + " | ".join(f"{{{side}_{column}}}" for column in COLUMNS) + " |"
    for side, (title, _, _) in SIDES.items()
)
REPORT = f"""
| Side | first token, ms | step, ms | of the copying bandwidth | of NumPy's product \
| 8 prompts: first, ms a prompt | step, ms | peak, MiB |
|---|---|---|---|---|---|---|---|
{ROWS}

| Key | Figure |
|---|---|
| `first_token_vs_ctranslate2`: CTranslate2's int8 over ours | {{first_token_vs_ctranslate2}} |
| `step_vs_ctranslate2`, `step_vs_llama` | {{step_vs_ctranslate2}}, {{step_vs_llama}} |
| copying memory, GB/s; NumPy's float32 product, GFLOP/s | {{copy}}, {{product}} |
"""


def random_weights():
    """A function shape → float32 array of small random numbers."""
    rng = np.random.default_rng(1)
    return lambda *shape: np.float32(0.02) * rng.standard_normal(shape, dtype="float32")


def prepare_ours(directory):
    """Write the model and its ONNX programs."""
    import bench_file

    bench_file.PROGRAMS.pop("program")
    bench_file.prepare(directory)


def prepare_ctranslate2(directory):
    """Write a GPT-2 for CTranslate2, in both dtypes."""
    import ctranslate2

    random, hidden = random_weights(), SHAPE["hidden_size"]
    for name, quantization in (("ctranslate2", "int8"), ("ctranslate2_float32", None)):
        spec = ctranslate2.specs.TransformerDecoderModelSpec.from_config(
            SHAPE["num_layers"],
            SHAPE["num_attention_heads"],
            pre_norm=True,
            activation=ctranslate2.specs.Activation.GELUTanh,
        )
        decoder = spec.decoder
        decoder.scale_embeddings = False
        decoder.embeddings.weight = decoder.projection.weight = random(SHAPE["vocab_size"], hidden)
        decoder.position_encodings.encodings = random(POSITIONS, hidden)
        linears, norms = [], [decoder.layer_norm]
        for layer in decoder.layer:
            linears += [(layer.self_attention.linear[0], 3 * hidden, hidden)]
            linears += [(layer.self_attention.linear[1], hidden, hidden)]
            linears += [(layer.ffn.linear_0, 4 * hidden, hidden), (layer.ffn.linear_1, hidden, 4 * hidden)]
            norms += [layer.self_attention.layer_norm, layer.ffn.layer_norm]
        for linear, out, width in linears:
            linear.weight, linear.bias = random(out, width), random(out)
        for norm in norms:
            norm.gamma, norm.beta = np.ones(hidden, "float32"), np.zeros(hidden, "float32")
        spec.register_vocabulary([f"t{number}" for number in range(SHAPE["vocab_size"])])
        spec.config.unk_token = spec.config.bos_token = spec.config.eos_token = "t0"
        spec.validate()
        spec.optimize(quantization=quantization)
        (Path(directory) / name).mkdir()
        spec.save(str(Path(directory) / name))


def prepare_llama(directory):
    """Write a GPT-2 for llama.cpp."""
    import gguf

    random, hidden = random_weights(), SHAPE["hidden_size"]
    writer = gguf.GGUFWriter(str(Path(directory) / "llama.gguf"), "gpt2")
    writer.add_block_count(SHAPE["num_layers"])
    writer.add_context_length(POSITIONS)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(4 * hidden)
    writer.add_head_count(SHAPE["num_attention_heads"])
    writer.add_layer_norm_eps(1e-5)
    writer.add_vocab_size(SHAPE["vocab_size"])
    writer.add_tokenizer_model("none")

    def add(name, array):
        if array.ndim == 2 and "position" not in name:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, array)

    add("token_embd.weight", random(SHAPE["vocab_size"], hidden))
    add("position_embd.weight", random(POSITIONS, hidden))
    add("output_norm.weight", np.ones(hidden, "float32"))
    add("output_norm.bias", np.zeros(hidden, "float32"))
    for layer in range(SHAPE["num_layers"]):
        for name, out, width in (
            ("attn_qkv", 3 * hidden, hidden),
            ("attn_output", hidden, hidden),
            ("ffn_up", 4 * hidden, hidden),
            ("ffn_down", hidden, 4 * hidden),
        ):
            add(f"blk.{layer}.{name}.weight", random(out, width))
            add(f"blk.{layer}.{name}.bias", random(out))
        for name in ("attn_norm", "ffn_norm"):
            add(f"blk.{layer}.{name}.weight", np.ones(hidden, "float32"))
            add(f"blk.{layer}.{name}.bias", np.zeros(hidden, "float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tokens_of(prompts):
    """Token numbers of prompts, [prompts, SOURCE]."""
    return np.random.default_rng(prompts).integers(1, 50000, [prompts, SOURCE])


def ours_side(side, directory):
    """A function (prompts, new) that decodes by a program."""
    import bench_file

    decode = bench_file.engine_of(side, directory)
    return lambda prompts, new: decode(bench_file.prompts_of(np.full(prompts, SOURCE)), bench_file.decoding(1, new))


def ctranslate2_side(side, directory):
    """The same by CTranslate2."""
    import ctranslate2

    generator = ctranslate2.Generator(str(Path(directory) / side), inter_threads=1, intra_threads=THREADS)

    def decode(prompts, new):
        tokens = [[f"t{token}" for token in row] for row in tokens_of(prompts)]
        generator.generate_batch(
            tokens, max_length=new, min_length=new, sampling_topk=1, include_prompt_in_result=False
        )

    return decode


def llama_side(side, directory):
    """The same by llama.cpp, one prompt after the other."""
    import llama_cpp

    model = llama_cpp.Llama(
        str(Path(directory) / "llama.gguf"),
        n_ctx=POSITIONS - 1,
        n_batch=512,
        n_threads=THREADS,
        n_threads_batch=THREADS,
        verbose=False,
    )

    def decode(prompts, new):
        for row in tokens_of(prompts).tolist():
            model.reset()
            model.eval(row)
            for _ in range(new - 1):
                model.eval([int(np.argmax(model.scores[-1]))])

    return decode


def torch_side(side, directory):
    """The same by PyTorch."""
    import torch
    import transformers

    torch.set_num_threads(THREADS)
    config = transformers.GPT2Config(
        vocab_size=SHAPE["vocab_size"],
        n_positions=POSITIONS,
        n_embd=SHAPE["hidden_size"],
        n_layer=SHAPE["num_layers"],
        n_head=SHAPE["num_attention_heads"],
        eos_token_id=None,
        bos_token_id=None,
    )
    model = transformers.GPT2LMHeadModel(config).eval()

    def decode(prompts, new):
        ids = torch.as_tensor(tokens_of(prompts))
        with torch.inference_mode():
            model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False)

    return decode


OPENED = {"ctranslate2": ctranslate2_side, "ctranslate2_float32": ctranslate2_side, "llama": llama_side}
OPENED |= {"torch": torch_side, **dict.fromkeys(OURS, ours_side)}
PREPARED = {"prepare": prepare_ours, "prepare_ctranslate2": prepare_ctranslate2, "prepare_llama": prepare_llama}


def work(side, directory):
    """Serve requests {prompts, new} of a side."""
    if side in PREPARED:
        return serve(lambda: PREPARED[side](directory) or {})
    if side == "copy":
        copy, size = array_copier()
        return serve(lambda: {"seconds": seconds(copy) / size})
    if side == "product":
        matrix = np.random.default_rng(0).standard_normal([2048, 2048], dtype="float32")
        return serve(lambda: {"seconds": seconds(lambda: matrix @ matrix) / (2 * 2048**3)})
    decode = OPENED[side](side, directory)
    return serve(lambda prompts, new, times=1: {"seconds": seconds(lambda: decode(prompts, new), times)})


def has(python, packages):
    """Whether a Python has some packages."""
    code = "".join(f"import {package}\n" for package in packages.split())
    return bool(python) and subprocess.run([python, "-c", code], capture_output=True).returncode == 0


def summary(times, sides):
    """Figures of seconds [repeats] by (side, request)."""
    results = {
        "copy": Figure(1e-9 / times["copy", "copy"], 1),
        "product": Figure(1e-9 / times["product", "product"]),
    }
    layers, hidden = SHAPE["num_layers"], SHAPE["hidden_size"]
    matrices, head = 12 * layers * hidden**2, SHAPE["vocab_size"] * hidden
    steps = {}
    for side in sides:
        first = times[side, "first"]
        steps[side] = (times[side, "whole"] - first) / (NEW - 1)
        results[f"{side}_first"] = Figure(1000 * first)
        results[f"{side}_step"] = Figure(1000 * steps[side], 1)
        read = (matrices + head) * SIDES[side][2] / steps[side]
        results[f"{side}_bandwidth"] = Figure(read * times["copy", "copy"], 2)
        computed = (2 * matrices * SOURCE + 2 * head) / first
        results[f"{side}_peak"] = Figure(computed * times["product", "product"], 2)
        results[f"{side}_first8"] = Figure(1000 * times[side, "first8"] / 8)
        results[f"{side}_step8"] = Figure(1000 * (times[side, "whole8"] - times[side, "first8"]) / (NEW - 1))
    for name, peer in (("ctranslate2", "ctranslate2"), ("llama", "llama")):
        if peer in sides:
            results[f"step_vs_{name}"] = Figure(steps[peer] / steps["int8"], 2)
            results[f"first_token_vs_{name}"] = Figure(times[peer, "first"] / times["int8", "first"], 2)
    return results


def main():
    """Measure every side that is there and report."""
    arguments = parser(__doc__)
    arguments.add_argument("--peers", default=sys.executable, help="a Python that has the others' packages")
    arguments = arguments.parse_args()
    if arguments.worker:
        return work(arguments.worker, arguments.directory)
    print(machine())
    sides = [side for side, (_, packages, _) in SIDES.items() if side in OURS or has(arguments.peers, packages)]
    requests = {"first": (1, 1), "whole": (1, NEW), "first8": (8, 1), "whole8": (8, NEW)}
    requests = {name: {"prompts": prompts, "new": new} for name, (prompts, new) in requests.items()}
    requests["first"]["times"] = 5
    with prepared_directory(__file__) as directory, ExitStack() as stack:

        def worker(side):
            python = sys.executable if side in (*OURS, "copy", "product") else arguments.peers
            return Worker(__file__, side, "--directory", directory, python=python)

        for kind in ("ctranslate2", "llama"):
            if kind in sides:
                with worker(f"prepare_{kind}") as preparing:
                    preparing.ask()
        workers = {side: stack.enter_context(worker(side)) for side in ("copy", "product", *sides)}
        asked = {"copy": {"copy": {}}, "product": {"product": {}}, **dict.fromkeys(sides, requests)}
        results = summary(alternated(workers, asked, arguments.repeats), sides)
        for side in sides:
            results[f"{side}_memory"] = round(workers[side].ask(prompts=1, new=1)["peak_mib"])
    return report(results, arguments, __file__, REPORT)


if __name__ == "__main__":
    main()
