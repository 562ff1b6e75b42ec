"""An ONNX graph of onnx_program.py, run by onnxruntime, as the model of numpy_search.py: OnnxModel. No paddle in it."""

import os

import numpy as np
import onnxruntime

from glm.decoding.key_values import Buffer, shape_of_entries
from glm.export.adapter_bank import ADAPTERS
from glm.export.whole_numbers import LARGEST, ROWS, SCALES, WORDS
from glm.files.native_paths import native_path
from glm.ops.processor import sums_in_32_bits

# Tokens from which on results are worth placing.
LONG = 16


class EmbeddingRows:
    """Rows of the embeddings, read one by one from the file of weights. As a part of the graph they would be mapped,
    and the system maps the neighbours of what is read, too: a prompt would take the memory of nearly all.

    path: of the file; rows, scales: where in it they begin. shape: of the embeddings.
    """

    def __init__(self, path, rows, scales, shape):
        self.file, self.first, self.width = open(path, "rb"), rows, shape[1]  # noqa: SIM115 (open as long as it lives)
        self.scales = np.fromfile(path, "float32", shape[0], offset=scales)

    def __call__(self, ids):
        """Embeddings [..., hidden] float32 of ids."""
        unique, places = np.unique(ids.reshape(-1), return_inverse=True)
        parts = [
            os.pread(self.file.fileno(), self.width, self.first + number * self.width) for number in unique.tolist()
        ]
        rows = np.frombuffer(b"".join(parts), "int8").reshape([-1, self.width])
        return (rows * self.scales[unique, None])[places].reshape([*ids.shape, self.width])


class OnnxModel:
    """A numpy_search.Model.

    path: of the graph. threads: CPU threads that it may use. bank: adapter_bank.AdapterBank of a graph that takes
    adapters; a prompt without one has the number 0.
    """

    def __init__(self, path, threads, bank=None):
        self.bank = bank
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Its threads wait for the next operator by spinning, which is faster, but not for the next call.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        with native_path(path) as name:
            self.session = onnxruntime.InferenceSession(name, options, providers=["CPUExecutionProvider"])
        shapes = {value.name: value.shape for value in (*self.session.get_inputs(), *self.session.get_outputs())}
        self.of_tokens, self.vocab_size = {}, shapes["logits"][2]
        if "token_range" in shapes:
            # Half of what 8 bits hold, where larger sums would be cut off.
            largest = LARGEST if sums_in_32_bits() else 63
            self.of_tokens["token_range"] = np.array([largest], "float32")
            self.of_tokens["token_zero"] = np.array([largest + 1], "uint8")
        self.embeddings = None
        if WORDS in shapes:
            places = self.session.get_modelmeta().custom_metadata_map
            size = self.vocab_size, shapes[WORDS][2]
            self.embeddings = EmbeddingRows(f"{path}.data", int(places[ROWS]), int(places[SCALES]), size)
        self.numbers = [name.partition(".")[2] for name in shapes if name.startswith("settled.")]
        kinds = [shapes[f"settled.{number}"] for number in self.numbers]
        self.axes = [3 if isinstance(kind[2], int) else 2 for kind in kinds]
        self.heads, self.head_dim = kinds[0][1], kinds[0][5 - self.axes[0]]
        self.buffers = [Buffer() for _ in self.numbers]
        self.outputs = ["logits", *(f"grown.{number}" for number in self.numbers)]
        # Programs of before have a second part of what came before, and read no source and target at once.
        self.is_of_before = "recent.0" in shapes

    def nothing(self, prompts):
        """Keys and values of no token."""
        return [np.zeros(shape, "float32") for shape in self.shapes(prompts, 0)]

    def shapes(self, prompts, entries):
        """Shapes of keys and values with so many entries."""
        return [shape_of_entries(prompts, self.heads, entries, self.head_dim, axis) for axis in self.axes]

    def prefill(self, input_ids, source_mask, mask_index, start, adapters=None):
        """See numpy_search.Model."""
        prompts, length = input_ids.shape
        if self.is_of_before:
            return self.prefill_in_two(input_ids, source_mask, mask_index, start)
        ids = np.concatenate([input_ids, np.full([prompts, 1], start)], axis=1)
        positions = np.zeros([prompts, 2, length + 1], "int64")
        positions[:, 0, :length] = np.arange(length)
        positions[:, :, length] = np.stack([mask_index, np.ones_like(mask_index)], axis=1)
        # All tokens see the source, and the first of the target itself, too.
        visible = np.zeros([prompts, length + 1, length + 1], "float32")
        visible[:, :, :length] = source_mask[:, None]
        visible[:, length, length] = 1
        logits, entries = self.run(ids, positions, visible, length, self.nothing(prompts), adapters)
        return logits[:, 0], entries

    def prefill_in_two(self, input_ids, source_mask, mask_index, start):
        """prefill(), the source and the piece behind it one after the other."""
        prompts, length = input_ids.shape
        positions = np.stack([np.arange(length), np.zeros(length, "int64")])[None]
        _, source = self.run(input_ids, positions, source_mask[:, None], length, self.nothing(prompts))
        visible = np.concatenate([source_mask, np.ones([prompts, 1], "float32")], axis=1)[:, None]
        start = np.full([prompts, 1], start)
        logits, target = self.step(start, mask_index, np.zeros_like(mask_index), source, visible)
        return logits, [np.concatenate(pair, axis=2) for pair in zip(source, target, strict=True)]

    def step(self, tokens, places, numbers, settled, visible, adapters=None):
        """See numpy_search.Model."""
        positions = np.stack([places, numbers + 1], axis=1)[:, :, None]
        positions = np.broadcast_to(positions, [*positions.shape[:2], tokens.shape[1]])
        logits, entries = self.run(tokens, positions, visible, 0, settled, adapters)
        return logits.reshape([-1, self.vocab_size]), entries

    def adapters_of(self, prompts, adapters):
        """Inputs of a graph that takes adapters; adapters: their numbers int64 [prompts], None where there are none."""
        if self.bank is None:
            return {}
        numbers = np.zeros(prompts, "int64") if adapters is None else adapters
        return {ADAPTERS: np.ascontiguousarray(numbers), **self.bank.arrays}

    def run(self, input_ids, position_ids, visible, answer_from, settled, adapters=None):
        """What the graph gives: logits, and the tokens' keys and values, until the next call."""
        words = {} if self.embeddings is None else {WORDS: self.embeddings(input_ids)}
        feeds = {
            **words,
            "input_ids": np.ascontiguousarray(input_ids),
            "position_ids": np.ascontiguousarray(position_ids),
            "visible": visible,
            "answer_from": np.array([answer_from]),
            **self.of_tokens,
            **self.adapters_of(len(input_ids), adapters),
        }
        parts = {"settled": settled, **({"recent": self.nothing(len(input_ids))} if self.is_of_before else {})}
        for part, arrays in parts.items():
            feeds.update((f"{part}.{number}", array) for number, array in zip(self.numbers, arrays, strict=True))
        prompts, length = input_ids.shape
        if length < LONG or self.is_of_before:
            logits, *entries = self.session.run(self.outputs, feeds)
            return logits, entries
        # onnxruntime keeps the memory of its results. Here they are large, and it writes them into memory of ours.
        binding = self.session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        logits = np.empty([prompts, length - answer_from, self.vocab_size], "float32")
        shapes = self.shapes(prompts, length)
        entries = [buffer.array(shape) for buffer, shape in zip(self.buffers, shapes, strict=True)]
        for name, array in zip(self.outputs, (logits, *entries), strict=True):
            binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        self.session.run_with_iobinding(binding)
        return logits, entries
