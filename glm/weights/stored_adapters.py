"""LoRA adapters as this project, PaddleNLP and PEFT write them, read with this project's names and layout.

this project   lora_config.json, lora_model_state.safetensors, base_fingerprint.json
PaddleNLP      lora_config.json, lora_model_state.pdparams (or peft_model.safetensors, whole or in parts)
PEFT           adapter_config.json, adapter_model.safetensors or adapter_model.bin

PEFT names a factor base_model.model.LAYER.lora_A.weight and has it as PyTorch has linear layers: lora_A [r, in], lora_B
[out, r]. What else than LoRA's two factors an adapter may have is refused by its name: left out, it would be another
one. Which layers have factors is told by their names; the patterns that the descriptions have for it are never run.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from glm.errors import UserError
from glm.files import descriptions
from glm.model.lora import TARGETS, LoraConfig
from glm.weights.directory_kinds import LORA_CONFIG_FILE, PEFT_CONFIG_FILE, check_is_adapter
from glm.weights.pytorch_files import read_pytorch
from glm.weights.schemas import AdapterSchema, PaddleAdapterSchema, PeftAdapterSchema
from glm.weights.weight_files import Weights, read_pdparams, read_safetensors
from glm.weights.weight_sources import ModelError, find_weights, names_of_weights, read_weights_file

WEIGHTS_FILE, FINGERPRINT_FILE = "lora_model_state.safetensors", "base_fingerprint.json"
PADDLE_READERS = {"lora_model_state.pdparams": read_pdparams, "peft_model.safetensors": read_safetensors}
PADDLE_READERS["peft_model.pdparams"] = read_pdparams
PEFT_READERS = {"adapter_model.safetensors": read_safetensors, "adapter_model.bin": read_pytorch}

LAYER = r"transformer\.layers\.\d{1,9}\.(?:" + "|".join(rf"{part}\.{name}" for name, part in TARGETS.items()) + ")"
PADDLE_NAME = re.compile(rf"glm\.({LAYER})\.lora_([AB])")
PEFT_NAME = re.compile(rf"base_model\.model\.(?:glm\.)?({LAYER})\.lora_([AB])(?:\.default)?\.weight")

# Keys of a description → fields of LoraConfig.
PADDLE_FIELDS = {"r": "r", "lora_alpha": "alpha", "lora_dropout": "dropout", "rslora": "rslora"}
PEFT_FIELDS = {"r": "r", "lora_alpha": "alpha", "lora_dropout": "dropout", "use_rslora": "rslora"}
BASE_KEY = "base_model_name_or_path"
# Other keys that say nothing of what an adapter computes, or only together with one that is refused. Whatever else is
# there must be off.
PADDLE_NEUTRAL = "target_modules scaling merge_weights dtype head_dim lora_plus_scale use_quick_lora"
PADDLE_NEUTRAL += " tensor_parallel_degree nola_basis_num mixer_num lorapro_scaling_factor lorapro_x_mode"
PEFT_NEUTRAL = "target_modules peft_type task_type auto_mapping inference_mode revision peft_version exclude_modules"
PEFT_NEUTRAL += " bias init_lora_weights layers_pattern loftq_config eva_config corda_config megatron_core"
PEFT_NEUTRAL += " qalora_group_size runtime_config"
# Of these keys only some values are plain LoRA: other ways to begin change the base, too.
PEFT_PLAIN = {
    "peft_type": ["LORA"],
    "bias": ["none"],
    "init_lora_weights": [True, False, "gaussian", "orthogonal", "eva"],
}


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter as a directory has it.

    kind: who writes such ones. path: of its description. place: of its factors. base: name of the base model, or None.
    weights: the factors under this project's names, lora_A [in, r] and lora_B [r, out]. has_fingerprint: whether it
    says what its base was.
    """

    kind: str
    path: Path
    place: Path
    config: LoraConfig
    base: str | None
    weights: Weights
    has_fingerprint: bool = False


def read_adapter(directory):
    """StoredAdapter of a directory. Raises ModelError."""
    directory = Path(directory)
    check_is_adapter(directory)
    own, paddle, peft = (
        (directory / WEIGHTS_FILE).is_file(),
        names_of_weights(directory, PADDLE_READERS),
        (directory / PEFT_CONFIG_FILE).is_file(),
    )
    if own + bool(paddle) + peft > 1:
        raise ModelError(f"{directory}: holds several LoRA adapters; move all but one elsewhere")
    if peft:
        return checked(read_peft(directory))
    if paddle:
        return checked(read_paddle(directory))
    if shards := sorted(path.name for path in directory.glob("lora_model_state.tp*")):
        raise ModelError(
            f"{directory}: {shards[0]} is a shard of an adapter; save the adapter with merge_tensor_parallel=True"
        )
    return checked(read_own(directory))


