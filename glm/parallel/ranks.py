"""The ranks among which a model is divided, and what they exchange: on GPUs through NCCL, on CPU through hub.py."""

from contextlib import contextmanager

import paddle
import paddle.distributed as dist
from paddle.autograd import PyLayer
from paddle.distributed.communication.group import Group

from glm.errors import end_without_destructors
from glm.ops import device
from glm.parallel.hub import Hub
from glm.parallel.sharding import axis_of, whole_of_parts


class Ranks:
    """A group of ranks and this one's place in it; size 1 exchanges nothing.

    members: their numbers among all ranks, in order; default: this rank alone. group: their communication group. hub:
    what they exchange through where there is none.
    """

    def __init__(self, members=(), group=None):
        self.members, self.group, self.hub = list(members), group, None
        self.size, self.rank = (len(members), self.members.index(dist.get_rank())) if members else (1, 0)

    @classmethod
    def imagined(cls, size):
        """The first of so many ranks, of which there are no others: for shapes and names, not for exchanging."""
        ranks = cls()
        ranks.size = size
        return ranks

    @classmethod
    def of_world(cls):
        """All ranks that were launched."""
        world = dist.get_world_size()
        return cls.connected(range(world), dist.get_group()) if world > 1 else ALONE

    @classmethod
    def connected(cls, members, group):
        """The ranks with these numbers, by a communication group where there are GPUs, else by a hub of their own."""
        ranks = cls(members, group)
        if not device.on_gpu():
            ranks.group, ranks.hub = None, Hub(ranks.members, dist.get_rank(), gather_objects)
        return ranks

    @classmethod
    def of(cls, group):
        """The ranks of a group that paddlenlp's TrainingArguments have set up; None is this rank alone. All ranks call
        this together."""
        if group is None or group.nranks < 2:
            return ALONE
        if group.nranks == dist.get_world_size():
            return cls.of_world()
        return cls.connected(group.ranks, group)

    def copy(self, tensor):
        """The tensor, which all ranks have alike; its gradient is the sum of what it is on each of them."""
        return tensor if self.size == 1 else CopyToRanks.apply(tensor, self)

    def sum(self, tensor):
        """The sum of the ranks' tensors; each gets its gradient whole."""
        return tensor if self.size == 1 else SumOverRanks.apply(tensor, self)

    def summed(self, tensor):
        """The sum of the ranks' tensors, without a gradient."""
        if self.size == 1:
            return tensor
        if self.group is None:
            return paddle.to_tensor(self.hub.sum(tensor.detach().numpy()))
        total = tensor.clone()
        dist.all_reduce(total, group=self.group)
        return total

    def gathered(self, tensor):
        """[size, ...]: the tensors of all ranks, without a gradient."""
        if self.size == 1:
            return tensor.unsqueeze(0)
        if self.group is None:
            return paddle.to_tensor(self.hub.stack(tensor.detach().numpy()))
        tensors = []
        dist.all_gather(tensors, contiguous(tensor), group=self.group)
        return paddle.stack(tensors)

    def columns(self, tensor):
        """[..., n * size] of the ranks' tensors [..., n], in their order; without a gradient if there are several."""
        return tensor if self.size == 1 else paddle.concat(self.gathered(tensor).unbind(0), axis=-1)

    def whole(self, name, parameter):
        """The whole weight of this name, of all ranks' parts, on all of them."""
        if self.size == 1 or axis_of(name) is None:
            return parameter
        parts = [part.numpy() for part in self.gathered(parameter.detach())]
        return paddle.to_tensor(whole_of_parts(name, parts))


ALONE = Ranks()


def launched_ranks(degree=None):
    """The Ranks of the job that paddle.distributed.launch has started, which this connects: `degree` of them, which
    come one after another; default: all. ALONE where that is one. All ranks call this together, unless degree is 1."""
    world = dist.get_world_size()
    degree = degree or world
    if degree == 1:
        return ALONE
    dist.init_parallel_env()
    end_without_destructors()
    if degree == world:
        return Ranks.of_world()
    groups = [range(first, first + degree) for first in range(0, world, degree)]
    # Ranks on GPUs make all groups together; those on CPU need none.
    made = [dist.new_group(list(members)) if device.on_gpu() else None for members in groups]
    number = dist.get_rank() // degree
    return Ranks.connected(groups[number], made[number])


def gather_objects(item):
    """The list of all ranks' items."""
    items = []
    dist.all_gather_object(items, item)
    return items


def contiguous(tensor):
    """The tensor, its memory in one piece, as what is sent has to be."""
    return tensor if tensor.is_contiguous() else tensor.contiguous()


@contextmanager
def groups_without_connections():
    """While this lasts, paddle.distributed.new_group gives groups that know their ranks and connect to nobody.

    fleet makes a dozen groups, and connecting the ranks of one through gloo fails now and then ("Connection refused",
    with four ranks every few times). The one that all ranks are launched with does not, and is all that is needed.
    """
    real = dist.new_group

    def described(ranks=None, *_, **__):
        ranks = sorted(range(dist.get_world_size()) if ranks is None else ranks)
        rank = dist.get_rank()
        return Group(ranks.index(rank) if rank in ranks else -1, 0, ranks)

    dist.new_group = described
    try:
        yield
    finally:
        dist.new_group = real


class CopyToRanks(PyLayer):
    """See Ranks.copy."""

    @staticmethod
    def forward(ctx, tensor, ranks):
        ctx.ranks = ranks
        return tensor.clone()

    @staticmethod
    def backward(ctx, gradient):
        return ctx.ranks.summed(gradient)


class SumOverRanks(PyLayer):
    """See Ranks.sum."""

    @staticmethod
    def forward(ctx, tensor, ranks):
        return ranks.summed(tensor)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.clone()
