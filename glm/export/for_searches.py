"""Exported programs for several searches at once: an ONNX program takes any, of Paddle's each has its own."""

from dataclasses import dataclass

from glm.data.tokenization import Tokenizer
from glm.decoding.generation_config import PROMPT, answered
from glm.errors import UserError
from glm.export import engines, program, runners
from glm.files import manifest


@dataclass
class Chosen:
    """Programs by the structure of the searches that they are for, as text; and what they have in common."""

    programs: dict
    tokenizer: object
    positions: int
    identity: list

    def opened(self, device):
        """run(prompts, config, row_ids), as decoder.run(), with a configuration of one of the structures."""
        by_prefix = {one.prefix: opened(one, device=device).run for one in self.programs.values()}
        runs = {structure: by_prefix[one.prefix] for structure, one in self.programs.items()}
        return lambda prompts, config, row_ids=None: runs[str(config.structure)](prompts, config, row_ids)


class ProgramEngine:
    """A program of Paddle's, for a configuration of its own structure alone. decode: as runners.open_program() gives
    it."""

    def __init__(self, decode, special):
        self.decode, self.special = decode, special

    def run(self, prompts, config, row_ids=None, on_token=None):
        """As decoder.run(); its pieces come all at once, without on_token()."""
        # All prompts of a batch have the same limits here.
        prompts = {name: prompts[name] for name in PROMPT if name in prompts}
        return answered(self.decode, prompts, config, row_ids)


def opened(program, runtime="auto", device="cpu"):
    """What decodes by a program.Program: an engines.OnnxEngine, which takes any configuration, or a ProgramEngine.
    Raises ProgramError; see runners.open_program()."""
    if program.format == "onnx":
        runners.checked(program, runtime, device)
        return engines.OnnxEngine(program.model_file, program.special_ids, program.positions)
    return ProgramEngine(runners.open_program(program, runtime, device), program.special_ids)


def find(directory, prefix, searches):
    """The Chosen programs of a directory for searches, {what they are for: GenerationConfig}. prefix: of the ONNX
    program, None for the only one. Raises UserError where one is missing, with the flags that export it."""
    names = [prefix] if prefix else program.prefixes(directory)
    found = [program.describe(directory, name) for name in names] or [program.describe(directory, "glm")]
    onnx = [one for one in found if one.format == "onnx"]
    if len(onnx) > 1:
        raise UserError(f"{directory} has several ONNX programs; give --model_prefix, as in {onnx[0].prefix}")
    programs = {}
    for purpose, config in searches.items():
        fitting = onnx or [one for one in found if one.config.structure == config.structure]
        if not fitting:
            raise UserError(
                f"{directory} has no program to {purpose} with; export one with {flags_of(config)}, or one with "
                "--format onnx for all"
            )
        programs[str(config.structure)] = fitting[0]
    used = {one.prefix: one for one in programs.values()}
    tokenizer, first = Tokenizer(directory), next(iter(used.values()))
    for one in used.values():
        program.check_tokenizer(one, tokenizer)
    identity = [manifest.identity(one.directory, program.manifest_name(name)) for name, one in sorted(used.items())]
    tokenizer.preparation = first.preparation
    return Chosen(programs, tokenizer, min(one.positions for one in used.values()), identity)


def flags_of(config):
    """The flags of export_generation_model.py for a search."""
    values = {"num_beams": config.num_beams, "scores": config.output_scores, "within_source": config.within_source}
    return " ".join(f"--{name} {value}" for name, value in values.items() if value > 1 or value is True)
