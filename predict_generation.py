"""Predict with a GLM in Python.

    python predict_generation.py --model_name_or_path ./checkpoints/glm-large-chinese
    python predict_generation.py --model_name_or_path ./checkpoints/glm-large-chinese \\
        --data_file dev.json --output_file predictions.jsonl
    python predict_generation.py --model_name_or_path THUDM/glm-large-chinese --lora_path ./checkpoints/adapter \\
        --merge_lora_path ./checkpoints/merged
    python -m paddle.distributed.launch --nproc_per_node 2 --backend gloo predict_generation.py \\
        --model_name_or_path ./checkpoints/glm-large-chinese/checkpoint-100
"""

import runtime  # noqa: F401  sets what paddle reads when it is imported

import os
from dataclasses import dataclass

from arguments import DecodingArguments, PromptArguments, UsageError, choice, parse, to_generation_config
from atomic import check_is_free, new_directory
from errors import one_line_errors


@dataclass
class ModelArguments:
    """The model to predict with."""

    model_name_or_path: str = choice(
        "THUDM/glm-large-chinese", "Directory or name of the model; with --lora_path, of its base model."
    )
    lora_path: str = choice(None, "Directory of a LoRA adapter to predict with.")
    merge_lora_path: str = choice(
        None, "Write the model with the adapter added to its weights into this new directory; nothing is predicted."
    )
    merge_tensor_parallel_path: str = choice(
        None, "Write the model, put together from its shards, into this new directory; nothing is predicted."
    )

    def __post_init__(self):
        if self.merge_lora_path and not self.lora_path:
            raise UsageError("--merge_lora_path merges an adapter: give its directory as --lora_path")
        if self.merge_tensor_parallel_path and self.lora_path:
            raise UsageError("--merge_tensor_parallel_path merges shards alone; --merge_lora_path merges an adapter")

    @property
    def merges(self):
        """Whether something is merged instead of predicted."""
        return bool(self.merge_lora_path or self.merge_tensor_parallel_path)


def merge(arguments):
    """Write a merged model."""
    import adapters
    import checkpoint

    directory = checkpoint.resolve(arguments.model_name_or_path)
    if arguments.merge_tensor_parallel_path:
        checkpoint.reshard(directory, arguments.merge_tensor_parallel_path, degree=1)
    else:
        check_is_free(arguments.merge_lora_path, "--merge_lora_path")
        model, tokenizer = adapters.load_merged(directory, arguments.lora_path), checkpoint.load_tokenizer(directory)
        with new_directory(arguments.merge_lora_path, facts={}) as target:
            checkpoint.save_model(model, tokenizer, target, checkpoint.stored_dtype(directory))
    print(f"merged model written to {arguments.merge_tensor_parallel_path or arguments.merge_lora_path}")


def predict(arguments, prompts, decoding):
    """Answers to the prompts and the reader's report; each rank of a launched job has a part of the model."""
    config = to_generation_config(decoding, decoding.seed)
    import data
    import inference

    examples, report = inference.load_prompts(prompts)
    import adapters
    import checkpoint
    from decoding import Decoder, run
    from generation_config import SpecialIds
    from parallel import launched_ranks

    ranks = launched_ranks()
    directory = checkpoint.resolve(arguments.model_name_or_path)
    tokenizer = checkpoint.load_tokenizer(directory)
    encoded = data.encode_all(examples, tokenizer, prompts.src_length, decoding.tgt_length, prompts.on_bad_data, report)
    if arguments.lora_path:
        model = adapters.load_model(directory, arguments.lora_path, ranks=ranks)
    else:
        model = checkpoint.load_model(directory, ranks=ranks)
    decoder = Decoder(model, config, SpecialIds.of(tokenizer, model.config.vocab_size))
    answers = inference.answer_all(
        encoded,
        lambda batch, rows: run(decoder, batch, config, rows),
        tokenizer,
        batch_size=prompts.batch_size,
        src_length=prompts.src_length,
        new_tokens=config.new_tokens_a_prompt,
        progress=is_first_rank(),
    )
    return answers, report


def is_first_rank():
    """Whether this process is the first of those that paddle.distributed.launch has started, or alone."""
    return os.environ.get("PADDLE_TRAINER_ID", "0") == "0"


def main(argv=None):
    """Parse the command line, predict or merge, report."""
    arguments, prompts, decoding = parse((ModelArguments, PromptArguments, DecodingArguments), argv, __doc__)
    with one_line_errors():
        if arguments.merges:
            # The first rank merges; the others have nothing to do.
            return merge(arguments) if is_first_rank() else None
        answers, report = predict(arguments, prompts, decoding)
    if is_first_rank():
        import inference

        inference.report_answers(answers, prompts.output_file, report)
    return None


if __name__ == "__main__":
    main()
