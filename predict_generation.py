"""Predict with a GLM in Python.

    python predict_generation.py --model_name_or_path ./checkpoints/glm-large-chinese
    python predict_generation.py --model_name_or_path ./checkpoints/glm-large-chinese \\
        --data_file dev.json --output_file predictions.jsonl
"""

import runtime  # noqa: F401  sets what paddle reads when it is imported

from dataclasses import dataclass

from arguments import DecodingArguments, PromptArguments, choice, parse, to_generation_config
from errors import one_line_errors


@dataclass
class ModelArguments:
    """The model to predict with."""

    model_name_or_path: str = choice("THUDM/glm-large-chinese", "Directory or name of the model.")


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
        model = checkpoint.load_model(directory)
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
