"""Model directories: where they are, reading them whole and checked, writing them."""

import json
import re
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import builtin_model
import tokenization
from errors import UserError
from tokenization import Tokenizer
from weight_files import Weights, fingerprinted, read_pdparams, read_pytorch, read_safetensors

PUBLISHED = ("THUDM/glm-large-chinese", "THUDM/glm-10b-chinese")
CONFIG_FILE, ADAPTER_CONFIG_FILE = "config.json", "lora_config.json"
SAFETENSORS, PDPARAMS, PYTORCH = "model.safetensors", "model_state.pdparams", "pytorch_model.bin"
TRANSPOSED = re.compile(r"\.(query_key_value|attention\.dense|dense_h_to_4h|dense_4h_to_h)\.weight$")


class ModelError(UserError):
    """A model cannot be found or read; the message says what and where, in one line."""


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


def load_model(name_or_path, dtype="float32", fingerprint=None):
    """Load a model, whole, with every name and shape checked.

    name_or_path: as for resolve(). The directory holds config.json and model.safetensors, model_state.pdparams or
    pytorch_model.bin, with linear layers as paddle has them ([in, out]) or as PyTorch has them ([out, in]).
    fingerprint: a dict to be filled with {"shape", "sha256"} of every weight, whatever file and dtype it comes from.
    Returns a modeling.GLMForConditionalGeneration in evaluation mode. Raises ModelError.
    """
    directory = resolve(name_or_path)
    config = load_config(directory)
    config.dtype = dtype
    try:
        model = empty_model(config)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(f"{directory / CONFIG_FILE}: no GLM can be made of it ({error})") from None
    weights = read_weights(directory)
    assign(
        dict(model.named_parameters()),
        weights if fingerprint is None else fingerprinted(weights, fingerprint),
        directory,
    )
    model.eval()
    return model


def empty_model(config):
    """modeling.GLMForConditionalGeneration of config.dtype, its parameters without memory until each is assigned."""
    import paddle
    from paddlenlp.transformers.model_utils import dtype_guard, no_init_weights

    from modeling import GLMForConditionalGeneration

    # An optimizer's state is stored under the parameters' names, which count up over the life of a process.
    with paddle.utils.unique_name.guard(), paddle.LazyGuard(), no_init_weights(), dtype_guard(config.dtype):
        return GLMForConditionalGeneration(config)


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
    content.update(output_predict=True, tensor_parallel_degree=1, tensor_parallel_rank=0)
    return GLMConfig(**{name: value for name, value in content.items() if name != "paddlenlp_version"})


def read_object(path):
    """The object in a JSON file. Raises ModelError."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path}: must hold one object")
    return content


def stored_dtype(directory):
    """dtype that a model directory's config.json records for its weights: "float16", or "float32"."""
    recorded = load_config(directory).dtype
    return "float16" if recorded == "float16" else "float32"


def read_weights(directory):
    """Weights of a model directory, in paddle's layout. Raises ModelError, and so does taking an array."""
    directory = Path(directory)
    readers = ((SAFETENSORS, read_safetensors), (PDPARAMS, read_pdparams), (PYTORCH, read_pytorch))
    for name, read in readers:
        path = directory / name
        if path.is_file():
            return read_weights_file(path, read)
    if list(directory.glob("model_state.tp*.pdparams")):
        raise ModelError(f"{directory}: holds tensor-parallel shards, which have to be merged into one file first")
    raise ModelError(f"{directory}: no weights there ({', '.join(name for name, _ in readers)})")


def read_weights_file(path, read=read_safetensors):
    """Weights of a file, by one of the readers of weight_files, in paddle's layout. Raises ModelError, and so does
    taking an array."""
    with reading(path):
        weights = to_paddle_layout(read(path))
    return replace(weights, take=reading(path)(weights.take))


