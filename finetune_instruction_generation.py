"""Fine-tune a GLM on instructions: BELLE's data sets, or files of the same layout.

    python finetune_instruction_generation.py configs/tiny_instruction_cpu.json
    python finetune_instruction_generation.py --model_name_or_path THUDM/glm-large-chinese --data_name bellegroup \\
        --task_name school_math_0.25M --output_dir ./checkpoints/glm-large-math --do_train --do_eval

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
        from glm.training.data_arguments import InstructionDataArguments
        from utils import finetune

        set_up_logging()
        model_args, data_args, lora_args, args = parse(
            (ModelArguments, InstructionDataArguments, LoraArguments, GLMTrainingArguments), argv, __doc__
        )

        def locate(*needed):
            return data.instructions(data_args.data_name, data_args.task_name, *needed)

        finetune(model_args, data_args, lora_args, args, locate, "instruction")


if __name__ == "__main__":
    main()
