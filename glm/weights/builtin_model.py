"""glm-tiny-chinese: a GLM small enough to train on a laptop's CPU, built on the spot from demo/ with a fixed seed.

The tokenizer is a sentencepiece model trained on the texts of demo/; the weights are random. Both are made by numpy and
sentencepiece alone, so that they are the same everywhere, and kept in a directory named after what they are made of.
"""

import hashlib
import io
import json
import math
from pathlib import Path

import numpy as np

from glm.cache import ROOT, own_cache_directory
from glm.data import tokenization
from glm.files.cached import cached

NAME = "glm-tiny-chinese"
SEED = 20220301
PIECES = 2550  # with the ten special pieces 2560 rows of embeddings
CONFIG = {
    "architectures": ["GLMForConditionalGeneration"],
    "model_type": "glm",
    "num_layers": 2,
    "hidden_size": 96,
    "num_attention_heads": 4,
    "vocab_size": 2560,
    "max_sequence_length": 1024,
    "embedding_dropout_prob": 0.0,
    "attention_dropout_prob": 0.0,
    "output_dropout_prob": 0.0,
    "initializer_range": 0.02,
    "layernorm_epsilon": 1e-5,
    "attention_scale": 1.0,
    "block_position_encoding": True,
    "output_predict": True,
}


def build(cache_dir=None):
    """Directory of glm-tiny-chinese, built if it is not there yet.

    cache_dir: see glm.cache.
    """
    corpus = demo_texts()
    recipe = json.dumps([corpus, Path(__file__).read_text(encoding="utf8")], ensure_ascii=False).encode("utf8")
    target = own_cache_directory(cache_dir) / f"{NAME}-{hashlib.sha256(recipe).hexdigest()[:12]}"

    def make(directory):
        train_tokenizer(corpus, directory)
        write_model(directory)

    return cached(target, make)


def demo_texts():
    """All texts of demo/, in a fixed order."""
    texts = []
    for path in sorted((ROOT / "demo").glob("*/train.json")):
        for line in path.read_text(encoding="utf8").split("\n")[:-1]:
            texts += [value for value in json.loads(line).values() if isinstance(value, str) and value]
    return texts


def train_tokenizer(texts, directory):
    """Train a sentencepiece model on texts and write it as a GLM tokenizer directory."""
    import sentencepiece

    # Not model_prefix: the model would record the path it is written to.
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=PIECES,
        # Pieces of one character only would be the safest to copy; unigram keeps the frequent words, too.
        model_type="unigram",
        max_sentencepiece_length=4,
        character_coverage=1.0,
        split_digits=True,
        user_defined_symbols=["<n>"],
        num_threads=1,
        minloglevel=2,
    )
    (Path(directory) / tokenization.MODEL_FILE).write_bytes(model.getvalue())
    tokenization.complete(directory)


def write_model(directory):
    """Write config.json and random weights in paddlenlp's names and layout."""
    from safetensors.numpy import save_file

    text = json.dumps(CONFIG, ensure_ascii=False, indent=2)
    (Path(directory) / "config.json").write_text(text + "\n", encoding="utf8")
    weights_file = Path(directory) / "model.safetensors"
    save_file(random_weights(), str(weights_file), metadata={"format": "np"})
    # safetensors makes a file that only its owner can read; a copy may be shared.
    weights_file.chmod(0o644)


def random_weights():
    """Weights by name, float32. Layers that write to the residual stream start smaller, by 1 / sqrt(2 * layers), as in
    GPT-2 (Radford et al. 2019, section 2.3)."""
    rng = np.random.default_rng(SEED)
    hidden, layers, std = CONFIG["hidden_size"], CONFIG["num_layers"], 0.05

    def normal(*shape, scale=1.0):
        return (rng.standard_normal(shape) * std * scale).astype("float32")

    positions = CONFIG["max_sequence_length"] + 1
    weights = {
        "glm.word_embeddings.weight": normal(CONFIG["vocab_size"], hidden),
        "glm.transformer.position_embeddings.weight": normal(positions, hidden),
        "glm.transformer.block_position_embeddings.weight": normal(positions, hidden),
        **layer_norm("glm.transformer.final_layernorm"),
    }
    residual = 1 / math.sqrt(2 * layers)
    for layer in range(layers):
        prefix = f"glm.transformer.layers.{layer}."
        for name, inputs, outputs, scale in (
            ("attention.query_key_value", hidden, 3 * hidden, 1.0),
            ("attention.dense", hidden, hidden, residual),
            ("mlp.dense_h_to_4h", hidden, 4 * hidden, 1.0),
            ("mlp.dense_4h_to_h", 4 * hidden, hidden, residual),
        ):
            weights[prefix + name + ".weight"] = normal(inputs, outputs, scale=scale)
            weights[prefix + name + ".bias"] = np.zeros(outputs, dtype="float32")
        weights.update(layer_norm(prefix + "input_layernorm"))
        weights.update(layer_norm(prefix + "post_attention_layernorm"))
    return weights


def layer_norm(name):
    """A fresh layer norm's two parameters."""
    hidden = CONFIG["hidden_size"]
    return {name + ".weight": np.ones(hidden, dtype="float32"), name + ".bias": np.zeros(hidden, dtype="float32")}
