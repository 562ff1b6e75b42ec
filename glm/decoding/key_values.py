"""What a model remembers of the prompts that are being decoded: keys and values in slots, in NumPy.

Prompt i of n has slot i of arrays [slots, heads, room, head_dim], or [slots, heads, head_dim, room], and so the first
n slots are what a step reads, as they lie. All texts of a prompt share its entries; `visible` says which are a text's
own. New entries are written where there is room; when it is used up, what no text sees any more is left behind.
"""

import mmap

import numpy as np

# Room is made for so many steps at a time.
STEPS = 32


class KeyValues:
    """Keys and values of prompts with the same number of texts.

    arrays: list of float32, with entries along the axes of `axes`, 2 or 3. visible: [slots, texts, room] float32, 1
    where a text sees an entry. used: int64 [slots], entries that are taken. count: slots that are.
    """

    def __init__(self, axes, heads, head_dim, texts):
        self.axes, self.heads, self.head_dim = axes, heads, head_dim
        self.arrays = self.nothing()
        self.buffers = [Buffer() for _ in axes]
        self.visible = np.zeros([0, texts, 0], "float32")
        self.used = np.zeros([0], "int64")
        self.count = 0

    @property
    def room(self):
        """Entries that a slot can hold."""
        return self.visible.shape[2]

    @property
    def texts(self):
        """Texts of a prompt."""
        return self.visible.shape[1]

    def nothing(self):
        """Arrays of no slots."""
        return [np.zeros(shape_of_entries(0, self.heads, 0, self.head_dim, axis), "float32") for axis in self.axes]

    def reserve(self, slots, room):
        """Have at least so many slots, with at least this room."""
        if slots > len(self.used) or room > self.room:
            self.move(max(slots, len(self.used)), max(room, self.room))

    def move(self, slots, room, kept=None):
        """Into arrays of so many slots with this room. kept: for each prompt int64 [n], its entries in the order in
        which they are to lie; default: all, as they do."""
        kept = [np.arange(used) for used in self.used[: self.count]] if kept is None else kept

        def moved(old, new, axis):
            for row, places in enumerate(kept):
                first_of(new[row], len(places), axis - 1)[...] = old[row].take(places, axis - 1)
            return new

        # One after the other: one array is there twice at a time, not all. Without prompts, memory is used again.
        for number, axis in enumerate(self.axes):
            buffer = self.buffers[number] if self.count == 0 else Buffer()
            new = buffer.array(shape_of_entries(slots, self.heads, room, self.head_dim, axis))
            self.arrays[number], self.buffers[number] = moved(self.arrays[number], new, axis), buffer
        self.visible = moved(self.visible, np.zeros([slots, self.texts, room], "float32"), 2)
        self.used = np.array([*map(len, kept), *[0] * (slots - self.count)], "int64")

    def clear(self, spoiled):
        """Forget all prompts. Their memory is used again, unless it is spoiled: what is no finite number is none either
        where nobody is to see it, times 0."""
        self.count = 0
        if spoiled:
            self.buffers = [Buffer() for _ in self.axes]
        self.arrays = self.nothing()
        self.visible, self.used = self.visible[:0, :, :0], self.used[:0]

    def admit(self, entries, mask):
        """Take in the slots after the last one what a model remembers of more prompts: a list of arrays with `length`
        entries, of which mask [n, length] says what there is."""
        first, n = self.count, len(mask)
        length = mask.shape[1]
        self.reserve(first + n, length + STEPS * self.texts)
        for array, new, axis in zip(self.arrays, entries, self.axes, strict=True):
            first_of(array[first : first + n], length, axis)[...] = new
        self.visible[first : first + n] = 0
        self.visible[first : first + n, :, :length] = mask[:, None]
        self.used[first : first + n] = length
        self.count += n

    def seen(self):
        """What a step reads: the list of arrays, [count, …]; and [count, texts, room + texts]
        float32, 1 where a text sees an entry, or itself."""
        own = np.broadcast_to(np.eye(self.texts, dtype="float32"), [self.count, self.texts, self.texts])
        visible = np.concatenate([self.visible[: self.count], own], axis=2)
        return [array[: self.count] for array in self.arrays], visible

    def append(self, entries):
        """Add what a step gave for the newest piece of each text: a list of arrays with `texts` entries."""
        if self.used[: self.count].max() + self.texts > self.room:
            self.make_room()
        slots = np.arange(self.count)[:, None]
        places = self.used[: self.count, None] + np.arange(self.texts)
        for array, new, axis in zip(self.arrays, entries, self.axes, strict=True):
            if axis == 2:
                array[slots, :, places] = new.transpose([0, 2, 1, 3])
            else:
                array[slots, :, :, places] = new.transpose([0, 3, 1, 2])
        self.visible[slots, np.arange(self.texts), places] = 1
        self.used[: self.count] += self.texts

    def make_room(self):
        """Leave behind what no text sees, and have room for STEPS more."""
        kept = [np.flatnonzero(alive) for alive in self.visible[: self.count].any(axis=1)]
        self.move(len(self.used), max(map(len, kept)) + STEPS * self.texts, kept)

    def follow(self, parents, first=0):
        """Let text j of prompt first + i see what its text parents[i, j] sees: int64 [count - first, texts]."""
        seen = self.visible[first : self.count]
        seen[:] = np.take_along_axis(seen, parents[:, :, None], axis=1)

    def keep(self, order):
        """Have the prompts order[0], order[1] … in slots 0, 1 …, as leaving() gives them, and no others."""
        for slot in np.flatnonzero(order != np.arange(len(order))):
            for array in (*self.arrays, self.visible, self.used):
                array[slot] = array[order[slot]]
        self.count = len(order)


def shape_of_entries(prompts, heads, entries, head_dim, axis):
    """Shape of keys or values with entries along an axis, 2 or 3."""
    return [prompts, heads, *((entries, head_dim) if axis == 2 else (head_dim, entries))]


def first_of(array, count, axis):
    """The first `count` entries along an axis, the last but one or the last."""
    return array[..., :count] if axis == array.ndim - 1 else array[..., :count, :]


class Buffer:
    """Memory for an array that is made again and again, of different shapes. The system gives it page by page, as it is
    written to: most of a short prompt's room beside a long one's never is."""

    def __init__(self):
        self.memory = np.zeros([0], "float32")

    def array(self, shape):
        """A float32 array in that memory, of zeros where nobody has written."""
        count = int(np.prod(shape))
        if count > len(self.memory):
            pages = mmap.mmap(-1, 4 * count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            self.memory = np.frombuffer(pages, "float32", count)
        return self.memory[:count].reshape(shape)


def leaving(count, gone):
    """Which of `count` prompts each slot has when some are gone (bool [count]): the last ones fill the gaps, so that
    few have to be moved."""
    order = np.arange(count)[: count - gone.sum()]
    order[gone[: len(order)]] = np.flatnonzero(~gone[len(order) :]) + len(order)
    return order
