"""Dropout (Srivastava et al. 2014) whose draws depend on a key and a place alone: a run that is resumed draws the same
again, and so does a layer that is computed a second time.

On CPU the random bits are NumPy's: paddle's dropout takes several times as long. On GPU they are paddle's, whose
generator is seeded from the key.
"""

import numpy as np
import paddle
import paddle.nn.functional as F

from glm.ops import device
from glm.ops.cpu_kernels import Dropped

# The place of NEFTune's noise; layers count up from 1, and 0 is the dropout of embeddings.
NEFTUNE = 2**32 - 1


class Noise:
    """The random draws of one forward pass in training.

    key: integers that tell this pass from every other of the run: seed, step, micro-batch, rank.
    neftune_alpha: see add_to_embeddings().
    """

    def __init__(self, *key, neftune_alpha=0.0):
        self.key = [int(number) for number in key]
        self.neftune_alpha = neftune_alpha
        if device.takes_gpu_branches():
            paddle.seed(int(np.random.SeedSequence(self.key).generate_state(1)[0]))

    def generator(self, *place):
        """A NumPy generator for a place in the model (integers), the same each time it is asked for."""
        return np.random.Generator(np.random.SFC64(np.random.SeedSequence([*self.key, *place])))

    def dropout(self, probability, *place):
        """The dropout of a place in the model (integers)."""
        return Dropout(probability, self.generator(*place)) if probability else unchanged

    def add_to_embeddings(self, hidden, layout):
        """hidden [tokens, hidden] with NEFTune's noise (Jain et al. 2023, https://arxiv.org/abs/2310.05914): uniform
        between -1 and 1, times neftune_alpha / sqrt(tokens of the example * hidden)."""
        if not self.neftune_alpha:
            return hidden
        uniform = self.generator(NEFTUNE).random(hidden.shape, dtype="float32") * 2 - 1
        lengths = np.repeat(layout.totals, layout.totals).astype("float32")
        sizes = self.neftune_alpha / np.sqrt(lengths * hidden.shape[1])
        return hidden + paddle.to_tensor(uniform * sizes[:, None]).astype(hidden.dtype)


class Dropout:
    """A callable that drops each number with a probability and scales the others up. Every call draws anew."""

    def __init__(self, probability, generator):
        self.probability = probability
        self.generator = generator

    def __call__(self, tensor):
        if device.takes_gpu_branches():
            return F.dropout(tensor, self.probability)
        return Dropped.apply(tensor, self.kept(tensor.size), 1.0 / (1.0 - self.probability))

    def kept(self, count):
        """[count] bool, each False with the probability, to 1 / 65536."""
        bits = self.generator.bit_generator.random_raw(-(-count // 4)).view(np.uint16)[:count]
        return bits >= np.uint16(round(self.probability * 2**16))


def unchanged(tensor):
    """Dropout that drops nothing."""
    return tensor


unchanged.probability = 0.0


def dropout_at(noise, layer, *place):
    """The dropout of a place in the model (integers), with the probability of a paddle.nn.Dropout.

    noise: Noise; None drops nothing.
    """
    return unchanged if noise is None else noise.dropout(layer.p, *place)
