"""The layers that hold a GLM's parameters, under the names that paddlenlp's GLM gives them; modeling.py computes.

    glm.word_embeddings.weight                                    [vocab, hidden]
    glm.transformer.position_embeddings.weight                    [max_sequence_length + 1, hidden]
    glm.transformer.block_position_embeddings.weight              the same
    glm.transformer.layers.N.input_layernorm.{weight,bias}        [hidden]
    glm.transformer.layers.N.attention.query_key_value            Linear [hidden, 3 * hidden]
    glm.transformer.layers.N.attention.dense                      Linear [hidden, hidden]
    glm.transformer.layers.N.post_attention_layernorm             as input_layernorm
    glm.transformer.layers.N.mlp.dense_h_to_4h, .dense_4h_to_h    Linear [hidden, 4 * hidden] and back
    glm.transformer.final_layernorm                               as input_layernorm

They are made in paddlenlp's order, too: an optimizer's state is kept under names that count them.
"""

import paddle
from paddle import nn


class Embedding(nn.Embedding):
    """A table of hidden states, by ids."""

    def forward(self, ids, tied=None):
        """The rows at ids [...]; tied: for a weight that is the head's, too, the TiedGradient of both, or None."""
        return super().forward(ids) if tied is None else tied.rows(self.weight, ids)


def drawn(config):
    """How weights begin that nothing is loaded into."""
    return paddle.ParamAttr(initializer=nn.initializer.Normal(0.0, config.initializer_range))


def linear(config, inputs, outputs):
    """A linear layer [inputs, outputs] with a bias, which begins at 0."""
    return nn.Linear(inputs, outputs, weight_attr=drawn(config))


def embedding(config, rows):
    """A table of `rows` hidden states."""
    return Embedding(rows, config.hidden_size, weight_attr=drawn(config))


def layer_norm(config):
    """Layer normalisation of hidden states."""
    return nn.LayerNorm(config.hidden_size, epsilon=config.layernorm_epsilon)


class Attention(nn.Layer):
    """Self-attention."""

    def __init__(self, config):
        super().__init__()
        self.query_key_value = linear(config, config.hidden_size, 3 * config.hidden_size)
        self.dense = linear(config, config.hidden_size, config.hidden_size)
        self.attention_dropout = nn.Dropout(config.attention_dropout_prob)
        self.output_dropout = nn.Dropout(config.output_dropout_prob)


class MLP(nn.Layer):
    """Two linear layers, between which hidden states are four times as wide."""

    def __init__(self, config):
        super().__init__()
        self.dense_h_to_4h = linear(config, config.hidden_size, 4 * config.hidden_size)
        self.dense_4h_to_h = linear(config, 4 * config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.output_dropout_prob)


class Block(nn.Layer):
    """A transformer layer, normalised before attention and before the MLP."""

    def __init__(self, config):
        super().__init__()
        self.input_layernorm = layer_norm(config)
        self.attention = Attention(config)
        self.post_attention_layernorm = layer_norm(config)
        self.mlp = MLP(config)


class Stack(nn.Layer):
    """Both tables of positions, and the transformer layers. enable_recompute: whether training computes a layer's
    forward pass again in the backward pass, instead of keeping what it needs of it."""

    def __init__(self, config):
        super().__init__()
        self.enable_recompute = False
        self.embedding_dropout = nn.Dropout(config.embedding_dropout_prob)
        self.position_embeddings = embedding(config, config.max_sequence_length + 1)
        self.block_position_embeddings = embedding(config, config.max_sequence_length + 1)
        self.layers = nn.LayerList([Block(config) for _ in range(config.num_layers)])
        self.final_layernorm = layer_norm(config)


class GLM(nn.Layer):
    """All parameters of a GLMConfig's model. The head of a language model is its word embeddings."""

    def __init__(self, config):
        super().__init__()
        if config.hidden_size % config.num_attention_heads:
            raise ValueError(f"hidden_size {config.hidden_size} is no multiple of {config.num_attention_heads} heads")
        self.word_embeddings = embedding(config, config.vocab_size)
        self.transformer = Stack(config)
