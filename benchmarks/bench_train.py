"""A training step: stock paddlenlp on padded rows against ours on rows without padding.

    python benchmarks/bench_train.py --json

A model of 6 layers, hidden size 512, 8 heads, vocabulary 50048, dropout 0.1 and random weights takes steps of 8
examples (forward, backward, clipping, AdamW) whose lengths are drawn as DuReaderQG's are: sources around a median of
158 tokens with a 95th percentile of 450, targets around a median of 6 with at most 17. Stock paddlenlp gets each row
padded to 768 tokens, or to the longest of the batch. All sides have the same weights, data, threads and environment,
each in a process of its own, and take turns; so does a product of two matrices, whose speed bounds a step.

matmul_peak_share counts the products that real tokens need in all layers and target tokens in the head, three times
(forward, and backward twice as much), over the time of the step and the speed of the product.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import glm.runtime  # noqa: F401  sets what paddle reads when it is imported

import ctypes
from contextlib import ExitStack

import numpy as np
from bench_decode import SMALL, save_model, stock_model
from measuring import Figure, Worker, alternated, machine, parser, prepared_directory, report, seconds, serve

from glm.data import examples, templates
from glm.weights import model_directory

EXAMPLES, FIXED, DROPOUT, BATCHES = 8, 768, 0.1, 2
MATRIX = 2048
# Steps before the first that is timed, of which one more is not counted: until memory has been asked for once.
WARM_UP = {"stock": 0, "stock_dynamic": 1, "ours": 8, "product": 8}
CLS, MASK, EOS, SOP = 50002, 50009, 50000, 50006

REPORT = """
| Side | seconds a step | examples a second | real tokens a second | peak memory, MiB |
|---|---|---|---|---|
| stock paddlenlp, rows of 768 | {stock_seconds_a_step} | {stock_examples_per_second} | {stock_real_tokens_per_second} | {stock_peak_mib} |
| stock paddlenlp, padded to the longest | {stock_dynamic_seconds_a_step} | {stock_dynamic_examples_per_second} | {stock_dynamic_real_tokens_per_second} | {stock_dynamic_peak_mib} |
| ours | {ours_seconds_a_step} | {ours_examples_per_second} | {ours_real_tokens_per_second} | {ours_peak_mib} |

| Key | Figure |
|---|---|
| `examples_vs_stock` | {examples_vs_stock} |
| `examples_vs_stock_dynamic` | {examples_vs_stock_dynamic} |
| `peak_memory_vs_stock` | {peak_memory_vs_stock} |
| `matmul_gigaflops` | {matmul_gigaflops} |
| `matmul_peak_share` | {matmul_peak_share} |
"""  # noqa: E501


def lengths(number):
    """(source, target) tokens of the examples of batch `number`: lognormal sources, targets of 3 to 17."""
    rng = np.random.default_rng(number)
    source = np.exp(rng.normal(np.log(158), np.log(450 / 158) / 1.645, EXAMPLES))
    target = 1 + rng.binomial(16, 0.32, EXAMPLES)
    return list(zip(np.clip(source, 16, 608).astype(int), np.clip(target, 3, 17).astype(int), strict=True))


def row(seed, source, target):
    """An examples.Encoded of random pieces."""
    rng = np.random.default_rng(100 + seed)
    source_ids = np.array([CLS, *rng.integers(0, 50000, source - 3), MASK, EOS])
    return examples.Encoded(templates.Example("", "", ""), source_ids, rng.integers(0, 50000, target), source, target)


def rows(number):
    """The examples of batch `number`."""
    return [row(number, *pair) for pair in lengths(number)]


def gigaflop(number):
    """What the products of a step need for the real tokens of batch `number`; see the top of this file."""
    hidden, layers = SMALL["hidden_size"], SMALL["num_layers"]
    totals = [sum(pair) for pair in lengths(number)]
    linear = 2 * 12 * layers * hidden**2 * sum(totals)
    attention = 4 * layers * hidden * sum(total**2 for total in totals)
    head = 2 * hidden * SMALL["vocab_size"] * sum(target for _, target in lengths(number))
    return 3 * (linear + attention + head) / 1e9


def optimizer_of(model, kind, clip):
    """AdamW of a kind, paddle's or ours, over all parameters."""
    return kind(1e-5, parameters=model.parameters(), weight_decay=0.01, grad_clip=clip)


def config_with_dropout(directory):
    """The GLMConfig of the benchmark's model."""
    config = model_directory.load_config(directory)
    for name in ("embedding", "attention", "output"):
        setattr(config, f"{name}_dropout_prob", DROPOUT)
    return config


def stock_side(directory, length):
    """A step by paddlenlp's model on rows of `length` tokens, 0 for the longest row's."""
    import paddle

    model = stock_model(config_with_dropout(directory), directory)
    model.train()
    optimizer = optimizer_of(model, paddle.optimizer.AdamW, paddle.nn.ClipGradByGlobalNorm(1.0))

    def padded(array, width, value):
        widths = [(0, 0)] * (array.ndim - 1) + [(0, width - array.shape[-1])]
        return np.pad(array, widths, constant_values=value)

    def step(batch, number):
        arrays = examples.collate_padded(batch, EOS, SOP)
        width = length or arrays["input_ids"].shape[1]
        mask = examples.attention_mask(arrays["source_length"], width).astype("int64")
        labels = padded(arrays["labels"], width, examples.IGNORED_LABEL)
        loss = model(
            paddle.to_tensor(padded(arrays["input_ids"], width, EOS)),
            paddle.to_tensor(padded(arrays["position_ids"], width, 0)),
            paddle.to_tensor(mask),
            labels=paddle.to_tensor(np.maximum(labels, 0)),
            loss_mask=paddle.to_tensor((labels >= 0).astype("float32")),
        )[0]
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()

    return step


