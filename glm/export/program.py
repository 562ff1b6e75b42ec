"""What an exported program is as files: those of its format, PREFIX_generation_config.json, the tokenizer, and
PREFIX_manifest.json.

save() needs paddle; describe() and the paths do not, so that what runs a program need not import it.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from glm import stacks
from glm.data.preparation import DEFAULT, Preparation
from glm.decoding.generation_config import GenerationConfig, SpecialIds
from glm.errors import UserError
from glm.export import description, inspection
from glm.export.description import ProgramError
from glm.files import locks, manifest
from glm.files.atomic import replaced_files
from glm.files.guarded import product
from glm.ops.dtypes import HALVES, check_range, to_numpy

# Suffixes of a program's files, by format: the graph and its weights.
FILES = {"paddle": (".pdmodel", ".pdiparams"), "pir": (".json", ".pdiparams"), "onnx": (".onnx", ".onnx.data")}
# Whoever writes programs into a directory holds this; tokenizer files are of all programs there.
LOCK = ".export.lock"


@dataclass(frozen=True)
class Program:
    """An exported program: its files, the choices it was exported with, the special ids it produces, its dtype, the
    numbers of rows of its position tables and its embeddings, its format, "paddle" or "onnx", how its prompts are made,
    and the dtype that it computes in."""

    directory: Path
    prefix: str
    config: GenerationConfig
    special_ids: SpecialIds
    dtype: str
    positions: int
    vocab_size: int
    format: str
    preparation: Preparation = DEFAULT
    compute: str = "float32"

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


def format_here(format):
    """The format, one of FILES, in which --format writes a program on the stack that is installed."""
    return stacks.current().program_format if format == "paddle" else format


def config_path(directory, prefix):
    """Where the choices of a program are recorded."""
    return Path(directory) / f"{prefix}_{description.FILE_NAME}"


def manifest_name(prefix):
    """Name of a program's manifest: a directory may hold several programs."""
    return f"{prefix}_{manifest.FILE}"


def describe(directory, prefix):
    """The Program in a directory. Raises ProgramError, or DamageError if it is not as it was exported."""
    path = config_path(directory, prefix)
    others = [found for found in prefixes(directory) if found != prefix]
    if others and not path.is_file():
        raise ProgramError(
            f"{directory} has no program {prefix}, but {', '.join(others)}: give --model_prefix {others[0]}"
        )
    check_is_there(path, path.parent / prefix)
    # A program is code: without what it was written with, it is none.
    manifest.verify(directory, required=True, name=manifest_name(prefix))
    return read(directory, prefix)


def prefixes(directory):
    """Prefixes of the programs in a directory, in alphabetical order."""
    end = f"_{description.FILE_NAME}"
    return sorted(path.name.removesuffix(end) for path in Path(directory).glob(f"*{end}"))


def read(directory, prefix):
    """describe(), whatever a manifest says or whether there is one."""
    path = config_path(directory, prefix)
    try:
        config, special_ids, facts = description.load(path)
    except UserError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise ProgramError(f"{path}: not the description of an exported program ({reason})") from None
    described = Program(Path(directory), prefix, config, special_ids, **facts)
    for file in described.files:
        check_is_there(file, path.parent / prefix)
    return described


def check_tokenizer(program, tokenizer):
    """Raise UserError unless a tokenizer's ids are those that a Program was exported with."""
    place = config_path(program.directory, program.prefix)
    tokenizer.check_fits(program.vocab_size, place)
    if SpecialIds.of(tokenizer, program.vocab_size) != program.special_ids:
        raise ProgramError(f"{place}: its special ids are not those of the tokenizer beside it; export it again")


def check_is_there(file, program):
    """Raise ProgramError unless a file of a program is there."""
    if not file.is_file():
        raise ProgramError(f"{file}: no such file; export_generation_model.py --output_path {program} writes it")


def save(model, tokenizer, config, directory, prefix, dtype="float32", format="paddle", compute="float32"):
    """Export a model with its search loop, and the tokenizer beside it; see write(). What is there with the same prefix
    is replaced, each file whole, and a manifest says what belongs together."""
    directory = Path(directory)
    with (
        product(directory / prefix, "what was there is as it was: make room, or export elsewhere"),
        locks.held(directory / LOCK, directory),
        replaced_files(directory, {}, manifest_name(prefix)) as workshop,
    ):
        special_ids = SpecialIds.of(tokenizer, model.config.vocab_size)
        write(model, special_ids, config, workshop, prefix, dtype, format, tokenizer.preparation, compute)
        tokenizer.save(workshop)
        # Paddle's C++ writes weights, and does not say so when the disk takes a part of them only.
        inspection.check(read(workshop, prefix))


def write(
    model, special_ids, config, directory, prefix, dtype="float32", format="paddle", preparation=None, compute="float32"
):
    """Write a model as a program, and its description.

    model: modeling.GLMForConditionalGeneration, float32 or of the dtype `compute`; it is used up. config:
    GenerationConfig; what of it a program fixes stays, the rest becomes a default. dtype: of the stored weights, see
    static_program.write() and onnx_program.write(). format: "paddle" or "onnx". preparation: preparation.Preparation of
    the model, None for the default. compute: the dtype that the program computes in: float32, or with format "paddle"
    that of the stored weights, if it is float16 or bfloat16.
    """
    from glm.export import onnx_program, static_program

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if dtype in HALVES:
        for name, parameter in model.named_parameters():
            array = to_numpy(parameter)
            check_range(name, float(array.min()), float(array.max()), dtype)
    format = format_here(format)
    facts = {"dtype": dtype, "positions": model.config.max_sequence_length + 1, "format": format}
    facts["vocab_size"] = model.config.vocab_size
    if compute != "float32":
        facts["compute"] = compute
    if preparation not in (None, DEFAULT):
        facts["preparation"] = asdict(preparation)
    if format == "onnx":
        onnx_program.write(model, directory / f"{prefix}.onnx", dtype)
    else:
        static_program.write(model, special_ids, config, directory / prefix, dtype, compute)
    description.save(config_path(directory, prefix), config, special_ids, **facts)
