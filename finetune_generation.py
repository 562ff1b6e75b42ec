"""Fine-tune a GLM for question generation.

    python finetune_generation.py configs/tiny_cpu.json
    python finetune_generation.py --model_name_or_path THUDM/glm-large-chinese --task_name dureader_qg \\
        --output_dir ./checkpoints/glm-large-chinese --do_train --do_eval
    python finetune_generation.py configs/dureader_qg_large_lora.json

A JSON file, if it comes first, holds values for the flags; flags override it. README.md explains the flags.
"""

import glm.runtime  # noqa: F401  sets what paddle reads when it is imported

from glm.command_line import parse
from glm.errors import one_line_errors


def main(argv=None):
    """Parse the command line and run."""
    with one_line_errors():
        import data
        from glm.training.arguments import (
            GLMTrainingArguments,
            LoraArguments,
            ModelArguments,
            set_up_logging,
        )
        from glm.training.data_arguments import QuestionDataArguments
        from utils import finetune

        set_up_logging()
        model_args, data_args, lora_args, args = parse(
            (ModelArguments, QuestionDataArguments, LoraArguments, GLMTrainingArguments), argv, __doc__
        )

        def locate(*needed):
            return data.question_generation(data_args.task_name, *needed)

        finetune(model_args, data_args, lora_args, args, locate, "qg")


if __name__ == "__main__":
    main()
