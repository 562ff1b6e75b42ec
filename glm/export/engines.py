"""What decodes a model in Python: its own layers, or, on CPU and in float32, its ONNX graph in onnxruntime, which gives
the same texts faster. The graph is made at first use, and kept in the cache under what its weights are known by.

A model with an ONNX graph in the cache is decoded without paddle.
"""

import hashlib
import os
import shutil
import tempfile
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from glm.cache import own_cache_directory
from glm.command_line import UsageError
from glm.decoding import numpy_search
from glm.decoding.generation_config import SpecialIds, answered, check_positions
from glm.errors import UserError, note
from glm.files import cached, identities, locks
from glm.files.guarded import reason_of
from glm.ops import device
from glm.ops.processor import threads

FOLDER = "engines"
GRAPH = "glm.onnx"
# Graphs are as large as their models: of the ones used last, so many are kept.
KEPT = 3
# Searches that an engine keeps with their memory: generate_pairs.py takes turns with three.
SEARCHES = 3


def choice_of(asked, dtype, degree=1):
    """ "python" or "onnx", for --engine `asked`, of a model that is to compute in `dtype` on `degree` processes. Raises
    UsageError for what cannot be."""
    reasons = {
        "computes on CPU, and there is a GPU": device.takes_gpu_branches(),
        f"computes in float32, not {dtype}": dtype != "float32",
        "does not divide a model among processes": degree > 1,
        "needs onnxruntime and onnx: python -m pip install -r requirements.txt": not is_installed(),
    }
    against = next((reason for reason, holds in reasons.items() if holds), None)
    if asked == "onnx" and against:
        raise UsageError(f"--engine onnx {against}; leave it out")
    return "python" if asked == "python" or against else "onnx"


def is_installed():
    """Whether there is what makes graphs and runs them."""
    return bool(find_spec("onnxruntime") and find_spec("onnx"))


class OnnxEngine:
    """A graph that decodes prompts. path: of the graph; special: SpecialIds; positions: rows of position tables; bank:
    adapter_bank.AdapterBank of a graph that takes adapters."""

    def __init__(self, path, special, positions, bank=None):
        from glm.export.onnx_decoder import OnnxModel

        self.model, self.special, self.positions = OnnxModel(path, threads(), bank), special, positions
        # By structure. They keep their memory from one batch to the next.
        self.searches = {}

    def run(self, prompts, config, row_ids=None, on_token=None):
        """As decoder.run(), with any configuration; on_token: see numpy_search.Search."""
        check_positions(self.positions, prompts["input_ids"].shape[1], config.max_new_tokens)
        key = str(config.structure)
        # In the order in which they were last used.
        self.searches[key] = search = self.searches.pop(key, None) or self.open_search(config)
        while len(self.searches) > SEARCHES:
            del self.searches[next(iter(self.searches))]
        search.on_token = on_token
        return answered(lambda feeds: numpy_search.finished(search, feeds), prompts, config, row_ids)

    def open_search(self, config):
        """A numpy_search.Search without prompts."""
        return numpy_search.opened(self.model, config, self.special)


class PythonEngine:
    """A model's own layers."""

    def __init__(self, model, special):
        self.model, self.special = model, special
        # By structure.
        self.decoders = {}

    def run(self, prompts, config, row_ids=None, on_token=None):
        """As decoder.run(), with any configuration; on_token: see search.Rules."""
        from glm.decoding.decoder import run

        decoder = self.decoder(config)
        decoder.on_token = on_token
        return run(decoder, prompts, config, row_ids)

    def decoder(self, config):
        """The decoder.Decoder of a configuration's structure; all have one head."""
        from glm.decoding.decoder import Decoder

        key = str(config.structure)
        if key not in self.decoders:
            head = next((known.head for known in self.decoders.values()), None)
            self.decoders[key] = Decoder(self.model, config, self.special, head=head)
        return self.decoders[key]


