"""The models that requests may name: a base model, and LoRA adapters of it that come and go."""

import threading
import time
from dataclasses import dataclass, replace

from glm.errors import UserError
from glm.serving.requests import Offer, Refusal

# The most characters of a name.
LONGEST = 100


@dataclass(frozen=True)
class Entry:
    """A model of a name: the number of its adapter, 0 without one; what it offers; since when it is there."""

    name: str
    adapter: int
    offer: Offer
    since: int
    path: str | None = None


class Catalogue:
    """A base model of a name and an Offer, with its adapters.

    adapters: reads adapters, None where none can be had. It has add(name, path, in_use), which gives the adapter's
    number, none of those in use, and a tokenization.Tokenizer with the adapter's way of making prompts, and raises
    UserError; and remove(name).
    """

    def __init__(self, name, offer, adapters=None):
        self.base, self.adapters = Entry(name, 0, offer, int(time.time())), adapters
        self.entries, self.lock = {name: self.base}, threading.Lock()

    def of(self, name):
        """The Entry of a name, the base model's for None. Raises Refusal."""
        entry = self.base if name is None else self.entries.get(name)
        if entry is None:
            raise unknown(name)
        return entry

    def listed(self):
        """The models as OpenAI's interface describes them."""
        return [self.described(entry) for entry in self.entries.values()]

    def described(self, entry):
        """A model as OpenAI's interface describes it; parent: the base model of an adapter."""
        about = {"id": entry.name, "object": "model", "created": entry.since, "owned_by": "glm"}
        return about if entry is self.base else {**about, "parent": self.base.name, "root": entry.path}

    def load(self, name, path, in_use=()):
        """Add the adapter of a directory; in_use: numbers of adapters that something is being decoded with. Raises
        Refusal."""
        if self.adapters is None:
            raise Refusal(422, "this server takes no adapters; start it with --lora NAME=DIR")
        if not 0 < len(name) <= LONGEST or not name.isprintable():
            raise Refusal(422, f"lora_name must be 1 to {LONGEST} printable characters", param="lora_name")
        with self.lock:
            if name in self.entries:
                raise Refusal(409, f"the model {name!r} is there already", param="lora_name", code="model_exists")
            try:
                number, tokenizer = self.adapters.add(name, path, in_use)
            except UserError as error:
                raise Refusal(422, str(error), param="lora_path") from None
            offer = replace(self.base.offer, tokenizer=tokenizer)
            self.entries = {**self.entries, name: Entry(name, number, offer, int(time.time()), str(path))}

    def unload(self, name):
        """Remove an adapter; what is being decoded with it goes on. Raises Refusal."""
        with self.lock:
            if name == self.base.name:
                raise Refusal(422, f"{name!r} is the base model, which stays", param="lora_name")
            if name not in self.entries:
                raise unknown(name)
            self.entries = {known: entry for known, entry in self.entries.items() if known != name}
            self.adapters.remove(name)


def unknown(name):
    """The Refusal of a name that no model has."""
    told = f"the model {name[:LONGEST]!r} is not here; GET /v1/models lists those that are"
    return Refusal(404, told, param="model", code="model_not_found")
