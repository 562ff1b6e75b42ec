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
from dataclasses import dataclass, replace

from arguments import PromptArguments, ScoredDecodingArguments, UsageError, choice, parse, to_generation_config
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
    import resharding

    directory = checkpoint.resolve(arguments.model_name_or_path)
    if arguments.merge_tensor_parallel_path:
        resharding.reshard(directory, arguments.merge_tensor_parallel_path, degree=1)
    else:
        check_is_free(arguments.merge_lora_path, "--merge_lora_path")
        model, tokenizer = adapters.load_merged(directory, arguments.lora_path), checkpoint.load_tokenizer(directory)
        with new_directory(arguments.merge_lora_path, facts={}) as target:
            checkpoint.save_model(model, tokenizer, target, checkpoint.stored_dtype(directory))
    print(f"merged model written to {arguments.merge_tensor_parallel_path or arguments.merge_lora_path}")


class Predictor:
    """A model and how it decodes; each rank of a launched job has a part of the model."""

    def __init__(self, arguments, prompts, decoding):
        """The arguments are those of the script."""
        self.config = to_generation_config(decoding, decoding.seed, num_return_sequences=prompts.num_return_sequences)
        import checkpoint

        self.arguments, self.prompts, self.decoding = arguments, prompts, decoding
        self.directory = checkpoint.resolve(arguments.model_name_or_path)
        self.tokenizer = checkpoint.load_tokenizer(self.directory)

    def decoder(self, config, on_token=None):
        """A Decoder of the model, which is loaded."""
        import adapters
        from decoding import Decoder
        from generation_config import SpecialIds
        from parallel import launched_ranks

        model = adapters.load_model(self.directory, self.arguments.lora_path, ranks=launched_ranks())
        return Decoder(model, config, SpecialIds.of(self.tokenizer, model.config.vocab_size), on_token)

    def predict(self):
        """Answer all prompts and write what comes of it."""
        import data
        import inference

        prompts, config = self.prompts, self.config
        examples, report = inference.load_prompts(prompts)
        limits = prompts.src_length, self.decoding.tgt_length
        encoded = data.encode_all(examples, self.tokenizer, *limits, prompts.on_bad_data, report)
        settings = [str(self.directory), self.arguments.lora_path, config]
        partial = inference.kept_answers(prompts, encoded, settings, writes=is_first_rank())
        from decoding import run

        decoder = self.decoder(config)
        with inference.interruptible(partial, len(encoded)):
            answers = inference.answer_all(
                encoded,
                lambda batch, rows: run(decoder, batch, config, rows),
                self.tokenizer,
                batch_size=prompts.batch_size,
                src_length=prompts.src_length,
                new_tokens=config.new_tokens_a_prompt,
                texts=config.num_return_sequences,
                progress=is_first_rank(),
                partial=partial,
            )
        if is_first_rank():
            inference.report_answers(answers, prompts.output_file, report, partial)

    def converse(self):
        """Answer prompts from the terminal, texts of one piece after another where there is one text."""
        import data
        from decoding import run
        from interactive import converse
        from tokenization import TextStream

        config = replace(self.config, output_scores=False)
        streams = config.num_beams == 1 and config.num_return_sequences == 1
        stream, so_far, write = None, [], None

        def on_token(_, pieces):
            so_far.append(int(pieces[0]))
            write(stream.piece(so_far))

        decoder = self.decoder(config, on_token if streams else None)

        def answer(example, show):
            nonlocal stream, write
            stream, write = TextStream(self.tokenizer), show
            so_far.clear()
            row = data.encode(example, self.tokenizer, self.prompts.src_length, self.decoding.tgt_length)
            ids = run(decoder, data.collate_prompts([row], self.tokenizer.eos_id), config)
            show(stream.piece(so_far, final=True) if streams else "\n".join(map(self.tokenizer.decode, ids)))

        converse(self.prompts.template or "qg", answer)


def is_first_rank():
    """Whether this process is the first of those that paddle.distributed.launch has started, or alone."""
    return os.environ.get("PADDLE_TRAINER_ID", "0") == "0"


def main(argv=None):
    """Parse the command line, predict or merge, report."""
    arguments, prompts, decoding = parse((ModelArguments, PromptArguments, ScoredDecodingArguments), argv, __doc__)
    with one_line_errors():
        if arguments.merges:
            # The first rank merges; the others have nothing to do.
            return merge(arguments) if is_first_rank() else None
        predictor = Predictor(arguments, prompts, decoding)
        predictor.converse() if prompts.interactive else predictor.predict()
    return None


if __name__ == "__main__":
    main()
