"""LoRA adapters written as PEFT reads them, without PEFT: see stored_adapters for names and layout."""

import numpy as np

from glm.data import preparation
from glm.files import manifest
from glm.files.atomic import new_directory
from glm.weights.directory_kinds import PEFT_CONFIG_FILE
from glm.weights.stored_adapters import read_adapter
from glm.weights.stored_weights import check_finite, write_json
from glm.weights.weight_sources import ModelError
from glm.weights.weight_writers import PyTorchSafetensorsWriter


def export(source, target, base):
    """Write the adapter in directory `source`, whoever has written it, into the new directory `target` as PEFT would.

    base: name of the base model, where the adapter knows none. One factor at a time is in memory. Raises ModelError.
    """
    manifest.verify(source)
    adapter = read_adapter(source)
    names = set(adapter.weights.shapes)
    for name in sorted(names):
        other = name[:-1] + ("B" if name.endswith("A") else "A")
        if other not in names:
            raise ModelError(f"{source}: has {name} and lacks {other}")
    with new_directory(target, facts={}) as workshop:
        write_json(description(adapter, base), workshop / PEFT_CONFIG_FILE)
        write_factors(adapter, workshop / "adapter_model.safetensors")
        if (prepared := preparation.read(source)) is not None:
            preparation.write(prepared, workshop)


def description(adapter, base):
    """adapter_config.json of a StoredAdapter: the keys that PEFT has had from rslora's beginning, in its order."""
    config = adapter.config
    return {
        "auto_mapping": None,
        "base_model_name_or_path": adapter.base or str(base),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": int(config.alpha) if config.alpha == int(config.alpha) else config.alpha,
        "lora_dropout": config.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": config.r,
        "revision": None,
        "target_modules": list(config.target_modules),
        # What THUDM's own code registers GLM as.
        "task_type": "SEQ_2_SEQ_LM",
        "use_rslora": config.rslora,
    }


def write_factors(adapter, path):
    """Write the factors of a StoredAdapter in PEFT's names and PyTorch's layout, in the dtypes that they have."""
    weights = adapter.weights
    names = {f"base_model.model.{name}.weight": name for name in weights.shapes}
    shapes = {new: weights.shapes[name][::-1] for new, name in names.items()}
    dtypes = {new: weights.dtypes[name] for new, name in names.items()}
    with PyTorchSafetensorsWriter(path, shapes, dtypes) as writer:
        for name in names.values():
            array = weights.take(name)
            check_finite(array, name, adapter.path.parent)
            writer.write(np.ascontiguousarray(array.T))
