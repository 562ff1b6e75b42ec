"""Small random models and prompts for tests, with weights so large that no choice of a piece is nearly tied."""

import numpy as np
import paddle
import paddlenlp.transformers

from glm.data import examples, templates
from glm.decoding.generation_config import SpecialIds
from glm.model.configuration import GLMConfig
from glm.model.modeling import GLMForConditionalGeneration

VOCAB = 160
TEXT = 150  # ids below this one are ordinary pieces
PAD, CLS, MASK, SOP = 150, 152, 153, 156
SPECIAL = range(TEXT, VOCAB)
# One of the ordinary pieces plays <|endofpiece|>: the model then ends some texts early and others never.
EOP = 100


def model_config(**changes):
    """A GLMConfig: 3 layers, hidden size 48, no dropout."""
    values = {
        "num_layers": 3,
        "hidden_size": 48,
        "num_attention_heads": 4,
        "vocab_size": VOCAB,
        "max_sequence_length": 128,
        "embedding_dropout_prob": 0.0,
        "attention_dropout_prob": 0.0,
        "output_dropout_prob": 0.0,
        "attention_scale": 1.0,
    }
    return GLMConfig(**{**values, **changes})


def make_model(seed=1, **changes):
    """Our model in evaluation mode, its weights drawn by NumPy: normal, around 1 for the scales of layer norms.

    Block positions weigh double: else greedy search soon repeats one piece for ever, and tests see little.
    """
    model = GLMForConditionalGeneration(model_config(**changes))
    rng = np.random.default_rng(seed)
    state = {}
    for name, tensor in sorted(model.state_dict().items()):
        centre = 1.0 if "layernorm.weight" in name else 0.0
        scale = 0.1 if "layernorm" in name or name.endswith("bias") else 0.3
        scale *= 2 if "block_position" in name else 1
        state[name] = (centre + scale * rng.standard_normal(tensor.shape)).astype("float32")
    missing, unexpected = model.set_state_dict(state)
    assert not missing
    assert not unexpected
    model.eval()
    return model


def stock_config(config):
    """paddlenlp's own GLMConfig of ours."""
    return paddlenlp.transformers.GLMConfig(**vars(config), output_predict=True)


def stock_twin(model):
    """paddlenlp's own model with the same weights."""
    stock = paddlenlp.transformers.GLMForConditionalGeneration(stock_config(model.config))
    missing, unexpected = stock.set_state_dict({name: value.numpy() for name, value in model.state_dict().items()})
    assert not missing
    assert not unexpected
    stock.eval()
    return stock


def encoded(source, target=None):
    """An examples.Encoded of given ids."""
    source = np.array(source, np.int32)
    target = None if target is None else np.array(target, np.int32)
    return examples.Encoded(
        templates.Example("", "", ""), source, target, len(source), 0 if target is None else len(target)
    )


def random_source(rng, length):
    """Ids of a source of `length` pieces, [CLS] text [MASK] <|endoftext|>."""
    return [CLS, *rng.integers(0, TEXT, length - 3), MASK, PAD]


def random_rows(lengths, seed=0):
    """examples.Encoded rows for (source length, target length) pairs."""
    rng = np.random.default_rng(seed)
    return [encoded(random_source(rng, source), rng.integers(0, TEXT, target)) for source, target in lengths]


def tensors(arrays):
    """Paddle tensors of a dict of arrays."""
    return {name: paddle.to_tensor(array) for name, array in arrays.items()}


def padded_batch(rows):
    """A padded training batch as tensors."""
    return tensors(examples.collate_padded(rows, PAD, SOP))


def training_batch(rows):
    """A training batch without padding, as keyword arguments of a model."""
    arrays = examples.collate(rows, SOP)
    return {**tensors(arrays), "divisor": float(len(arrays["labels"]))}


def random_prompts(lengths, seed=0):
    """Collated prompts (numpy) with sources of the given lengths."""
    rng = np.random.default_rng(seed)
    return examples.collate_prompts([encoded(random_source(rng, length)) for length in lengths], PAD)


def special_ids(eop=EOP):
    """SpecialIds of these models, with all special pieces banned."""
    return SpecialIds(sop=SOP, eop=eop, pad=PAD, banned=tuple(SPECIAL))


def trimmed(ids, eop=EOP, pad=PAD):
    """Rows of ids as lists that end with their first end piece. Raises if anything but padding follows it."""
    texts = []
    for row in np.asarray(ids).tolist():
        length = row.index(eop) + 1 if eop in row else len(row)
        assert set(row[length:]) <= {pad}
        texts.append(row[:length])
    return texts


def gradients(model, loss):
    """Gradients of all trained parameters by name, after backward(); they are cleared in the model."""
    loss.backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if not parameter.stop_gradient}
    result = {name: parameter.grad.numpy() for name, parameter in trained.items()}
    model.clear_gradients()
    return result


def assert_same_gradients(actual, expected, tolerance=1e-6):
    assert set(actual) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-5, atol=tolerance, err_msg=name)
        assert np.abs(value).max() > 100 * tolerance, f"{name}: nothing to compare"
