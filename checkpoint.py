"""Model directories: where they are, reading them whole and checked, writing them, dividing them into shards.

python checkpoint.py split MODEL SHARDS --tensor_parallel_degree 4
python checkpoint.py merge SHARDS MODEL
python checkpoint.py reshard SHARDS OTHERS --tensor_parallel_degree 2
"""

import runtime  # noqa: F401  sets what paddle reads when it is imported

import argparse
import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import builtin_model
import manifest
import resharding
import tokenization
from errors import UserError, one_line, one_line_errors
from model_weights import (
    CONFIG_FILE,
    SAFETENSORS,
    SHARD_READERS,
    ModelError,
    as_array,
    assign,
    check_config,
    file_dtype,
    local_weights,
    read_object,
    read_weights,
    shard_files,
    write_arrays,
    write_json,
)
from sharding import check_degree, to_file, whole_shape
from tokenization import Tokenizer
from weight_files import fingerprinted
from weight_writers import SafetensorsWriter

PUBLISHED = ("THUDM/glm-large-chinese", "THUDM/glm-10b-chinese")
ADAPTER_CONFIG_FILE = "lora_config.json"


def resolve(name_or_path):
    """Directory of a model: a directory as it is, the built-in model built, a published one downloaded by paddlenlp."""
    path = Path(name_or_path)
    if path.is_dir():
        return path
    if str(name_or_path) == builtin_model.NAME:
        return builtin_model.build()
    if str(name_or_path) in PUBLISHED:
        return download(str(name_or_path))
    names = ", ".join((builtin_model.NAME, *PUBLISHED))
    raise ModelError(f"{name_or_path}: no such directory, and no known model name ({names})")


def preview(name_or_path):
    """(GLMConfig, Tokenizer) of a model, without its weights.

    Of a published model only the tokenizer is downloaded; it is None where that fails.
    """
    from paddlenlp.transformers import GLMConfig
    from paddlenlp.utils.env import MODEL_HOME

    if str(name_or_path) not in PUBLISHED or Path(name_or_path).is_dir():
        directory = resolve(name_or_path)
        return load_config(directory), Tokenizer(directory)
    try:
        tokenizer = Tokenizer(download(str(name_or_path), weights=False))
    except ModelError:
        tokenizer = None
    return GLMConfig.from_pretrained(str(name_or_path), cache_dir=MODEL_HOME), tokenizer


def download(name, weights=True):
    """Fetch the files of a published model into paddlenlp's cache and return their directory. Raises ModelError."""
    from paddlenlp.transformers import GLMChineseTokenizer, GLMConfig, GLMForConditionalGeneration
    from paddlenlp.utils.download import resolve_file_path
    from paddlenlp.utils.env import MODEL_HOME

    try:
        for published in (GLMChineseTokenizer, *([GLMForConditionalGeneration] if weights else [])):
            for urls in published.pretrained_resource_files_map.values():
                resolve_file_path(name, [urls[name]], cache_dir=MODEL_HOME)
    except Exception as error:
        raise ModelError(
            f"{name} could not be downloaded ({type(error).__name__}): check the network, or download it elsewhere and "
            f"give its directory; {builtin_model.NAME} needs no network"
        ) from None
    directory = Path(MODEL_HOME) / name
    # paddlenlp keeps the configuration in its code, and the numbers of the special pieces nowhere.
    if not (directory / CONFIG_FILE).is_file():
        (directory / CONFIG_FILE).write_text(GLMConfig.from_pretrained(name).to_json_string(), encoding="utf8")
    tokenization.complete(directory)
    return directory


def load_tokenizer(name_or_path):
    """Tokenizer of a model, which is found as resolve() does."""
    return Tokenizer(resolve(name_or_path))