def opened(asked, directory, lora_path, tokenizer, dtype="float32", ranks=None, bank=None):
    """What decodes the model in a directory, with an adapter or without (None), for --engine `asked`: an OnnxEngine or
    a PythonEngine.

    dtype: to compute in. ranks: ranks.Ranks among which the model is divided, or None. bank: adapter_bank.AdapterBank
    of adapters that come and go, or None. Raises UserError.
    """
    from glm.weights import model_directory

    model_config = model_directory.load_config(directory)
    special = SpecialIds.of(tokenizer, model_config.vocab_size)
    if choice_of(asked, dtype, 1 if ranks is None else ranks.size) == "onnx":
        try:
            path = graph_of(directory, lora_path, bank is not None)
            return OnnxEngine(path, special, model_config.max_sequence_length + 1, bank)
        except OSError as error:
            if asked == "onnx" or bank is not None:
                raise UserError(f"--engine onnx: no graph could be kept ({reason_of(error)}); leave it out") from None
            note(f"decoding in Python: no graph could be kept in the cache ({reason_of(error)})")
    from glm.model.outputs_first import laid_for_decoding
    from glm.weights import adapters

    return PythonEngine(laid_for_decoding(adapters.load_model(directory, lora_path, dtype, ranks)), special)


def graph_of(directory, lora_path=None, adapted=False):
    """Path of the ONNX graph of the model in a directory, with an adapter or without (None), or for adapters that come
    and go, in the cache; made unless it is there. Raises UserError and OSError."""
    target = place_of(directory, lora_path, adapted)
    target.parent.mkdir(mode=0o700, exist_ok=True)

    def make(workshop):
        from glm.export import onnx_program
        from glm.weights import adapters

        remove_oldest(target.parent, KEPT - 1)
        onnx_program.write(adapters.load_model(directory, lora_path), workshop / GRAPH, adapted=adapted)

    with waited_for(target):
        cached.cached(target, make, verify=identities.identity)
        os.utime(target)
    return target / GRAPH


def place_of(directory, lora_path, adapted=False):
    """Where in the cache the graph of a model is, or is to be; see graph_of(). Raises UserError and OSError."""
    directories = [directory, *filter(None, [lora_path])]
    known = [written_by(), *map(identities.identity, directories), *(["adapted"] if adapted else [])]
    return own_cache_directory() / FOLDER / hashlib.sha256(repr(known).encode()).hexdigest()[:32]


def needs_paddle(asked, directory, lora_path, dtype="float32", adapted=False):
    """Whether opened() will import paddle: for a model's layers, or to make a graph, for adapters that come and go if
    it is adapted. Raises UserError."""
    if choice_of(asked, dtype) == "python":
        return True
    try:
        target = place_of(directory, lora_path, adapted)
        return not target.is_dir() or cached.problem_of(target, identities.identity) is not None
    except OSError:
        return True


def written_by():
    """What stands for the code that writes graphs: one of another version is another graph."""
    folder = Path(__file__).parent
    return hashlib.sha256(
        b"".join((folder / f"onnx_{name}.py").read_bytes() for name in ("graph", "program"))
    ).hexdigest()


@contextmanager
def waited_for(target):
    """Context in which this process alone makes `target`; launched processes want the same one at once."""
    while True:
        try:
            with locks.held_for(target):
                yield
                return
        except locks.LockedError:
            time.sleep(0.2)


def remove_oldest(folder, kept):
    """Remove all but the graphs that were used last, so many."""
    found = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    for path in sorted(found, key=lambda path: -path.stat().st_mtime)[kept:]:
        shutil.rmtree(path, ignore_errors=True)


def of_model(model, special):
    """An OnnxEngine of a model's weights as they are now, float32 on CPU and whole. Raises OSError."""
    from glm.export import onnx_program

    with tempfile.TemporaryDirectory(dir=own_cache_directory(), prefix=".engine-") as directory:
        onnx_program.write(model, Path(directory) / GRAPH)
        # It has the weights that it packs, and the file that it maps, for as long as it lives.
        return OnnxEngine(Path(directory) / GRAPH, special, model.config.max_sequence_length + 1)
