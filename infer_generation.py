"""Run an exported GLM by FastDeploy, Paddle Inference or, exported with --format onnx, onnxruntime.

    python infer_generation.py --model_path ./checkpoints/infer --model_prefix glm
    python infer_generation.py --model_path ./checkpoints/infer --model_prefix glm --runtime paddle \\
        --data_file dev.json --output_file predictions.jsonl
    python -m paddle.distributed.launch --nproc_per_node 2 --backend gloo infer_generation.py \\
        --model_path ./checkpoints/infer --runtime paddle --data_file dev.json --output_file predictions.jsonl
"""

import glm.runtime  # noqa: F401  sets what paddle reads when it is imported

from dataclasses import dataclass, replace
from typing import ClassVar

from glm.command_line import UsageError, choice, parse
from glm.errors import UserError, one_line_errors
from glm.inference.arguments import (
    BEAMS_ONLY,
    OVERRIDES,
    RUNTIME_HELP,
    RUNTIMES,
    SAMPLING_ONLY,
    PromptArguments,
    with_flags,
)
from glm.needs import Need


@dataclass
class ProgramArguments:
    """The program and what runs it."""

    model_path: str = choice("./checkpoints/infer", "Directory of the exported program.")
    model_prefix: str = choice("glm", "Its file name prefix.")
    runtime: str = choice("auto", RUNTIME_HELP, choices=RUNTIMES)
    device: str = choice("cpu", "Where to run.", choices=("cpu", "gpu"))
    backend: str = choice("paddle", "Paddle's own CPU kernels, or oneDNN's.", choices=("paddle", "onednn"))


@dataclass
class LimitArguments:
    """Inputs of the program; what is not given is as the export recorded it."""

    NEEDS: ClassVar = (Need("scores", lambda flags: not flags.interactive, beside="--interactive"),)

    tgt_length: int = choice(None, "Longest generated text in tokens, end token included.")
    min_tgt_length: int = choice(None, "Shortest generated text in tokens.")
    length_penalty: float = choice(None, "For programs with beams: they compete by log p / ((length + 5) / 6) ** this.")
    repetition_penalty: float = choice(
        None, "For programs with penalties: logits of tokens that a text has already are divided by it where above 0."
    )
    presence_penalty: float = choice(None, "For programs with penalties: taken from logits of tokens of the text.")
    frequency_penalty: float = choice(None, "For programs with penalties: the same, each time that they occur.")
    stop: list[str] = choice(None, "Texts before the first of which an answer ends.")
    temperature: float = choice(None, "For sampling programs: logits are divided by it.")
    top_k: int = choice(None, "For sampling programs: draw from the top_k most probable tokens; 0 keeps all.")
    top_p: float = choice(None, "For sampling programs: draw from tokens of this total probability; 1 keeps all.")
    seed: int = choice(None, "For sampling programs: seed of the draws.")
    scores: bool = choice(False, "Also give each text's score, if the program was exported with --scores.")


def overridden(config, limits, prompts):
    """The program's GenerationConfig with the flags that were given. Raises UsageError for flags it has no use for."""
    from glm.decoding.generation_config import PENALTIES

    if limits.scores and not config.output_scores:
        raise UsageError("--scores: this program gives none; export it anew with --scores")
    given = {flag: getattr(limits, flag) for flag in OVERRIDES if getattr(limits, flag) is not None}
    for flag in given:
        if flag in BEAMS_ONLY and config.num_beams == 1:
            raise UsageError(f"--{flag}: this program has no beams; export it with --num_beams 2 or more")
        if flag in SAMPLING_ONLY and not config.do_sample:
            raise UsageError(f"--{flag}: this program does not sample; export it with --select_topk False")
        if flag in PENALTIES and not config.penalties:
            raise UsageError(f"--{flag}: this program has no penalties; export it with --{flag}")
    changes = {OVERRIDES[flag]: value for flag, value in given.items()}
    if limits.stop is not None:
        changes["stop"] = tuple(limits.stop)
    try:
        return replace(config, **changes, num_return_sequences=prompts.num_return_sequences)
    except UserError as error:
        raise UsageError(with_flags(str(error))) from None


def main(argv=None):
    """Parse the command line, run the program, report."""
    arguments, prompts, limits = parse((ProgramArguments, PromptArguments, LimitArguments), argv, __doc__)
    with one_line_errors():
        from glm.data.tokenization import Tokenizer
        from glm.decoding import generation_config
        from glm.export import program, runners
        from glm.files import manifest
        from glm.inference import parts
        from glm.inference.answers import answer_prompts

        part, _ = parts.launched()
        parts.check_alone(prompts, part)
        exported = program.describe(arguments.model_path, arguments.model_prefix)
        config = overridden(exported.config, limits, prompts)
        tokenizer = Tokenizer(arguments.model_path)
        program.check_tokenizer(exported, tokenizer)
        tokenizer.preparation = exported.preparation
        run = runners.open_program(exported, arguments.runtime, arguments.device, arguments.backend)

        def run_batch(batch, rows):
            found = generation_config.answered(run, batch, config, rows)
            return found[0] if config.output_scores and not limits.scores else found

        if prompts.interactive:
            return converse(run_batch, tokenizer, config, prompts)
        settings = [
            manifest.identity(exported.directory, program.manifest_name(exported.prefix)),
            config,
            limits.scores,
        ]
        answer_prompts(prompts, tokenizer, config, settings, lambda *_: run_batch, exported.positions, part)
    return None


def converse(run_batch, tokenizer, config, prompts):
    """Answer prompts from the terminal; a program gives whole texts."""
    from glm.data.examples import encode
    from glm.inference import interactive
    from glm.inference.binding import of_flags, prompts_of
    from glm.inference.stops import cut

    binding = of_flags(prompts, config, tokenizer)

    def answer(example, write):
        row = encode(example, tokenizer, prompts.src_length, config.max_new_tokens)
        interactive.tell_lost(row, prompts.src_length, write)
        found = run_batch(prompts_of([row], tokenizer.eos_id, binding), [0])
        texts = found[0] if isinstance(found, tuple) else found
        write("\n".join(cut(tokenizer.decode(ids), config.stop) for ids in texts))

    interactive.converse(prompts.template or "qg", answer, prompts.preparation(tokenizer.preparation))


if __name__ == "__main__":
    main()
