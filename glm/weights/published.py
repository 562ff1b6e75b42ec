"""Models by name, ORG/NAME: looked for in the caches that Hugging Face, ModelScope and PaddleNLP keep, and fetched if
they are published ones.

Hugging Face   $HF_HUB_CACHE, or $HF_HOME/hub: models--ORG--NAME/snapshots/COMMIT, where refs/main says which commit
ModelScope     $MODELSCOPE_CACHE: hub/models/ORG/NAME, or as older and newer versions have it; a dot is written ___
PaddleNLP      $PPNLP_HOME/models/ORG/NAME, without config.json: that is in paddlenlp's code

Only what is whole is taken: description, tokenizer, weights. Where HF_ENDPOINT is set, models are fetched from there by
huggingface_hub, otherwise from PaddleNLP's server; both go through the environment's proxies, and HF_HUB_OFFLINE keeps
both from the network.
"""

import os
import re
from contextlib import suppress
from pathlib import Path

from glm.data import tokenization
from glm.errors import note, printable
from glm.files.archives import is_offline
from glm.weights.stored_weights import CONFIG_FILE, config_of, read_model_config, shard_files
from glm.weights.weight_sources import INDEX, PYTORCH, SAFETENSORS, ModelError, find_weights

PUBLISHED = ("THUDM/glm-large-chinese", "THUDM/glm-10b-chinese")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*")
# Who publishes them on ModelScope.
MODELSCOPE_NAMES = {"THUDM": "ZhipuAI"}
TOKENIZER_FILES = [tokenization.MODEL_FILE, tokenization.ADDED_TOKENS_FILE, "tokenizer_config.json", CONFIG_FILE]
WEIGHTS_FILES = [SAFETENSORS, PYTORCH, "model-*.safetensors", "pytorch_model-*.bin", f"*{INDEX}"]


def locate(name):
    """Directory of a model by its name: in a cache, which is told on stderr, or fetched. Raises ModelError."""
    found, damaged = find(name)
    if found is not None:
        return found
    if name not in PUBLISHED:
        raise ModelError(f"{missing(name)}{damaged}")
    if is_offline():
        raise ModelError(f"{name} is in no cache, and HF_HUB_OFFLINE forbids to download it{damaged}; {commands(name)}")
    return download(name)


def find(name):
    """(directory of the whole model in a cache or None, what is wrong with those that are not whole). Which one is
    taken is told on stderr."""
    problems = []
    for whose, directory in cached_directories(name) if NAME.fullmatch(name) else ():
        if not directory.is_dir():
            continue
        try:
            check_is_whole(directory)
        except ModelError as error:
            problems.append(f"; {whose}'s cache has one that cannot be used: {error}")
            continue
        note(printable(f"{name}: taken from {whose}'s cache, {directory}"))
        return directory, ""
    return None, "".join(problems[:1])


def cached_directories(name):
    """(whose cache, directory) of all places where a model of this name may be."""
    organization, model = name.split("/")
    snapshot = hugging_face_snapshot(organization, model)
    if snapshot is not None:
        yield "Hugging Face", snapshot
    root = from_home("MODELSCOPE_CACHE", "~/.cache/modelscope")
    for place in ("hub/models", "hub", "models", "."):
        for owner in filter(None, (organization, MODELSCOPE_NAMES.get(organization))):
            yield "ModelScope", root / place / owner / model.replace(".", "___")
    directory = paddlenlp_directory(name)
    if name in PUBLISHED and (directory / tokenization.MODEL_FILE).is_file():
        # A cache that cannot be written into may be complete none the less.
        with suppress(OSError):
            complete_paddlenlp(name)
    yield "PaddleNLP", directory


def from_home(variable, default):
    """The directory that a variable of the environment names, or a default, with ~ for the home."""
    return Path(os.path.expanduser(os.environ.get(variable) or default))


