"""An ONNX graph of onnx_program.py, run by onnxruntime, as the model of a search: OnnxDecoder.

The search is search.py's own, eagerly. Keys and values go from paddle to onnxruntime and back without copies.
"""

import numpy as np
import onnxruntime
import paddle
from paddle.utils.dlpack import from_dlpack

from glm.decoding.decoder import SearchLayer
from glm.files.native_paths import native_path
from glm.ops.cpu_kernels import as_array
from glm.ops.processor import sums_in_32_bits


class OnnxDecoder(SearchLayer):
    """A graph and a way to search.

    path: of the graph. threads: CPU threads that it may use. The rest: see SearchLayer.
    """

    def __init__(self, path, threads, config, special_ids):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # By default its threads wait by spinning, on the cores that paddle's threads need meanwhile.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        with native_path(path) as name:
            session = onnxruntime.InferenceSession(name, options, providers=["CPUExecutionProvider"])
        shapes = {value.name: value.shape for value in (*session.get_inputs(), *session.get_outputs())}
        super().__init__(config, special_ids, shapes["logits"][2])
        self.session = session
        self.of_tokens = {}
        if "token_range" in shapes:
            # Half of what 8 bits hold, where larger sums would be cut off.
            largest = 127 if sums_in_32_bits() else 63
            self.of_tokens["token_range"] = np.array([largest], "float32")
            self.of_tokens["token_zero"] = np.array([largest + 1], "uint8")
        self.cached = [name.partition(".")[2] for name in shapes if name.startswith("settled.")]
        self.heads, self.head_dim = (shapes["settled.0"][axis] for axis in (1, 3))
        self.outputs = ["logits", *(f"grown.{number}" for number in self.cached)]

    def prefill(self, input_ids, source_mask, mask_index):
        """As GLMForConditionalGeneration.prefill, but [prompts, 1] int64 in the place of its embedding: mask_index."""
        prompts, length = input_ids.shape
        positions = np.stack([np.arange(length), np.zeros(length, "int64")])[None]
        nothing = [as_array_of_any(tensor) for tensor in self.empty_cache(paddle.full([], prompts, "int32"))]
        visible = source_mask.numpy()[:, None]
        _, *entries = self.run(input_ids.numpy(), positions, visible, length, nothing, nothing)
        return list(map(as_tensor, entries)), mask_index.unsqueeze(1)

    def empty_cache(self, prompts):
        """Keys and values of no token; prompts: int32 tensor []."""
        shape = [int(prompts), self.heads, 0, self.head_dim]
        return [paddle.full(shape, 0.0, dtype="float32") for _ in self.cached]

    def step(self, tokens, number, settled, recent, fixed, lineage):
        """As Decoder.step."""
        ids, place = tokens.numpy(), fixed[0].numpy()
        positions = np.broadcast_to(
            np.stack([place, np.full_like(place, int(number) + 1)], axis=1), [len(ids), 2, ids.shape[1]]
        )
        caches = ([as_array_of_any(tensor) for tensor in part] for part in (settled, recent))
        logits, *grown = self.run(ids, positions, as_array(lineage), 0, *caches)
        return as_tensor(logits.reshape([-1, logits.shape[2]])), list(map(as_tensor, grown))

    def run(self, input_ids, position_ids, visible, answer_from, settled, recent):
        """What the graph gives: logits, then grown entries."""
        feeds = {
            "input_ids": input_ids,
            "position_ids": np.ascontiguousarray(position_ids),
            "visible": visible,
            "answer_from": np.array([answer_from]),
            **self.of_tokens,
        }
        for part, arrays in (("settled", settled), ("recent", recent)):
            feeds.update((f"{part}.{number}", array) for number, array in zip(self.cached, arrays, strict=True))
        return self.session.run(self.outputs, feeds)


def as_tensor(array):
    """A tensor in the memory of an array."""
    return from_dlpack(array.__dlpack__())


def as_array_of_any(tensor):
    """as_array(), of a tensor without numbers, too, which has no memory."""
    return as_array(tensor) if tensor.size else np.zeros(tensor.shape, "float32")
