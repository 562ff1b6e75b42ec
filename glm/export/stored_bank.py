"""LoRA adapters as their directories have them → the bank that a graph decodes with."""

from copy import copy

from glm.export.adapter_bank import AdapterBank
from glm.weights import adapters, model_directory


class StoredBank:
    """Adapters of the model in a directory: read, held against the model, and put into an AdapterBank, `bank`.

    directory: of the model. tokenizer: its tokenization.Tokenizer. Raises UserError.
    """

    def __init__(self, directory, tokenizer):
        self.directory, self.tokenizer = directory, tokenizer
        self.bank = AdapterBank(adapters.shapes_of_layers(model_directory.load_config(directory)))
        self.fingerprint = model_directory.fingerprint_of(directory)

    def add(self, name, path, in_use=()):
        """(number, Tokenizer) of the adapter in a directory; see AdapterBank.add(). Raises UserError."""
        factors, preparation = adapters.read_factors(path, self.directory, self.fingerprint)
        tokenizer = copy(self.tokenizer)
        tokenizer.preparation = preparation or self.tokenizer.preparation
        return self.bank.add(name, factors, in_use), tokenizer

    def remove(self, name):
        """Forget an adapter."""
        self.bank.remove(name)
