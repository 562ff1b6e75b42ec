"""What numbers mean anything, by the flag they are given as; all scripts and the requests of a server have the same.
Only the standard library."""

import math
from typing import NamedTuple

# Below it, and not 0, a number is no normal one of float32.
SMALLEST = 2.0**-126


class Bounds(NamedTuple):
    """The least and the greatest number that is allowed, or that is just not (above, below)."""

    least: float
    most: float
    above: bool = False
    below: bool = False

    def hold(self, value):
        """Whether a number is allowed; NaN never is."""
        enough = value > self.least if self.above else value >= self.least
        few = value < self.most if self.below else value <= self.most
        return bool(enough and few and math.isfinite(value) and (value == 0 or abs(value) >= SMALLEST))

    def __str__(self):
        """Bounds in words, as in "it must be …"."""
        least = f"{'above' if self.above else 'at least'} {shown(self.least)}"
        most = f"{'below' if self.below else 'at most'} {shown(self.most)}"
        return f"{least} and {most}"


def shown(number):
    """A bound as a text: powers of two that nobody knows by heart as such."""
    if number >= 2**20 and number == 2 ** int(math.log2(number)):
        return f"2^{int(math.log2(number))}"
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


MANY = 2**40
COUNT, NUMBER_OR_NONE = Bounds(1, MANY), Bounds(-1, MANY)
LENGTH, BATCH, DEGREE = Bounds(1, 2**20), Bounds(1, 2**20), Bounds(-1, 2**16)
SHARE = Bounds(0, 1)
SECONDS = Bounds(0, 86_400, above=True)
# Flag → Bounds; what nothing acts on takes its default alone, and needs none.
NUMBERS = {
    # Data and decoding.
    "src_length": LENGTH,
    "tgt_length": LENGTH,
    "min_tgt_length": Bounds(0, 2**20),
    "length_penalty": Bounds(-10, 10),
    "no_repeat_ngram_size": Bounds(0, 1000),
    "repetition_penalty": Bounds(0.01, 100),
    "presence_penalty": Bounds(-10, 10),
    "frequency_penalty": Bounds(-10, 10),
    "num_beams": Bounds(1, 256),
    "max_num_beams": Bounds(1, 256),
    "num_return_sequences": Bounds(1, 1024),
    "top_k": Bounds(0, 2**31),
    "top_p": SHARE,
    "temperature": Bounds(0.01, 100),
    # NumPy's and paddlenlp's seeds end there.
    "seed": Bounds(0, 2**32, below=True),
    "batch_size": BATCH,
    # Pairs of documents.
    "extract_candidates": Bounds(1, 256),
    "candidates": Bounds(1, 256),
    "question_beams": Bounds(1, 256),
    "answer_beams": Bounds(1, 256),
    "questions": COUNT,
    "passage_length": Bounds(16, 2**20),
    "overlap": Bounds(0, 2**20),
    "answer_length": Bounds(4, 2**20),
    "question_length": Bounds(4, 2**20),
    "max_train_samples": COUNT,
    "max_eval_samples": COUNT,
    "max_record_bytes": COUNT,
    "dev_ratio": Bounds(0, 1, above=True, below=True),
    # LoRA.
    "r": Bounds(1, 2**16),
    "lora_alpha": Bounds(0, 10**6, above=True),
    "lora_dropout": Bounds(0, 1, below=True),
    "lora_plus_scale": Bounds(0, 10**6, above=True),
    # Training.
    "per_device_train_batch_size": BATCH,
    "per_device_eval_batch_size": BATCH,
    "gradient_accumulation_steps": BATCH,
    "num_train_epochs": Bounds(0, 10**6, above=True),
    "max_steps": NUMBER_OR_NONE,
    "learning_rate": Bounds(0, 10),
    "lr_decay_ratio": SHARE,
    "lr_end": Bounds(0, 10),
    "power": Bounds(0, 100),
    "num_cycles": Bounds(0, 1000),
    "warmup_ratio": SHARE,
    "warmup_steps": Bounds(0, MANY),
    "weight_decay": Bounds(0, 10),
    "adam_beta1": Bounds(0, 1, below=True),
    "adam_beta2": Bounds(0, 1, below=True),
    "adam_epsilon": Bounds(0, 1, above=True),
    "max_grad_norm": Bounds(0, 10**9),
    "scale_loss": Bounds(0, MANY, above=True),
    "label_smoothing": Bounds(0, 1, below=True),
    "neftune_alpha": Bounds(0, 1000),
    "early_stopping_patience": COUNT,
    "max_bad_steps": COUNT,
    "logging_steps": COUNT,
    "save_steps": COUNT,
    "eval_steps": COUNT,
    "save_total_limit": Bounds(0, MANY),
    "minimum_eval_times": COUNT,
    "dataloader_num_workers": Bounds(0, 1024),
    "sharding_parallel_degree": DEGREE,
    "tensor_parallel_degree": DEGREE,
    "pipeline_parallel_degree": DEGREE,
    "sep_parallel_degree": DEGREE,
    # The server.
    "port": Bounds(0, 65_535),
    "max_batch_size": BATCH,
    "max_concurrent_requests": COUNT,
    "max_prompts_per_request": COUNT,
    "max_prompt_characters": COUNT,
    "max_request_bytes": COUNT,
    "max_connections": COUNT,
    "max_connections_per_address": COUNT,
    "header_timeout": SECONDS,
    "body_timeout": SECONDS,
    "keep_alive_timeout": SECONDS,
    "request_timeout": SECONDS,
    "stop_timeout": SECONDS,
}
