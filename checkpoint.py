"""Model directories: where they are, reading them whole and checked, writing them."""

import json
import re
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

import builtin_model
import tokenization
from errors import UserError
from tokenization import Tokenizer
from weight_files import Weights, read_pdparams, read_pytorch, read_safetensors

PUBLISHED = ("THUDM/glm-large-chinese", "THUDM/glm-10b-chinese")
CONFIG_FILE = "config.json"
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


def load_model(name_or_path, dtype="float32"):
    """Load a model, whole, with every name and shape checked.

    name_or_path: as for resolve(). The directory holds config.json and model.safetensors, model_state.pdparams or
    pytorch_model.bin, with linear layers as paddle has them ([in, out]) or as PyTorch has them ([out, in]).
    Returns a modeling.GLMForConditionalGeneration in evaluation mode. Raises ModelError.
    """
    directory = resolve(name_or_path)
    config = load_config(directory)
    config.dtype = dtype
    try:
        model = empty_model(config)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(f"{directory / CONFIG_FILE}: no GLM can be made of it ({error})") from None
    load_weights(model, directory)
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
    try:
        content = json.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise ModelError(f"{directory}: no {CONFIG_FILE} there; it is no model directory") from None
    except ValueError as error:
        raise ModelError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path}: must hold one object, a model's configuration")
    if content.get("model_type", "glm") != "glm":
        raise ModelError(f"{path}: model_type is {content['model_type']!r}; only GLM models can be used")
    content.update(output_predict=True, tensor_parallel_degree=1, tensor_parallel_rank=0)
    return GLMConfig(**{name: value for name, value in content.items() if name != "paddlenlp_version"})


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
            with reading(path):
                weights = to_paddle_layout(read(path))
            return replace(weights, take=reading(path)(weights.take))
    if list(directory.glob("model_state.tp*.pdparams")):
        raise ModelError(f"{directory}: holds tensor-parallel shards, which have to be merged into one file first")
    raise ModelError(f"{directory}: no weights there ({', '.join(name for name, _ in readers)})")


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
    assign(model, read_weights(directory), directory)


def assign(model, weights, directory):
    """Copy weights into a model, one after another, once all names and shapes are known to fit. Raises ModelError."""
    parameters = dict(model.named_parameters())
    check(parameters, weights.shapes, directory)
    for name, parameter in parameters.items():
        array = weights.take(name)
        if array.dtype.kind != "f":
            # bfloat16 is uint16 to numpy: taken as numbers, it would make a model of nonsense.
            raise ModelError(f"{directory}: {name} is neither float16 nor float32; convert the checkpoint first")
        parameter.set_value(np.ascontiguousarray(array, dtype=str(parameter.dtype).split(".")[-1]))


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


def save_model(model, tokenizer, directory):
    """Write weights (safetensors, paddle's layout), config and tokenizer; stock paddlenlp reads the directory."""
    from safetensors.numpy import save_file

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    weights = {name: parameter.numpy() for name, parameter in model.named_parameters()}
    save_file(weights, str(directory / SAFETENSORS), metadata={"format": "np"})
    # safetensors makes a file that only its owner can read, whatever the umask says.
    (directory / SAFETENSORS).chmod((directory / SAFETENSORS).stat().st_mode | 0o044)
    model.config.architectures = ["GLMForConditionalGeneration"]
    (directory / CONFIG_FILE).write_text(model.config.to_json_string(), encoding="utf8")
    tokenizer.save(directory)
