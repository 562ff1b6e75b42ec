"""Export a fine-tuned GLM for inference: with its search loop as a static program, or as an ONNX graph.

    python export_generation_model.py --model_name_or_path ./checkpoints/glm-large-chinese \\
        --output_path ./checkpoints/infer/glm

writes glm.pdmodel, glm.pdiparams, glm_generation_config.json and the tokenizer into ./checkpoints/infer; with --format
onnx, glm.onnx and glm.onnx.data in place of the first two.
"""

import glm.runtime  # noqa: F401  sets what paddle reads when it is imported

import os
from dataclasses import dataclass
from pathlib import Path

from glm.command_line import choice, parse
from glm.errors import UserError, one_line_errors, say
from glm.files import places
from glm.inference.arguments import ScoredDecodingArguments, to_generation_config


@dataclass
class ExportArguments:
    """What to export, and where to."""

    model_name_or_path: str = choice(
        "THUDM/glm-large-chinese", "Directory or name of the model; with --lora_path, of its base model."
    )
    lora_path: str = choice(None, "Directory of a LoRA adapter, which is added to the weights.")
    output_path: str = choice("./checkpoints/infer/glm", "Directory and file name prefix of the program.")
    format: str = choice(
        "paddle",
        "paddle: a static program with its loop, for FastDeploy and Paddle Inference; onnx: for onnxruntime.",
        choices=("paddle", "onnx"),
    )
    dtype: str = choice(
        None,
        "dtype of the stored weights; float16 and bfloat16 halve the file, int8 quarters it and makes ONNX programs "
        "faster, int4, of ONNX programs alone, makes it smaller still. Default: the model's own; float32 for ONNX.",
        choices=("float32", "float16", "bfloat16", "int8", "int4"),
    )

    compute: str = choice(
        "float32",
        "What the program computes in. float32 runs everywhere; float16 and bfloat16 run on GPUs alone, in half the "
        "memory, with weights stored in the same dtype.",
        choices=("float32", "float16", "bfloat16"),
    )

    def __post_init__(self):
        if self.output_path.endswith("/") or os.path.isdir(self.output_path):
            prefix = Path(self.output_path) / "glm"
            raise UserError(
                f"--output_path {self.output_path} is a directory; add a prefix for the names of files in it, as in "
                f"{prefix}"
            )
        if self.compute != "float32":
            self.check_half()
        if self.format == "onnx":
            self.dtype = self.dtype or "float32"
            if self.dtype in ("float16", "bfloat16"):
                raise UserError(
                    f"--dtype {self.dtype} is for --format paddle; ONNX programs have float32, int8 or int4"
                )
        elif self.dtype == "int4":
            raise UserError("--dtype int4 is for ONNX programs; give --format onnx, too, or --dtype int8")

    def check_half(self):
        """Raise UserError for what does not go with a program that computes in half precision."""
        if self.format == "onnx":
            raise UserError(f"--compute {self.compute} is for --format paddle; ONNX programs here run on CPU only")
        if self.dtype not in (None, self.compute):
            raise UserError(
                f"--dtype {self.dtype}: what computes in {self.compute} is stored in it; leave out --dtype or --compute"
            )
        self.dtype = self.compute


def main(argv=None):
    """Parse the command line and export."""
    arguments, decoding = parse((ExportArguments, ScoredDecodingArguments), argv, __doc__)
    with one_line_errors():
        config = to_generation_config(decoding, decoding.seed)
        places.check_file(arguments.output_path, "--output_path")
        from glm.export import program, trial
        from glm.weights import adapters, model_directory

        directory = model_directory.resolve(arguments.model_name_or_path)
        tokenizer = model_directory.load_tokenizer(directory, arguments.lora_path)
        dtype = arguments.dtype or model_directory.stored_dtype(directory)
        if arguments.lora_path:
            # Merged in float32: an update may be less than half precision tells apart.
            model = adapters.load_merged(directory, arguments.lora_path)
        else:
            model = model_directory.load_model(directory, arguments.compute)
        target = Path(arguments.output_path)
        choices = dtype, arguments.format, arguments.compute
        program.save(model, tokenizer, config, target.parent, target.name, *choices)
        trial.remember(program.describe(target.parent, target.name))
    graph, weights = program.FILES[program.format_here(arguments.format)]
    say(f"program written to {target}{graph}, weights ({dtype}) to {target}{weights}")


if __name__ == "__main__":
    main()