def our_side(directory, recompute=False, lora=None):
    """A step by our model, or of the LoRA adapter that a LoraConfig describes. Steps take examples.Encoded rows and a
    number for the draws."""
    import paddle

    from glm.model.dropout import Noise
    from glm.model.lora import add_lora
    from glm.ops.strides import without_views
    from glm.training.optimization import AdamW, GlobalNormClip

    model = model_directory.load_model(directory)
    for layer in model.sublayers():
        if isinstance(layer, paddle.nn.Dropout):
            layer.p = DROPOUT
    if lora:
        add_lora(model, lora)
    model.train()
    optimizer = optimizer_of(model, AdamW, GlobalNormClip(1.0))
    model.glm.transformer.enable_recompute = recompute

    def step(batch, number):
        tensors = {name: paddle.to_tensor(array) for name, array in examples.collate(batch, SOP).items()}
        with without_views():
            model(**tensors, divisor=float(len(tensors["labels"])), noise=Noise(1, number)).backward()
        optimizer.step()
        optimizer.clear_grad()

    return step


def product_side(directory):
    """A product of two square matrices."""
    import paddle

    matrix = paddle.ones([MATRIX, MATRIX])
    return lambda examples, number: paddle.matmul(matrix, matrix)


SIDES = {
    "stock": lambda directory: stock_side(directory, FIXED),
    "stock_dynamic": lambda directory: stock_side(directory, 0),
    "ours": our_side,
    "product": product_side,
}


def work(side, directory):
    """Serve requests {number} of a side."""
    if side == "prepare":
        return serve(lambda: save_model(directory, SMALL) or {})
    step = SIDES[side](directory)
    for number in range(WARM_UP[side]):
        step(rows(number % BATCHES), number)

    def answer(number):
        examples = rows(number)
        taken = seconds(lambda: step(examples, number))
        if side != "ours":
            release_freed_memory()
        return {"seconds": taken}

    return serve(answer)


def release_freed_memory():
    """Give freed memory back to the system. Kept, as runtime wants it, stock's would fill 24 GB within some steps."""
    ctypes.CDLL(None).malloc_trim(0)


def peak_memory(side, directory, steps):
    """Peak memory in MiB of a process that takes a number of steps."""
    with Worker(__file__, side, "--directory", directory) as worker:
        return max(worker.ask(number=number % BATCHES)["peak_mib"] for number in range(steps))


def summary(times):
    """The figures of the report from seconds [repeats] by (side, batch). Ratios are of the times of one repeat."""
    total = {side: sum(times[side, number] for number in range(BATCHES)) for side, _ in times}
    tokens = sum(sum(map(sum, lengths(number))) for number in range(BATCHES))
    # The fastest that was seen: what disturbs a product of milliseconds only makes it slower.
    peak = 2 * MATRIX**3 / min(times["product", number].min() for number in range(BATCHES)) / 1e9
    results = {"real_tokens_a_step": round(tokens / BATCHES), "matmul_gigaflops": Figure(peak)}
    for side in ("stock", "stock_dynamic", "ours"):
        results[f"{side}_seconds_a_step"] = Figure(total[side] / BATCHES, 2)
        results[f"{side}_examples_per_second"] = Figure(EXAMPLES * BATCHES / total[side], 2)
        results[f"{side}_real_tokens_per_second"] = Figure(tokens / total[side])
    results["examples_vs_stock"] = Figure(total["stock"] / total["ours"], 1)
    results["examples_vs_stock_dynamic"] = Figure(total["stock_dynamic"] / total["ours"], 2)
    needed = sum(gigaflop(number) for number in range(BATCHES))
    results["matmul_peak_share"] = Figure(needed / total["ours"] / peak, 3)
    return results


def main():
    """Compare the sides and report."""
    arguments = parser(__doc__).parse_args()
    if arguments.worker:
        return work(arguments.worker, arguments.directory)
    print(machine())
    with prepared_directory(__file__) as directory:
        requests = {side: {number: {"number": number} for number in range(BATCHES)} for side in SIDES}
        with ExitStack() as running:
            workers = {side: running.enter_context(Worker(__file__, side, "--directory", directory)) for side in SIDES}
            results = summary(alternated(workers, requests, arguments.repeats))
        for side in ("stock", "stock_dynamic", "ours"):
            results[f"{side}_peak_mib"] = round(peak_memory(side, directory, 8 * BATCHES if side == "ours" else 1))
    results["peak_memory_vs_stock"] = round(results["ours_peak_mib"] / results["stock_peak_mib"], 3)
    return report(results, arguments, __file__, REPORT)


if __name__ == "__main__":
    main()
