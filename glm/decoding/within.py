"""Search bound to texts: which pieces may come next, and where a text has got to, in tensor operations; numpy_within.py
does the same in NumPy.

What may be written is a graph, see generation_config.feeds(). A text may have got to several places at once, for what
it spells may occur several times: `places` [prompts, texts, edges + 2] float32 has 1 at those where it is; the last one
is none.
"""

import paddle

from glm.decoding.generation_config import BANNED, OUTSIDE


def first_places(edges, texts):
    """Places before the first piece: all texts are at place 0. edges: int64 [prompts, edges, 4]."""
    prompts, count = paddle.shape(edges)[0], paddle.shape(edges)[1]
    start = paddle.full([prompts, texts, 1], 1.0, dtype="float32")
    return paddle.concat([start, paddle.full([prompts, texts, count + 1], 0.0, dtype="float32")], axis=2)


def live_edges(places, edges):
    """1 for each edge that leaves a place where a text is, [prompts, texts, edges] float32."""
    prompts, count = paddle.shape(edges)[0], paddle.shape(edges)[1]
    leaves = edges[:, :, 0].unsqueeze(1) + paddle.full([1, places.shape[1], 1], 0, dtype="int64")
    rows = paddle.arange(prompts * places.shape[1], dtype="int64").reshape([prompts, places.shape[1], 1])
    taken = paddle.gather(places.flatten(), (rows * (count + 2) + leaves).flatten())
    return taken.reshape([prompts, places.shape[1], count])


def bound(logits, places, edges, room, bans, spare):
    """Logits [prompts * texts, vocab] with OUTSIDE in the place of those of pieces that may not come next.

    room: [1] int64, the pieces that may follow after the next one. bans: [vocab], or [prompts * texts, vocab]: 0, or
    below BANNED / 2 where something else is against a piece, which counts where it leaves any. spare: a piece that is
    never allowed, which takes what is of no piece.
    """
    texts, vocab = places.shape[1], logits.shape[-1]
    pieces = edges[:, :, 1].unsqueeze(1)
    live = live_edges(places, edges) * (edges[:, :, 3] <= room).astype("float32").unsqueeze(1)
    rows = paddle.arange(paddle.shape(logits)[0], dtype="int64").reshape([-1, texts, 1]) * vocab
    of_logits = rows + pieces
    of_bans = of_logits if len(bans.shape) == 2 else pieces
    unbanned = paddle.gather(bans.flatten(), of_bans.flatten()).reshape(paddle.shape(of_bans)) > BANNED / 2
    free = live * unbanned.astype("float32")
    allowed = paddle.where(free.max(axis=2, keepdim=True) + 0 * free > 0, free, live).flatten() > 0
    target = paddle.where(allowed, of_logits.flatten(), (rows + spare + 0 * of_logits).flatten())
    values = paddle.gather(logits.flatten(), target)
    values = paddle.where(allowed, values, paddle.full_like(values, OUTSIDE))
    outside = paddle.full([paddle.shape(logits)[0] * vocab], OUTSIDE, dtype="float32")
    return paddle.scatter(outside, target, values).reshape([-1, vocab])


def followed(places, edges, pieces):
    """Places after the pieces [prompts, texts] int64."""
    texts, size = places.shape[1], paddle.shape(places)[2]
    taken = (edges[:, :, 1].unsqueeze(1) == pieces.unsqueeze(2)).astype("float32")
    taken = (live_edges(places, edges) * taken).flatten()
    rows = paddle.arange(paddle.shape(pieces)[0] * texts, dtype="int64").reshape([-1, texts, 1]) * size
    leads = rows + edges[:, :, 2].unsqueeze(1)
    # What leads nowhere goes to the last place, which is none.
    target = paddle.where(taken > 0, leads.flatten(), (rows + size - 1 + 0 * leads).flatten())
    nowhere = paddle.full([paddle.shape(pieces)[0] * texts * size], 0.0, dtype="float32")
    return paddle.scatter(nowhere, target, taken).reshape([-1, texts, size])
