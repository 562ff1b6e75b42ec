"""Predict with a GLM in Python.

    python predict_generation.py --model_name_or_path ./checkpoints/glm-large-chinese
    python predict_generation.py --model_name_or_path ./checkpoints/glm-large-chinese \\
        --data_file dev.json --output_file predictions.jsonl
    python predict_generation.py --model_name_or_path THUDM/glm-large-chinese --lora_path ./checkpoints/adapter \\
        --merge_lora_path ./checkpoints/merged
"""

import runtime  # noqa: F401  sets what paddle reads when it is imported

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
        None,
        "New directory for the model with the adapter added to its weights. Nothing is predicted then, unless "
        "--data_file is given.",
    )

    def __post_init__(self):
        if self.merge_lora_path:
            if not self.lora_path:
                raise UsageError("--merge_lora_path merges an adapter: give its directory as --lora_path")
            check_is_free(self.merge_lora_path, "--merge_lora_path")


def load_model(arguments, directory, tokenizer):
    """The model that the arguments name, in `directory`; written, if it is merged."""
    import adapters
    import checkpoint

    if not arguments.lora_path:
        return checkpoint.load_model(directory)
    if not arguments.merge_lora_path:
        return adapters.load_model(directory, arguments.lora_path)
    model = adapters.load_merged(directory, arguments.lora_path)
    with new_directory(arguments.merge_lora_path) as target:
        checkpoint.save_model(model, tokenizer, target, checkpoint.stored_dtype(directory))
    print(f"merged model written to {arguments.merge_lora_path}")
    return model


def main(argv=None):
    """Parse the command line, predict, report."""
    model_arguments, prompts, decoding = parse((ModelArguments, PromptArguments, DecodingArguments), argv, __doc__)
    with one_line_errors():
        config = to_generation_config(decoding, decoding.seed)
        import data
        import inference

        examples, report = inference.load_prompts(prompts)
        import checkpoint
        from decoding import Decoder, run
        from generation_config import SpecialIds

        directory = checkpoint.resolve(model_arguments.model_name_or_path)
        tokenizer = checkpoint.load_tokenizer(directory)
        encoded = data.encode_all(
            examples, tokenizer, prompts.src_length, decoding.tgt_length, prompts.on_bad_data, report
        )
        model = load_model(model_arguments, directory, tokenizer)
        if model_arguments.merge_lora_path and not prompts.data_file:
            return
        decoder = Decoder(model, config, SpecialIds.of(tokenizer, model.config.vocab_size))
        answers = inference.answer_all(
            encoded,
            lambda batch, rows: run(decoder, batch, config, rows),
            tokenizer,
            batch_size=prompts.batch_size,
            src_length=prompts.src_length,
            new_tokens=config.new_tokens_a_prompt,
        )
    inference.report_answers(answers, prompts.output_file, report)


if __name__ == "__main__":
    main()
