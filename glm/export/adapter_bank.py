"""LoRA adapters of one model for the ONNX graph that decodes prompts of several of them together. No paddle.

The graph has as inputs, of each linear layer of a transformer layer, the factors of all adapters, lora_A
[adapters, in, rank] and lora_B [adapters, rank, out]; and of each prompt the number of its adapter. Number 0 is none:
zeros. Ranks may differ: the smaller ones are filled up with zeros, which add nothing.
"""

import numpy as np

# What the graph calls the numbers of prompts' adapters.
ADAPTERS = "adapters"


def factor_names(layer, kind):
    """What the graph calls the factors of a linear layer of a transformer layer."""
    return f"lora_A.{layer}.{kind}", f"lora_B.{layer}.{kind}"


class AdapterBank:
    """Adapters by name. shapes: {(layer, kind): (in, out)} of the linear layers that they may change.

    numbers: {name: number}. arrays: {input of the graph: its array}; replaced as a whole, so that who is reading it
    goes on with what it was.
    """

    def __init__(self, shapes):
        self.shapes = shapes
        self.numbers, self.adapters = {}, [{}]
        self.arrays = self.stacked()

    def add(self, name, factors, in_use=()):
        """Add an adapter; gives its number, none of those in use.

        factors: {(layer, kind): (lora_A [in, rank], lora_B [rank, out])}, float32, one of them scaled.
        """
        taken = {0, *self.numbers.values(), *in_use}
        number = next(number for number in range(len(taken) + 1) if number not in taken)
        self.adapters += [{} for _ in range(number + 1 - len(self.adapters))]
        self.adapters[number] = factors
        self.arrays = self.stacked()
        self.numbers = {**self.numbers, name: number}
        return number

    def remove(self, name):
        """Forget an adapter. Prompts that are being decoded with it keep what they have: its number is not given to
        another one as long as that is in use."""
        self.numbers = {known: number for known, number in self.numbers.items() if known != name}

    def stacked(self):
        """arrays of the adapters that there are."""
        found = {}
        for place, (inputs, outputs) in self.shapes.items():
            pairs = [adapter.get(place) for adapter in self.adapters]
            rank = max((pair[0].shape[1] for pair in pairs if pair is not None), default=0)
            first = np.zeros([len(pairs), inputs, rank], "float32")
            second = np.zeros([len(pairs), rank, outputs], "float32")
            for number, pair in enumerate(pairs):
                if pair is not None:
                    first[number, :, : pair[0].shape[1]], second[number, : pair[1].shape[0]] = pair
            found.update(zip(factor_names(*place), (first, second), strict=True))
        return found
