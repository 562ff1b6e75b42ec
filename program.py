"""What an exported program is as files: those of its format, PREFIX_generation_config.json, the tokenizer, and
PREFIX_manifest.json.

save() needs paddle; describe() and the paths do not, so that what runs a program need not import it.
"""

from dataclasses import dataclass
from pathlib import Path

import generation_config
import manifest
from atomic import replaced_files
from errors import UserError
from generation_config import GenerationConfig, SpecialIds

# Suffixes of a program's files, by format: the graph and its weights.
FILES = {"paddle": (".pdmodel", ".pdiparams"), "onnx": (".onnx", ".onnx.data")}


class ProgramError(UserError):
    """An exported program cannot be used; the message says why, in one line."""


@dataclass(frozen=True)
class Program:
    """An exported program: its files, the choices it was exported with, the special ids it produces, its dtype, the
    number of rows of its position tables, and its format, "paddle" or "onnx"."""

    directory: Path
    prefix: str
    config: GenerationConfig
    special_ids: SpecialIds
    dtype: str
    positions: int
    format: str = "paddle"

    @property
    def files(self):
        """Paths of the program and of its weights."""
        return [self.directory / f"{self.prefix}{suffix}" for suffix in FILES[self.format]]

    @property
    def model_file(self):
        """Path of the program."""
        return self.files[0]

    @property
    def params_file(self):
        """Path of its weights."""
        return self.files[1]


def config_path(directory, prefix):
    """Where the choices of a program are recorded."""
    return Path(directory) / f"{prefix}_{generation_config.FILE_NAME}"


def manifest_name(prefix):
    """Name of a program's manifest: a directory may hold several programs."""
    return f"{prefix}_{manifest.FILE}"


def describe(directory, prefix):
    """The Program in a directory. Raises ProgramError, or DamageError if it is not as it was exported."""
    path = config_path(directory, prefix)
    manifest.verify(directory, name=manifest_name(prefix))
    check_is_there(path, path.parent / prefix)
    try:
        config, special_ids, facts = generation_config.load(path)
        kind = facts.get("format", "paddle")
        described = Program(Path(directory), prefix, config, special_ids, facts["dtype"], facts["positions"], kind)
        files = described.files
    except (ValueError, TypeError, KeyError) as error:
        raise ProgramError(f"{path}: not the description of an exported program ({error})") from None
    for file in files:
        check_is_there(file, path.parent / prefix)
    return described


def check_is_there(file, program):
    """Raise ProgramError unless a file of a program is there."""
    if not file.is_file():
        raise ProgramError(f"{file}: no such file; export_generation_model.py --output_path {program} writes it")


def save(model, tokenizer, config, directory, prefix, dtype="float32", format="paddle"):
    """Export a model with its search loop, and the tokenizer beside it; see write(). What is there with the same prefix
    is replaced, each file whole, and a manifest says what belongs together."""
    with replaced_files(directory, {}, manifest_name(prefix)) as workshop:
        write(model, SpecialIds.of(tokenizer, model.config.vocab_size), config, workshop, prefix, dtype, format)
        tokenizer.save(workshop)


def write(model, special_ids, config, directory, prefix, dtype="float32", format="paddle"):
    """Write a model as a program, and its description.

    model: modeling.GLMForConditionalGeneration, float32; it is used up. config: GenerationConfig; what of it a program
    fixes stays, the rest becomes a default. dtype: of the stored weights, see static_program.write() and
    onnx_program.write(). format: one of FILES.
    """
    import onnx_program
    import static_program

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    facts = {"dtype": dtype, "positions": model.config.max_sequence_length + 1, "format": format}
    if format == "onnx":
        onnx_program.write(model, directory / f"{prefix}.onnx", dtype)
    else:
        static_program.write(model, special_ids, config, directory / prefix, dtype)
    generation_config.save(config_path(directory, prefix), config, special_ids, **facts)