@contextmanager
def reading(path):
    """Context, or decorator, in which any failure is a ModelError about the file."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{path}: cannot be read ({reason}); is the file whole?") from None


def to_paddle_layout(weights):
    """Weights with linear layers as [in, out]; which layout they have is told by the shape of query_key_value."""
    fused = next((shape for name, shape in weights.shapes.items() if name.endswith("query_key_value.weight")), None)
    if fused is None or fused[0] < fused[1]:
        return weights
    shapes = {name: shape[::-1] if TRANSPOSED.search(name) else shape for name, shape in weights.shapes.items()}

    def take(name):
        return weights.take(name).T if TRANSPOSED.search(name) else weights.take(name)

    return Weights(shapes, take)


def load_weights(model, directory):
    """Replace a model's weights by those of a directory. Raises ModelError."""
    assign(dict(model.named_parameters()), read_weights(directory), directory)


def assign(parameters, weights, place):
    """Copy weights into parameters (by name), one after another, once all names and shapes are known to fit.

    place: what the message calls where they come from. Raises ModelError.
    """
    check(parameters, weights.shapes, place)
    for name, parameter in parameters.items():
        array = weights.take(name)
        if array.dtype.kind != "f":
            # bfloat16 is uint16 to numpy: taken as numbers, it would make a model of nonsense.
            raise ModelError(f"{place}: {name} is neither float16 nor float32; convert the checkpoint first")
        parameter.set_value(np.ascontiguousarray(array, dtype=dtype_name(parameter)))


def check(parameters, shapes, directory):
    """Raise ModelError on the first weight that is missing, unknown or misshapen."""
    missing = sorted(parameters.keys() - shapes.keys())
    unknown = sorted(shapes.keys() - parameters.keys())
    if missing or unknown:
        kind, names = ("lacks", missing) if missing else ("has an unknown", unknown)
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise ModelError(f"{directory}: the checkpoint {kind} {names[0]}{more}; config.json and weights do not match")
    for name, parameter in parameters.items():
        found = list(shapes[name])
        if found != parameter.shape:
            raise ModelError(f"{directory}: {name} is {found}, but config.json asks for {parameter.shape}")


@dataclass(frozen=True)
class WholeModel:
    """A model and its tokenizer as a directory: what a checkpoint holds when all weights are trained."""

    model: object
    tokenizer: Tokenizer

    def save(self, directory):
        """Write the directory."""
        save_model(self.model, self.tokenizer, directory)

    def load(self, directory):
        """Replace the model's weights by those of a directory. Raises ModelError."""
        load_weights(self.model, directory)


def save_model(model, tokenizer, directory, dtype=None):
    """Write weights (safetensors, paddle's layout), config and tokenizer; stock paddlenlp reads the directory.

    dtype: of the stored weights, "float32" or "float16"; default: the model's own, or float32 for another one.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    parameters = dict(model.named_parameters())
    own = dtype_name(next(iter(parameters.values())))
    dtype = dtype or (own if own == "float16" else "float32")
    weights = {name: as_array(parameter, dtype) for name, parameter in parameters.items()}
    write_weights(weights, directory / SAFETENSORS)
    model.config.architectures = ["GLMForConditionalGeneration"]
    write_json({**json.loads(model.config.to_json_string()), "dtype": dtype}, directory / CONFIG_FILE)
    tokenizer.save(directory)


def dtype_name(tensor):
    """Name of a tensor's dtype, as numpy has it."""
    return str(tensor.dtype).split(".")[-1]


def as_array(tensor, dtype):
    """A tensor as a numpy array of a dtype."""
    # bfloat16, which numpy does not have, comes as the bits in uint16.
    return (tensor.astype("float32") if dtype_name(tensor) == "bfloat16" else tensor).numpy().astype(dtype, copy=False)


def write_weights(arrays, path):
    """Write arrays by name as a safetensors file."""
    from safetensors.numpy import save_file

    save_file(arrays, str(path), metadata={"format": "np"})
    # safetensors makes a file that only its owner can read, whatever the umask says.
    path.chmod(path.stat().st_mode | 0o044)


def write_json(content, path):
    """Write a JSON file."""
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf8")
