"""Directories of LoRA adapters: written, read, and held against the base model that they were trained on.

    lora_model_state.safetensors    lora_A and lora_B of each layer, under the layer's name
    lora_config.json                lora.LoraConfig, and the name of the base model
    base_fingerprint.json           shape and SHA-256 of every weight of the base model

Importing this imports paddle.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import checkpoint
import manifest
from checkpoint import ADAPTER_CONFIG_FILE
from errors import UserError
from lora import LoraConfig, add_lora, lora_parameters, merge_lora
from model_weights import (
    ModelError,
    as_array,
    assign,
    local_weights,
    read_object,
    read_weights_file,
    write_arrays,
    write_json,
)
from parallel import Ranks

WEIGHTS_FILE, FINGERPRINT_FILE = "lora_model_state.safetensors", "base_fingerprint.json"
# Key in lora_config.json → field of LoraConfig and its type; the keys are paddlenlp's.
FIELDS = {
    "r": ("r", int),
    "lora_alpha": ("alpha", (int, float)),
    "lora_dropout": ("dropout", (int, float)),
    "target_modules": ("target_modules", list),
    "rslora": ("rslora", bool),
}
BASE_KEY = "base_model_name_or_path"


@dataclass(frozen=True)
class Adapter:
    """The LoRA layers of a model as a directory: what a checkpoint holds when they alone are trained.

    model: with the layers of `config`. base: name of the base model. fingerprint: see checkpoint.load_model().
    """

    model: object
    config: LoraConfig
    base: str
    fingerprint: dict

    def tensors(self):
        """{name: array} of what this rank has to write: the first one all factors, the others nothing. Tensor-parallel
        ranks call this together."""
        ranks, factors = self.model.ranks, lora_parameters(self.model)
        factors = {name: as_array(ranks.whole(name, factor), "float32") for name, factor in factors.items()}
        return {} if ranks.rank else factors

    def save(self, directory, tensors):
        """Write the adapter, whole and without its base model, with these tensors or arrays; nothing without any."""
        if not tensors:
            return
        write_arrays(tensors, Path(directory) / WEIGHTS_FILE)
        content = {key: getattr(self.config, name) for key, (name, _) in FIELDS.items()}
        write_json({**content, BASE_KEY: self.base}, Path(directory) / ADAPTER_CONFIG_FILE)
        write_json(self.fingerprint, Path(directory) / FINGERPRINT_FILE)

    def save_whole(self, directory):
        """Write the adapter. Tensor-parallel ranks call this together; the first one writes."""
        self.save(directory, self.tensors())

    def parameter_names(self, degree):
        """{name of a factor: name of its parameter} of this adapter divided among `degree` ranks."""
        model = checkpoint.empty_model(self.model.config, Ranks.imagined(degree))
        return checkpoint.parameter_names(add_lora(model, self.config))

    def load(self, directory):
        """Replace the LoRA layers' weights by those of a directory. Raises ModelError or DamageError."""
        manifest.verify(directory)
        stored = read_config(directory)[0]
        for key, (name, _) in FIELDS.items():
            if name != "dropout" and getattr(stored, name) != getattr(self.config, name):
                found, wanted = getattr(stored, name), getattr(self.config, name)
                raise ModelError(f"{directory}: {key} of this adapter is {found}, not {wanted}; leave the flag out")
        check_base(directory, self.fingerprint, self.base)
        path = Path(directory) / WEIGHTS_FILE
        weights = local_weights(read_weights_file(path), self.model.ranks.rank, self.model.ranks.size)
        assign(lora_parameters(self.model), weights, path)


def load_model(base, lora_path, dtype="float32", ranks=None):
    """The model in directory `base` with the adapter in directory `lora_path`, not merged, or without one (None);
    divided among tensor-parallel ranks, if there are any. Raises ModelError."""
    if lora_path is None:
        return checkpoint.load_model(base, dtype, ranks=ranks)
    config = read_config(lora_path)[0]
    fingerprint = {}
    model = checkpoint.load_model(base, dtype, fingerprint, ranks)
    add_lora(model, config)
    Adapter(model, config, str(base), fingerprint).load(lora_path)
    model.eval()
    return model


def load_merged(base, lora_path, dtype="float32"):
    """As load_model(), with the adapter added to the weights: a model like any other."""
    return merge_lora(load_model(base, lora_path, dtype))


def read_config(directory):
    """(LoraConfig, name of the base model) of an adapter directory. Raises ModelError."""
    directory = Path(directory)
    if not directory.is_dir():
        raise ModelError(f"{directory}: no such directory; give the directory of a LoRA adapter")
    for name in (ADAPTER_CONFIG_FILE, WEIGHTS_FILE, FINGERPRINT_FILE):
        if not (directory / name).is_file():
            raise ModelError(f"{directory}: no {name} there; it is no whole LoRA adapter")
    path = directory / ADAPTER_CONFIG_FILE
    content = read_object(path)
    unknown, missing = content.keys() - FIELDS.keys() - {BASE_KEY}, FIELDS.keys() - content.keys()
    if unknown or missing:
        kind, names = ("has an unknown", unknown) if unknown else ("lacks", missing)
        raise ModelError(f"{path}: {kind} key {min(names)}; only adapters that these scripts wrote can be read")
    for key, (_, kind) in FIELDS.items():
        value = content[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ModelError(f"{path}: {key} is {json.dumps(value)}, which it cannot be")
    if not all(isinstance(name, str) for name in content["target_modules"]):
        raise ModelError(f"{path}: target_modules must hold names of layers")
    try:
        config = LoraConfig(**{name: content[key] for key, (name, _) in FIELDS.items()})
    except UserError as error:
        raise ModelError(f"{path}: {error}") from None
    return config, content.get(BASE_KEY)


def check_base(directory, fingerprint, base):
    """Raise ModelError unless the adapter in a directory was trained on weights with this fingerprint."""
    recorded = read_object(Path(directory) / FINGERPRINT_FILE)
    differing = sorted(
        name for name in recorded.keys() | fingerprint.keys() if recorded.get(name) != fingerprint.get(name)
    )
    if not differing:
        return
    name = differing[0]
    here, there = fingerprint.get(name), recorded.get(name)
    if here is None:
        reason = f"{name} is missing here"
    elif there is None:
        reason = f"{name} was not there"
    elif here["shape"] != there["shape"]:
        reason = f"{name} was {there['shape']} and is {here['shape']}"
    else:
        reason = f"{len(differing)} of {len(fingerprint)} weights have other values, first {name}"
    trained_on = read_config(directory)[1]
    raise ModelError(
        f"{directory}: this adapter was not trained on {base}: {reason}; give the model it was trained on "
        f"({trained_on})"
    )
