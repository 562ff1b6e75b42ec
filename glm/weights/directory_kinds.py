"""What a directory holds, by the names of its files: a model, a LoRA adapter or an exported program. One that is given
in another's place is told where it belongs."""

from pathlib import Path

from glm.files import descriptions
from glm.weights.schemas import Anything
from glm.weights.weight_sources import ModelError, names_of_weights

# As this project and PaddleNLP write it, and as PEFT does.
LORA_CONFIG_FILE, PEFT_CONFIG_FILE = "lora_config.json", "adapter_config.json"
# Graphs of exported programs.
PROGRAMS = ("*.pdmodel", "*.onnx")
MODEL, ADAPTER, PROGRAM = "model", "adapter", "program"


def kind_of(directory):
    """MODEL, ADAPTER, PROGRAM, or None for what is neither. A model's weights decide: anything may lie beside them."""
    directory = Path(directory)
    if names_of_weights(directory) or any(directory.glob("model_state.tp*")):
        return MODEL
    if adapter_config(directory):
        return ADAPTER
    return PROGRAM if any(path for pattern in PROGRAMS for path in directory.glob(pattern)) else None


def adapter_config(directory):
    """Path of the description of an adapter in a directory, None if there is none."""
    paths = (Path(directory) / name for name in (LORA_CONFIG_FILE, PEFT_CONFIG_FILE))
    return next((path for path in paths if path.is_file()), None)


def check_is_model(directory):
    """Raise ModelError if a directory holds an adapter or a program instead of a model."""
    kind = kind_of(directory)
    if kind == ADAPTER:
        base = descriptions.read(adapter_config(directory), Anything, ModelError).get("base_model_name_or_path")
        named = f" ({base})" if base else ""
        raise ModelError(
            f"{directory}: holds a LoRA adapter; give it as --lora_path, and its base as --model_name_or_path{named}"
        )
    if kind == PROGRAM:
        raise ModelError(
            f"{directory}: holds an exported program; infer_generation.py --model_path runs it, and here belongs the "
            "model that it was exported from"
        )


def check_is_adapter(directory):
    """Raise ModelError if there is no such directory, or it holds a model or a program instead of an adapter."""
    if not Path(directory).is_dir():
        raise ModelError(f"{directory}: no such directory; give the directory of a LoRA adapter")
    kind = kind_of(directory)
    if kind == MODEL and not adapter_config(directory):
        raise ModelError(f"{directory}: holds a whole model and no LoRA adapter; give it as --model_name_or_path alone")
    if kind == PROGRAM:
        raise ModelError(f"{directory}: holds an exported program and no LoRA adapter; give the adapter's directory")
