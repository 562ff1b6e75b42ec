"""What the JSON files of model and adapter directories may say: types, and bounds of what is made of their numbers."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

# As large as no model is: what a configuration asks for is held against the files of weights besides.
LARGEST_MODEL = {"num_layers": 10_000, "hidden_size": 2**20, "num_attention_heads": 2**20, "vocab_size": 2**31}
LARGEST_MODEL |= {"max_sequence_length": 2**31}


def size(largest):
    """A whole number from 1 on."""
    return Annotated[int, Field(ge=1, le=largest)]


Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
Name = Annotated[str, Field(max_length=4096)]


class ModelSchema(BaseModel):
    """config.json: what a GLM is made from. Other keys are passed over."""

    model_config = ConfigDict(extra="ignore")

    model_type: Literal["glm"] = "glm"
    num_layers: size(LARGEST_MODEL["num_layers"])
    hidden_size: size(LARGEST_MODEL["hidden_size"])
    num_attention_heads: size(LARGEST_MODEL["num_attention_heads"])
    vocab_size: size(LARGEST_MODEL["vocab_size"])
    max_sequence_length: size(LARGEST_MODEL["max_sequence_length"])
    embedding_dropout_prob: Probability = 0.1
    attention_dropout_prob: Probability = 0.1
    output_dropout_prob: Probability = 0.1
    initializer_range: Annotated[float, Field(ge=0, le=1e6)] = 0.02
    layernorm_epsilon: Positive = 1e-5
    attention_scale: Positive = 1.0
    block_position_encoding: Literal[True] = True
    relative_encoding: Literal[False] = False
    dtype: Name | None = None
    torch_dtype: Name | None = None
    tensor_parallel_degree: Annotated[int, Field(ge=-1, le=2**16)] | None = None


# What of a config.json goes into GLMConfig; the rest says how files were stored, or what paddlenlp would do with it.
MODEL_KEYS = frozenset(ModelSchema.model_fields) - {"model_type", "dtype", "torch_dtype", "tensor_parallel_degree"}


class AdapterSchema(BaseModel):
    """lora_config.json, with paddlenlp's keys."""

    model_config = ConfigDict(extra="forbid")

    r: size(2**16)
    lora_alpha: Positive
    lora_dropout: Annotated[float, Field(ge=0, lt=1)]
    target_modules: Annotated[list[Name], Field(min_length=1, max_length=100)]
    rslora: bool
    base_model_name_or_path: Name | None = None


class PaddleAdapterSchema(BaseModel):
    """lora_config.json as PaddleNLP writes it. Other keys are for stored_adapters to refuse."""

    model_config = ConfigDict(extra="allow")

    r: size(2**16)
    lora_alpha: Positive
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    rslora: bool = False
    base_model_name_or_path: Name | None = None


class PeftAdapterSchema(BaseModel):
    """adapter_config.json as PEFT writes it. Other keys are for stored_adapters to refuse."""

    model_config = ConfigDict(extra="allow")

    peft_type: Name
    r: size(2**16)
    lora_alpha: Positive
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    use_rslora: bool = False
    target_modules: Annotated[list[Name], Field(max_length=10_000)] | Name | None = None
    base_model_name_or_path: Name | None = None


class WeightSchema(BaseModel):
    """A weight of base_fingerprint.json."""

    model_config = ConfigDict(extra="forbid")

    shape: Annotated[list[Annotated[int, Field(ge=0, le=2**40)]], Field(max_length=8)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


Fingerprint = dict[Name, WeightSchema]
Anything = dict[str, Any]
