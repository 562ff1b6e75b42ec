"""Model directories: where they are, reading them whole and checked, writing them, a rank's shard at a time."""

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from glm.data import preparation
from glm.data.tokenization import Tokenizer
from glm.errors import UserError, note, one_line
from glm.files import manifest
from glm.files.archives import is_offline
from glm.ops import device
from glm.ops.dtypes import name_of, to_numpy
from glm.parallel.sharding import check_degree, to_file, whole_shape
from glm.weights import builtin_model, published
from glm.weights.directory_kinds import check_is_model
from glm.weights.stored_weights import (
    CONFIG_FILE,
    assign,
    check,
    config_of,
    expected_shapes,
    local_weights,
    prevailing,
    read_model_config,
    read_weights,
    write_arrays,
    write_json,
)
from glm.weights.weight_files import fingerprinted
from glm.weights.weight_sources import SAFETENSORS, ModelError
from glm.weights.weight_writers import SafetensorsWriter


def resolve(name_or_path):
    """Directory of a model: a directory as it is, the built-in model built, another one from a cache,
    or downloaded. Raises ModelError, also for the directory of an adapter or a program."""
    path = Path(name_or_path)
    if path.is_dir():
        check_is_model(path)
        return path
    if str(name_or_path) == builtin_model.NAME:
        return builtin_model.build()
    return published.locate(str(name_or_path))


def preview(name_or_path):
    """(GLMConfig, Tokenizer) of a model, without its weights.

    Of a published model only the tokenizer is downloaded; it is None where that fails.
    """
    name = str(name_or_path)
    is_published = name in published.PUBLISHED and not Path(name).is_dir()
    directory = published.find(name)[0] if is_published else resolve(name)
    if directory is not None:
        return load_config(directory), load_tokenizer(directory)
    try:
        tokenizer = None if is_offline() else Tokenizer(published.download(name, weights=False))
    except ModelError:
        tokenizer = None
    return published.shape(name), tokenizer


def load_tokenizer(name_or_path, lora_path=None):
    """Tokenizer of a model, which is found as resolve() does, with the preparation of an adapter, if there is one that
    says how its prompts are made. Raises UserError if model and tokenizer do not fit each other."""
    directory = resolve(name_or_path)
    tokenizer = Tokenizer(directory)
    if (directory / CONFIG_FILE).is_file():
        tokenizer.check_fits(read_model_config(directory)["vocab_size"], directory / CONFIG_FILE)
    if lora_path is not None and (found := preparation.read(lora_path)) is not None:
        tokenizer.preparation = found
    return tokenizer


def load_model(name_or_path, dtype="float32", fingerprint=None, ranks=None):
    """Load a model, whole, with every name and shape checked.

    name_or_path: as for resolve(). The directory holds config.json and model.safetensors, model_state.pdparams or
    pytorch_model.bin, with linear layers as paddle has them ([in, out]) or as PyTorch has them ([out, in]).
    fingerprint: a dict to be filled with {"shape", "sha256"} of every weight, whatever file and dtype it comes from.
    ranks: ranks.Ranks to divide the model among; this one's part is loaded.
    Returns a modeling.GLMForConditionalGeneration in evaluation mode. Raises ModelError.
    """
    directory = resolve(name_or_path)
    manifest.verify(directory)
    config = load_config(directory)
    weights = read_weights(directory)
    # Before anything is made of what the configuration says.
    check(expected_shapes(vars(config)), weights.shapes, directory)
    config.dtype = dtype
    try:
        model = empty_model(config, ranks)
    except UserError:
        raise
    except Exception as error:
        raise ModelError(f"{directory / CONFIG_FILE}: no GLM can be made of it ({one_line(error)})") from None
    if fingerprint is not None:
        weights = fingerprinted(weights, fingerprint)
    assign_part(model, weights, directory)
    model.eval()
    return model


def fingerprint_of(directory):
    """{name: {"shape", "sha256"}} of every weight of a model directory; see load_model(). Raises ModelError."""
    found = {}
    weights = fingerprinted(read_weights(directory), found)
    for name in weights.shapes:
        weights.take(name)
    return found


def empty_model(config, ranks=None):
    """modeling.GLMForConditionalGeneration of config.dtype, its parameters without memory until each is assigned.

    ranks: ranks.Ranks to divide it among. Raises ShardError if they cannot.
    """
    import paddle

    from glm.model.modeling import GLMForConditionalGeneration
    from glm.parallel.layers import divide

    # An optimizer's state is stored under the parameters' names, which count up over the life of a process.
    with paddle.utils.unique_name.guard(), paddle.LazyGuard(), default_dtype(config.dtype):
        model = GLMForConditionalGeneration(config)
        if ranks is not None and ranks.size > 1:
            check_degree(ranks.size, config.num_attention_heads, config.hidden_size, config.vocab_size)
            divide(model, ranks)
    return model


@contextmanager
def default_dtype(name):
    """Context in which parameters are made of a dtype."""
    import paddle

    before = paddle.get_default_dtype()
    paddle.set_default_dtype(name)
    try:
        yield
    finally:
        paddle.set_default_dtype(before)


def load_config(directory):
    """GLMConfig of a model directory. Raises ModelError if there is none or it is another model's."""
    path = Path(directory) / CONFIG_FILE
    if not path.is_file():
        check_is_model(directory)
        raise ModelError(f"{directory}: no {CONFIG_FILE} there; it is no model directory")
    return config_of(read_model_config(directory))


def stored_dtypes(directory):
    """{name: dtype} of a model directory's weights. Raises ModelError."""
    return read_weights(directory).dtypes


def stored_dtype(directory):
    """The dtype that most of a model directory's weights have. Raises ModelError."""
    weights = read_weights(directory)
    return prevailing(weights.dtypes, weights.shapes)


def dtype_to_compute_in(asked, directory):
    """The dtype in which to load a model directory's weights, for --dtype `asked`; other than float32, it is told on
    stderr. Raises ModelError, and UsageError for what this device cannot compute in."""
    dtype = device.dtype_of_weights(asked, lambda: stored_dtype(directory))
    if dtype != "float32":
        note(f"computing in {dtype}")
    return dtype


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
        from glm.parallel.ranks import Ranks

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
                    writer.write(to_numpy(whole))
        if first:
            write_description(self.model.config, self.tokenizer, directory, dtype)


def parameter_names(model):
    """{name of a weight: name of its parameter}: an optimizer's state is kept under the latter."""
    return {name: parameter.name for name, parameter in model.named_parameters()}


def stored_as(tensors):
    """Name of the dtype of some weights (by name)."""
    return name_of(next(iter(tensors.values())))


def write_description(config, tokenizer, directory, dtype, degree=1):
    """Write what a model directory has besides weights."""
    content = {**config.as_dict(), "dtype": dtype, "tensor_parallel_degree": degree}
    write_json(content, Path(directory) / CONFIG_FILE)
    tokenizer.save(directory)
    preparation.write_unless_default(tokenizer.preparation, directory)


def save_model(model, tokenizer, directory, dtype=None):
    """Write weights (safetensors, paddle's layout), config and tokenizer; stock paddlenlp reads the directory.

    dtype: of the stored weights, one of WEIGHT_DTYPES, or {name: dtype}; default: the model's own.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    parameters = dict(model.named_parameters())
    dtype = dtype or stored_as(parameters)
    write_arrays(parameters, directory / SAFETENSORS, dtype)
    shapes = {name: parameter.shape for name, parameter in parameters.items()}
    write_description(model.config, tokenizer, directory, prevailing(dtype, shapes))
