"""Search bound to texts: which pieces may come next, and where a text has got to, in tensor operations; numpy_within.py
does the same in NumPy.

What may be written is a graph, see generation_config.feeds(). A text may have got to several places at once, for what
it spells may occur several times: `places` [prompts, texts, edges + 1] float32 has 1 at those where it is.
"""

import paddle

from glm.decoding.generation_config import BANNED, OUTSIDE


def first_places(edges, texts):
    """Places before the first piece: all texts are at place 0. edges: int64 [prompts, edges, 4]."""
    prompts, count = paddle.shape(edges)[0], paddle.shape(edges)[1]
    start = paddle.full([prompts, texts, 1], 1.0, dtype="float32")
    return paddle.concat([start, paddle.full([prompts, texts, count], 0.0, dtype="float32")], axis=2)


def live_edges(places, edges):
    """1 for each edge that leaves a place where a text is, [prompts, texts, edges] float32."""
    prompts, count = paddle.shape(edges)[0], paddle.shape(edges)[1]
    leaves = edges[:, :, 0].unsqueeze(1) + paddle.full([1, places.shape[1], 1], 0, dtype="int64")
    rows = paddle.arange(prompts * places.shape[1], dtype="int64").reshape([prompts, places.shape[1], 1])
    taken = paddle.gather(places.flatten(), (rows * (count + 1) + leaves).flatten())
    return taken.reshape([prompts, places.shape[1], count])


def bias_of_others(places, edges, room, bans):
    """OUTSIDE for each piece that may not come next, 0 for others: [prompts * texts, vocab] float32.

    room: [1] int64, the pieces that may follow after the next one. bans: [prompts * texts, vocab], 0 or below BANNED /
    2 where something else is against a piece, which counts where it leaves any.
    """
    live = live_edges(places, edges) * (edges[:, :, 3] <= room).astype("float32").unsqueeze(1)
    inside = (counted(live, edges[:, :, 1], bans.shape[-1]) > 0.5).astype("float32").flatten(0, 1)
    free = inside * (bans > BANNED / 2).astype("float32")
    allowed = paddle.where(free.max(axis=-1, keepdim=True) + 0 * free > 0, free, inside)
    return (1 - allowed) * OUTSIDE


def followed(places, edges, pieces):
    """Places after the pieces [prompts, texts] int64."""
    taken = (edges[:, :, 1].unsqueeze(1) == pieces.unsqueeze(2)).astype("float32")
    ways = counted(live_edges(places, edges) * taken, edges[:, :, 2], paddle.shape(edges)[1] + 1)
    return (ways > 0.5).astype("float32")


def counted(weights, numbers, size):
    """Sums of weights [prompts, texts, edges] by the edges' numbers [prompts, edges], which are below size: [prompts,
    texts, size]."""
    prompts, texts = paddle.shape(weights)[0], weights.shape[1]
    rows = paddle.arange(prompts * texts, dtype="int64").reshape([prompts, texts, 1])
    targets = (rows * size + numbers.unsqueeze(1)).reshape([-1, 1])
    nothing = paddle.full([prompts * texts * size], 0.0, dtype="float32")
    return paddle.scatter_nd_add(nothing, targets, weights.flatten()).reshape([prompts, texts, size])
