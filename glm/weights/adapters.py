"""Directories of LoRA adapters: written, read, and held against the base model that they were trained on. Those of
PaddleNLP and PEFT are read, too; see stored_adapters.

    lora_model_state.safetensors    lora_A and lora_B of each layer, under the layer's name
    lora_config.json                lora.LoraConfig, and the name of the base model
    base_fingerprint.json           shape and SHA-256 of every weight of the base model
    prompt.json                     preparation.Preparation

Importing this imports paddle.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glm.data import preparation
from glm.data.preparation import DEFAULT, Preparation
from glm.errors import warn
from glm.files import descriptions, manifest
from glm.model.lora import LoraConfig, add_lora, lora_parameters, merge_lora
from glm.ops.dtypes import to_numpy
from glm.parallel.ranks import Ranks
from glm.weights import model_directory
from glm.weights.directory_kinds import LORA_CONFIG_FILE
from glm.weights.schemas import Fingerprint
from glm.weights.stored_adapters import (
    BASE_KEY,
    FINGERPRINT_FILE,
    PADDLE_FIELDS,
    WEIGHTS_FILE,
    read_adapter,
)
from glm.weights.stored_weights import assign, expected_shapes, local_weights, write_arrays, write_json
from glm.weights.weight_sources import ModelError

# Key in lora_config.json → field of LoraConfig; the keys are paddlenlp's.
FIELDS = {**PADDLE_FIELDS, "target_modules": "target_modules"}
# What the names of transformer layers' parameters begin with.
LAYERS = "glm.transformer.layers."


@dataclass(frozen=True)
class Adapter:
    """The LoRA layers of a model as a directory: what a checkpoint holds when they alone are trained.

    model: with the layers of `config`. base: name of the base model. fingerprint: see model_directory.load_model().
    preparation: how prompts of the adapter are made, whatever the base model's are.
    """

    model: object
    config: LoraConfig
    base: str
    fingerprint: dict
    preparation: Preparation = DEFAULT

    def tensors(self):
        """{name: array} of what this rank has to write: the first one all factors, the others nothing. Tensor-parallel
        ranks call this together."""
        ranks, factors = self.model.ranks, lora_parameters(self.model)
        factors = {
            name: to_numpy(ranks.whole(name, factor)).astype("float32", copy=False) for name, factor in factors.items()
        }
        return {} if ranks.rank else factors

    def save(self, directory, tensors):
        """Write the adapter, whole and without its base model, with these tensors or arrays; nothing without any."""
        if not tensors:
            return
        write_arrays(tensors, Path(directory) / WEIGHTS_FILE)
        content = {key: getattr(self.config, name) for key, name in FIELDS.items()}
        write_json({**content, BASE_KEY: self.base}, Path(directory) / LORA_CONFIG_FILE)
        write_json(self.fingerprint, Path(directory) / FINGERPRINT_FILE)
        preparation.write(self.preparation, directory)

    def save_whole(self, directory):
        """Write the adapter. Tensor-parallel ranks call this together; the first one writes."""
        self.save(directory, self.tensors())

    def parameter_names(self, degree):
        """{name of a factor: name of its parameter} of this adapter divided among `degree` ranks."""
        model = model_directory.empty_model(self.model.config, Ranks.imagined(degree))
        return model_directory.parameter_names(add_lora(model, self.config))

    def load(self, directory):
        """Replace the LoRA layers' weights by those of a directory. Raises ModelError or DamageError."""
        manifest.verify(directory)
        stored = read_adapter(directory)
        for key, name in FIELDS.items():
            if name != "dropout" and getattr(stored.config, name) != getattr(self.config, name):
                found, wanted = getattr(stored.config, name), getattr(self.config, name)
                raise ModelError(f"{directory}: {key} of this adapter is {found}, not {wanted}; leave the flag out")
        check_stored_base(stored, directory, self.fingerprint, self.base, self.model.ranks.rank == 0)
        weights = local_weights(stored.weights, self.model.ranks.rank, self.model.ranks.size)
        assign(lora_parameters(self.model), weights, stored.place)


def check_stored_base(stored, directory, fingerprint, base, warns=True):
    """check_base() of a StoredAdapter that says what its base was; of another one it is said that it does not."""
    if stored.has_fingerprint:
        check_base(directory, fingerprint, base)
    elif warns:
        warn(
            f"{directory}: an adapter of {stored.kind}, which does not say what weights it was trained on; that "
            f"{base} is its base is taken on trust"
        )


def read_factors(directory, base, fingerprint):
    """(factors, Preparation or None) of the adapter in a directory, held against its base model: {(layer, kind):
    (lora_A [in, r], lora_B [r, out])}, the second one scaled.

    base: directory of the model. fingerprint: see model_directory.fingerprint_of(). Raises ModelError and DamageError.
    """
    manifest.verify(directory)
    stored = read_adapter(directory)
    check_stored_base(stored, directory, fingerprint, base)
    shapes, found = shapes_of_layers(model_directory.load_config(base)), {}
    for name in stored.weights.shapes:
        if not name.endswith(".lora_A"):
            continue
        layer, kind = name.removeprefix(LAYERS).removesuffix(".lora_A").split(".", 1)
        pair = [np.float32(stored.weights.take(f"{LAYERS}{layer}.{kind}.lora_{factor}")) for factor in "AB"]
        if shapes.get((int(layer), kind)) != (pair[0].shape[0], pair[1].shape[1]):
            raise ModelError(f"{stored.place}: {name} does not fit {base}, which has another shape")
        found[int(layer), kind] = pair[0], pair[1] * np.float32(stored.config.scaling)
    return found, preparation.read(directory)


def load_model(base, lora_path, dtype="float32", ranks=None):
    """The model in directory `base` with the adapter in directory `lora_path`, not merged, or without one (None);
    divided among tensor-parallel ranks, if there are any. Raises ModelError."""
    if lora_path is None:
        return model_directory.load_model(base, dtype, ranks=ranks)
    stored, fingerprint = read_adapter(lora_path), {}
    model = model_directory.load_model(base, dtype, fingerprint, ranks)
    add_lora(model, stored.config)
    Adapter(model, stored.config, str(base), fingerprint).load(lora_path)
    model.eval()
    return model


def load_merged(base, lora_path, dtype="float32"):
    """As load_model(), with the adapter added to the weights: a model like any other."""
    return merge_lora(load_model(base, lora_path, dtype))


def read_config(directory):
    """(LoraConfig, name of the base model) of an adapter directory. Raises ModelError."""
    stored = read_adapter(directory)
    return stored.config, stored.base


def check_base(directory, fingerprint, base):
    """Raise ModelError unless the adapter in a directory was trained on weights with this fingerprint."""
    recorded = descriptions.read(Path(directory) / FINGERPRINT_FILE, Fingerprint, ModelError)
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


def shapes_of_layers(config):
    """{(layer, kind): (in, out)} of the linear layers that adapters of a GLMConfig's model may change."""
    found = {}
    for name, shape in expected_shapes(vars(config)).items():
        if name.startswith(LAYERS) and len(shape) == 2:
            layer, kind = name.removeprefix(LAYERS).removesuffix(".weight").split(".", 1)
            found[int(layer), kind] = shape
    return found