def load_model(name_or_path, dtype="float32", fingerprint=None, ranks=None):
    """Load a model, whole, with every name and shape checked.

    name_or_path: as for resolve(). The directory holds config.json and model.safetensors, model_state.pdparams or
    pytorch_model.bin, with linear layers as paddle has them ([in, out]) or as PyTorch has them ([out, in]).
    fingerprint: a dict to be filled with {"shape", "sha256"} of every weight, whatever file and dtype it comes from.
    ranks: parallel.Ranks to divide the model among; this one's part is loaded.
    Returns a modeling.GLMForConditionalGeneration in evaluation mode. Raises ModelError.
    """
    directory = resolve(name_or_path)
    manifest.verify(directory)
    config = load_config(directory)
    config.dtype = dtype
    try:
        model = empty_model(config, ranks)
    except UserError:
        raise
    except Exception as error:
        raise ModelError(f"{directory / CONFIG_FILE}: no GLM can be made of it ({one_line(error)})") from None
    weights = read_weights(directory)
    if fingerprint is not None:
        weights = fingerprinted(weights, fingerprint)
    assign_part(model, weights, directory)
    model.eval()
    return model


def empty_model(config, ranks=None):
    """modeling.GLMForConditionalGeneration of config.dtype, its parameters without memory until each is assigned.

    ranks: parallel.Ranks to divide it among. Raises ShardError if they cannot.
    """
    import paddle
    from paddlenlp.transformers.model_utils import dtype_guard, no_init_weights

    from modeling import GLMForConditionalGeneration
    from parallel import divide

    # An optimizer's state is stored under the parameters' names, which count up over the life of a process.
    with paddle.utils.unique_name.guard(), paddle.LazyGuard(), no_init_weights(), dtype_guard(config.dtype):
        model = GLMForConditionalGeneration(config)
        if ranks is not None and ranks.size > 1:
            check_degree(ranks.size, config.num_attention_heads, config.hidden_size, config.vocab_size)
            divide(model, ranks)
    return model


def load_config(directory):
    """GLMConfig of a model directory. Raises ModelError if there is none or it is another model's."""
    from paddlenlp.transformers import GLMConfig

    path = Path(directory) / CONFIG_FILE
    if not path.is_file() and (path.parent / ADAPTER_CONFIG_FILE).is_file():
        base = read_object(path.parent / ADAPTER_CONFIG_FILE).get("base_model_name_or_path")
        raise ModelError(
            f"{directory}: holds a LoRA adapter; give it as --lora_path, and its base as --model_name_or_path ({base})"
        )
    if not path.is_file():
        raise ModelError(f"{directory}: no {CONFIG_FILE} there; it is no model directory")
    content = read_object(path)
    if content.get("model_type", "glm") != "glm":
        raise ModelError(f"{path}: model_type is {content['model_type']!r}; only GLM models can be used")
    check_config(content, path)
    content.update(output_predict=True, tensor_parallel_degree=1, tensor_parallel_rank=0)
    try:
        return GLMConfig(**{name: value for name, value in content.items() if name != "paddlenlp_version"})
    except Exception as error:
        raise ModelError(f"{path}: no configuration of a GLM ({one_line(error)})") from None


def stored_dtype(directory):
    """dtype that a model directory's config.json records for its weights: "float16", or "float32"."""
    recorded = load_config(directory).dtype
    return "float16" if recorded == "float16" else "float32"


def load_weights(model, directory):
    """Replace a model's weights by those of a directory. Raises ModelError or DamageError."""
    manifest.verify(directory)
    assign_part(model, read_weights(directory), directory)


def assign_part(model, weights, directory):
    """Copy into a model what its rank has of whole Weights, which come from a directory. Raises ModelError."""
    part = local_weights(weights, model.ranks.rank, model.ranks.size)
    assign(dict(model.named_parameters()), part, directory)


@dataclass(frozen=True)
class WholeModel:
    """A model and its tokenizer as a directory: what a checkpoint holds when all weights are trained."""

    model: object
    tokenizer: Tokenizer

    def tensors(self):
        """{name: tensor} of what this rank has to write."""
        return dict(self.model.named_parameters())

    def save(self, directory, tensors):
        """Write the directory with these tensors or arrays as weights."""
        write_arrays(tensors, Path(directory) / SAFETENSORS)
        write_description(self.model.config, self.tokenizer, directory, stored_as(tensors))

    def save_whole(self, directory):
        """Write the directory."""
        self.save(directory, self.tensors())

    def load(self, directory):
        """Replace the model's weights by those of a directory. Raises ModelError."""
        load_weights(self.model, directory)

    def parameter_names(self, degree):
        """{name of a weight: name of its parameter} of this model divided among `degree` ranks."""
        from parallel import Ranks

        return parameter_names(empty_model(self.model.config, Ranks.imagined(degree)))


