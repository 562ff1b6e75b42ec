"""Which flags need others to have an effect: a flag that can have none is refused. Only the standard library.

A dataclass of flags lists its Needs in NEEDS; they may name flags of the other dataclasses of a script, too.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple


class Need(NamedTuple):
    """Flags that have an effect only where a condition holds.

    flags: their names, divided by spaces. holds: called with all flags' values as attributes. missing: the flags that
    would make it hold, as in "without --do_train"; or beside: the one that it does not hold with. neutral: values that
    ask for nothing, besides a flag's default. of_part: whether the flags are those of a part of a run, training or
    evaluation; a configuration file may have them for both parts, whichever is asked for.
    """

    flags: str
    holds: Callable[[SimpleNamespace], Any]
    missing: str = ""
    beside: str = ""
    neutral: tuple = ()
    of_part: bool = False

    def refusal(self, values):
        """What to tell who has given flags these values, {flag: value}."""
        given = ", ".join(f"--{name} {shown(value)}" for name, value in values.items())
        have, it, one = ("have", "them", "these or that") if len(values) > 1 else ("has", "it", "one of them")
        if self.missing:
            return f"{given} {have} no effect without {self.missing}; give that too, or leave {it} out"
        return f"{given} {have} no effect beside {self.beside}; leave {one} out"


def shown(value):
    """A value as it stands on a command line."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def all_needs(classes):
    """The Needs of dataclasses, in order."""
    return [need for cls in classes for need in getattr(cls, "NEEDS", ())]


def without_effect(classes, defaults, values):
    """{flag: the Need that does not hold} of the flags that ask for something and can have no effect.

    defaults: every flag's default, None where it is required. values: those given.
    """
    everything = SimpleNamespace(**{**defaults, **values})
    asked = {name for name, value in values.items() if value != defaults.get(name)}
    found = {}
    for need in all_needs(classes):
        names = [name for name in need.flags.split() if name in asked and values[name] not in need.neutral]
        if names and not need.holds(everything):
            found.update({name: need for name in names if name not in found})
    return found


def applicable(classes, defaults, of_file, of_flags):
    """(values of a configuration file and of flags together, what to refuse: {flag: Need}).

    What had an effect in the file and has none beside a flag that overrides another is left out: the flag means the
    rest of the file, too. So is what the file has for a part of the run that is not asked for.
    """
    values = {**of_file, **of_flags}
    refused = without_effect(classes, defaults, values)
    by_itself = without_effect(classes, defaults, of_file) if of_file else {}
    for name, need in list(refused.items()):
        if name not in of_flags and (need.of_part or name not in by_itself):
            del values[name], refused[name]
    return values, refused
