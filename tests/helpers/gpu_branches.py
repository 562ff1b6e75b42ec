"""On CPU, what runs on a GPU: the branches of the code that are taken there, and stand-ins for kernels that are for
GPUs alone, written from their definitions."""

import math

import paddle
import paddle.nn.functional as F

from glm.ops import device


def take(monkeypatch, flashmask=False):
    """Have the code take the branches of a GPU while a test lasts. flashmask: of one that has FlashMask's kernel."""
    monkeypatch.setattr(device, "takes_gpu_branches", lambda: True)
    monkeypatch.setattr(device, "has_bfloat16", lambda: True)
    monkeypatch.setattr(device, "has_flashmask", lambda: flashmask)
    if flashmask:
        monkeypatch.setattr(F, "flashmask_attention", flashmask_attention, raising=False)


def flashmask_attention(query, key, value, startend_row_indices, *, dropout, causal, training):
    """Attention as paddle documents F.flashmask_attention without causality: query, key and value [1, tokens, heads,
    head_dim]; a key's two numbers of startend_row_indices [1, 1, tokens, 2] hide it below the diagonal from queries at
    or after the first, and above it from queries before the second."""
    assert not causal
    assert startend_row_indices.dtype == paddle.int32
    assert training == (dropout > 0)
    tokens, dtype = query.shape[1], query.dtype
    rows, columns = paddle.arange(tokens).unsqueeze(1), paddle.arange(tokens).unsqueeze(0)
    first, last = startend_row_indices[0, 0].astype("int64").unbind(1)
    hidden = ((rows > columns) & (rows >= first)) | ((rows < columns) & (rows < last))
    query, key, value = (tensor[0].transpose([1, 0, 2]).astype("float32") for tensor in (query, key, value))
    scores = paddle.matmul(query, key, transpose_y=True) / math.sqrt(query.shape[-1])
    scores = scores + hidden.astype("float32") * -1e30
    context = paddle.matmul(F.dropout(F.softmax(scores), dropout, training=training), value)
    return context.transpose([1, 0, 2]).unsqueeze(0).astype(dtype)