def hugging_face_snapshot(organization, model):
    """Directory of the newest files that Hugging Face's cache has of a model, None if it has none."""
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = from_home("HF_HOME", f"{shared}/huggingface")
    hub = from_home("HF_HUB_CACHE", os.environ.get("HUGGINGFACE_HUB_CACHE") or str(home / "hub"))
    repository = hub / f"models--{organization}--{model}"
    try:
        commit = (repository / "refs" / "main").read_text(encoding="utf8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return repository / "snapshots" / commit if re.fullmatch(r"[A-Za-z0-9]{1,64}", commit) else None


def paddlenlp_directory(name):
    """Where PaddleNLP keeps a model."""
    return paddlenlp_models() / name


def paddlenlp_models():
    """Where PaddleNLP keeps all models; importing it to ask takes seconds."""
    return from_home("PPNLP_HOME", "~/.paddlenlp") / "models"


def check_is_whole(directory):
    """Raise ModelError unless a directory has a GLM's description, its tokenizer and readable weights."""
    read_model_config(directory)
    if not (directory / tokenization.MODEL_FILE).is_file():
        raise ModelError(f"{directory}: no {tokenization.MODEL_FILE} there")
    if find_weights(directory) is None and not shard_files(directory):
        raise ModelError(f"{directory}: no weights there")


def download(name, weights=True):
    """Fetch the files of a published model and return their directory. Raises ModelError."""
    try:
        if os.environ.get("HF_ENDPOINT"):
            return from_hub(name, weights)
        return from_paddlenlp(name, weights)
    except Exception as error:
        raise ModelError(
            f"{name} could not be downloaded ({type(error).__name__}): check the network, or {commands(name)}, "
            "or give its directory; glm-tiny-chinese needs no network"
        ) from None


def from_hub(name, weights):
    """Fetch a model by huggingface_hub, into its cache."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=TOKENIZER_FILES + (WEIGHTS_FILES if weights else [])))


def from_paddlenlp(name, weights):
    """Fetch a model by paddlenlp, into its cache."""
    from paddlenlp.transformers import GLMChineseTokenizer, GLMForConditionalGeneration
    from paddlenlp.utils.download import resolve_file_path

    for published in (GLMChineseTokenizer, *([GLMForConditionalGeneration] if weights else [])):
        for urls in published.pretrained_resource_files_map.values():
            resolve_file_path(name, [urls[name]], cache_dir=str(paddlenlp_models()))
    return complete_paddlenlp(name)


def complete_paddlenlp(name):
    """Add to what PaddleNLP has fetched what it has elsewhere: the configuration is in its code, and the numbers of the
    special pieces nowhere. Returns the directory."""
    from paddlenlp.transformers import GLMConfig

    directory = paddlenlp_directory(name)
    if not (directory / CONFIG_FILE).is_file():
        (directory / CONFIG_FILE).write_text(GLMConfig.from_pretrained(name).to_json_string(), encoding="utf8")
    tokenization.complete(directory)
    return directory


def shape(name):
    """The GLMConfig of a published model."""
    from paddlenlp.transformers import GLMConfig as Stock

    return config_of(Stock.pretrained_init_configuration[name])


def commands(name):
    """The commands that fetch a model, in words."""
    organization, model = name.split("/")
    modelscope = f"{MODELSCOPE_NAMES.get(organization, organization)}/{model}"
    line = "; ".join(
        f"{kind}.from_pretrained('{name}')" for kind in ("GLMChineseTokenizer", "GLMForConditionalGeneration")
    )
    return (
        f"fetch it by one of: `huggingface-cli download {name}`, `modelscope download --model {modelscope}`, "
        f'`python -c "from paddlenlp.transformers import *; {line}"`'
    )


def missing(name):
    """What to say of a name that is no directory and in no cache."""
    told = f"{name}: no such directory, and no known model name (glm-tiny-chinese, {', '.join(PUBLISHED)})"
    # What looks like a path of this machine is one, with a slip in it.
    is_path = not NAME.fullmatch(name) or Path(name).parent.is_dir()
    return told if is_path else f"{told}; if it is a model of a hub, {commands(name)}"