def read_own(directory):
    """StoredAdapter that this project has written."""
    for name in (LORA_CONFIG_FILE, WEIGHTS_FILE, FINGERPRINT_FILE):
        if not (directory / name).is_file():
            raise ModelError(f"{directory}: no {name} there; this LoRA adapter is incomplete")
    path = directory / LORA_CONFIG_FILE
    content = descriptions.read(path, AdapterSchema, ModelError)
    config = config_of(path, content, PADDLE_FIELDS, content["target_modules"])
    weights = read_weights_file(directory / WEIGHTS_FILE)
    return StoredAdapter(
        "this project", path, directory / WEIGHTS_FILE, config, content.get(BASE_KEY), weights, has_fingerprint=True
    )


def read_paddle(directory):
    """StoredAdapter that PaddleNLP has written."""
    path = directory / LORA_CONFIG_FILE
    content = descriptions.read(path, PaddleAdapterSchema, ModelError)
    refuse_features(path, content, {*PADDLE_FIELDS, BASE_KEY, *PADDLE_NEUTRAL.split()})
    weights = renamed(find_weights(directory, PADDLE_READERS), PADDLE_NAME, directory)
    config = config_of(path, content, PADDLE_FIELDS, targets_of(weights))
    return StoredAdapter("PaddleNLP", path, directory, config, content.get(BASE_KEY), weights)


def read_peft(directory):
    """StoredAdapter that PEFT has written."""
    path = directory / PEFT_CONFIG_FILE
    content = descriptions.read(path, PeftAdapterSchema, ModelError)
    for key, plain in PEFT_PLAIN.items():
        if key in content and content[key] not in plain:
            refuse(path, key, content[key])
    refuse_features(path, content, {*PEFT_FIELDS, BASE_KEY, *PEFT_NEUTRAL.split()})
    stored = find_weights(directory, PEFT_READERS)
    if stored is None:
        raise ModelError(f"{directory}: no {' or '.join(PEFT_READERS)} there; this LoRA adapter is incomplete")
    weights = renamed(stored, PEFT_NAME, directory)
    shapes = {name: shape[::-1] for name, shape in weights.shapes.items()}
    targets = targets_of(weights)
    listed = content.get("target_modules") if isinstance(content.get("target_modules"), list) else []
    if absent := [name for name in listed if name in TARGETS and name not in targets]:
        raise ModelError(f"{directory}: lacks the factors of {absent[0]}, which {PEFT_CONFIG_FILE} names")
    config = config_of(path, content, PEFT_FIELDS, targets)
    return StoredAdapter(
        "PEFT",
        path,
        directory,
        config,
        content.get(BASE_KEY),
        replace(weights, shapes=shapes, take=lambda name: weights.take(name).T),
    )


def refuse(path, key, value):
    """Raise ModelError about what an adapter has besides LoRA's two factors."""
    raise ModelError(
        f"{path}: {key} is {descriptions.shown(value)}; plain LoRA alone is read: merge this adapter into its base "
        "where it was trained, and give the merged model"
    )


def refuse_features(path, content, known):
    """Raise ModelError if a description has something on that is not among the known keys."""
    for key, value in content.items():
        is_off = all(item is None for item in value) if isinstance(value, list) else not value
        if key not in known and not is_off:
            refuse(path, key, value)


def config_of(path, content, fields, targets):
    """LoraConfig of a description. Raises ModelError."""
    found = {name: content[key] for key, name in fields.items() if key in content}
    try:
        return LoraConfig(**found, target_modules=tuple(targets))
    except UserError as error:
        raise ModelError(f"{path}: {error}") from None


def renamed(weights, pattern, place):
    """Weights under this project's names. Raises ModelError for a name that is none of LoRA's factors in GLM."""
    names = {}
    for old in weights.shapes:
        match = pattern.fullmatch(old)
        if match is None:
            raise ModelError(
                f"{place}: has {old}, which is no factor of a linear layer of GLM; {', '.join(TARGETS)} are"
            )
        names[f"glm.{match[1]}.lora_{match[2]}"] = old
    if len(names) < len(weights.shapes):
        raise ModelError(f"{place}: has two factors of one layer; which of them is meant?")
    return Weights(
        {name: weights.shapes[old] for name, old in names.items()},
        {name: weights.dtypes[old] for name, old in names.items()},
        lambda name: weights.take(names[name]),
    )


def targets_of(weights):
    """Names in lora.TARGETS of the layers that have factors."""
    return {name.split(".")[-2] for name in weights.shapes}


def checked(adapter):
    """A StoredAdapter. Raises ModelError unless its factors are matrices of its rank: before any are made."""
    rank = adapter.config.r
    for name, shape in adapter.weights.shapes.items():
        if len(shape) != 2 or shape[1 if name.endswith("lora_A") else 0] != rank:
            raise ModelError(f"{adapter.place}: {name} is {list(shape)}, but {adapter.path.name} says r is {rank}")
    return adapter
