"""The shape of a GLM: GLMConfig, with the names and defaults of paddlenlp's class of that name. Only the standard
library."""

from dataclasses import dataclass

# What a config.json says besides, for paddlenlp: which of its classes reads the directory.
KIND = {"model_type": "glm", "architectures": ["GLMForConditionalGeneration"], "output_predict": True}


@dataclass
class GLMConfig:
    """Sizes, probabilities of dropout and constants of a model.

    max_sequence_length: the last position; the tables of positions have one row more. attention_scale: what stock
    paddlenlp divides scores by and multiplies them with again. initializer_range: standard deviation of weights that
    are drawn. dtype: of the parameters that a model is made with.
    """

    num_layers: int = 24
    hidden_size: int = 1024
    num_attention_heads: int = 16
    vocab_size: int = 30592
    max_sequence_length: int = 512
    embedding_dropout_prob: float = 0.1
    attention_dropout_prob: float = 0.1
    output_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    layernorm_epsilon: float = 1e-5
    attention_scale: float = 1.0
    block_position_encoding: bool = True
    relative_encoding: bool = False
    dtype: str = "float32"

    def as_dict(self):
        """What config.json holds, by its keys."""
        return {**KIND, **vars(self)}