class ShardedModel(WholeModel):
    """A model divided among tensor-parallel ranks, of which each writes and reads its own shard. All ranks of the group
    call the methods together."""

    def save(self, directory, tensors):
        """Write this rank's shard; the first rank writes configuration and tokenizer, too."""
        ranks, directory = self.model.ranks, Path(directory)
        path = directory / f"model_state.tp{ranks.rank:02d}.safetensors"
        write_arrays(tensors, path, layout=lambda name, array: to_file(name, array, self.model.heads))
        if ranks.rank == 0:
            write_description(self.model.config, self.tokenizer, directory, stored_as(tensors), ranks.size)

    def save_whole(self, directory):
        """Write the whole model, put together one weight at a time on the first rank; the others give their parts."""
        ranks, parameters = self.model.ranks, self.tensors()
        dtype = stored_as(parameters)
        shapes = {name: whole_shape(name, parameter.shape, ranks.size) for name, parameter in parameters.items()}
        first = ranks.rank == 0
        with SafetensorsWriter(Path(directory) / SAFETENSORS, shapes, dtype) if first else nullcontext() as writer:
            for name, parameter in parameters.items():
                whole = ranks.whole(name, parameter)
                if first:
                    writer.write(as_array(whole, dtype))
        if first:
            write_description(self.model.config, self.tokenizer, directory, dtype)


def parameter_names(model):
    """{name of a weight: name of its parameter}: an optimizer's state is kept under the latter."""
    return {name: parameter.name for name, parameter in model.named_parameters()}


def stored_as(tensors):
    """dtype that the files of some weights (by name) have: float16 if that is theirs, else float32."""
    return file_dtype(next(iter(tensors.values())))


def write_description(config, tokenizer, directory, dtype, degree=1):
    """Write what a model directory has besides weights."""
    config.architectures = ["GLMForConditionalGeneration"]
    content = {**json.loads(config.to_json_string()), "dtype": dtype, "tensor_parallel_degree": degree}
    write_json(content, Path(directory) / CONFIG_FILE)
    tokenizer.save(directory)


def save_model(model, tokenizer, directory, dtype=None):
    """Write weights (safetensors, paddle's layout), config and tokenizer; stock paddlenlp reads the directory.

    dtype: of the stored weights, "float32" or "float16"; default: the model's own, or float32 for another one.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    parameters = dict(model.named_parameters())
    dtype = dtype or stored_as(parameters)
    write_arrays(parameters, directory / SAFETENSORS, dtype)
    write_description(model.config, tokenizer, directory, dtype)


def main(argv=None):
    """The command line: split, merge, reshard."""
    parser = argparse.ArgumentParser(description="Divide a model into tensor-parallel shards, or put shards together.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="split | merge | reshard")
    for command, what in (
        ("split", "write a whole model in shards"),
        ("merge", "write a model in shards whole"),
        ("reshard", "write a model, whole or in shards, in another number of shards"),
    ):
        one = commands.add_parser(command, help=what, description=what)
        one.add_argument("source", help="directory of the model")
        one.add_argument("target", help="new directory, which appears whole or not at all")
        one.add_argument("--format", choices=SHARD_READERS, default="safetensors", help="of the files that are written")
        if command != "merge":
            one.add_argument("--tensor_parallel_degree", type=int, required=True, help="number of shards")
    arguments = parser.parse_args(argv)
    with one_line_errors():
        degree = 1 if arguments.command == "merge" else arguments.tensor_parallel_degree
        if arguments.command == "split" and shard_files(arguments.source):
            raise UserError(f"{arguments.source} is in shards already; reshard writes another number of them")
        if arguments.command == "merge" and not shard_files(arguments.source):
            raise UserError(f"{arguments.source} has no shards to merge")
        resharding.reshard(arguments.source, arguments.target, degree, arguments.format)
    print(f"{arguments.source} written to {arguments.target}, {'whole' if degree == 1 else f'{degree} shards'}")


if __name__ == "__main__":
    main()
