"""Command lines: dataclasses become flags, a JSON file may come first. Only the standard library: --help is fast."""

import argparse
import dataclasses
import enum
import itertools
import json
import os
import pathlib
import re
import sys
import types
import typing
from dataclasses import MISSING, field

from glm import json_text
from glm.bounds import NUMBERS, Bounds
from glm.errors import UserError, one_line_errors
from glm.flag_names import unknown_name
from glm.help_parser import HelpParser
from glm.needs import applicable
from glm.texts import help_of, said

# What names of flags end in that are paths, or may be. Shells write out ~ where a word begins with it, and in no file.
PATHS = ("_dir", "_path", "_file", "task_name", "data_name", "resume_from_checkpoint", "export_peft")
# The flag that writes a configuration.
PRINT_CONFIG = "print_config"
# Bytes of a file of flags.
LARGEST_CONFIG = 2**20
# What values of a type are called.
OF_TYPE = {int: "a whole number", float: "a number", bool: "true or false", str: "a text in quotes"}


class UsageError(UserError):
    """A mistake on the command line or in a configuration file, told in one line."""


def choice(default, help, **metadata):
    """A dataclass field with a default and the text that --help shows. metadata: choices; alias, another name of the
    flag; goes_on, of a list that the flag may be given for again and again."""
    return field(default=default, metadata={"help": help, **metadata})


def parse(classes, argv=None, description=None):
    """Instances of dataclasses from a command line: [config.json] --name value …

    The JSON file, if one comes first, gives values under the flags' names; flags override it. Booleans may stand alone
    (--do_train) or take True or False. On a mistake the program ends with one line on stderr and exit code 2.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser(classes, description)
    with one_line_errors():
        values, print_to = read_values(argv, parser, classes)
        missing = [name for name, (_, spec) in all_fields(classes).items() if is_required(spec) and name not in values]
        if missing:
            raise UsageError(f"--{missing[0]} is missing; --help explains it")
        parsed = tuple(instance(cls, classes, values) for cls in classes)
        if print_to is not None:
            print_config(effective_config(*parsed), print_to)
            raise SystemExit(0)
        return parsed


def read_values(argv, parser, classes):
    """({flag: value} of those given, the file that --print_config names or None) of a command line. Raises UsageError,
    also for a flag that can have no effect."""
    of_file = read_config(argv.pop(0), classes) if argv and not argv[0].startswith("-") else {}
    refuse_late_config(argv, classes)
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        raise UsageError(unknown_name(unknown[0], known_names(classes, PRINT_CONFIG), "--"))
    of_flags = vars(namespace)
    print_to = of_flags.pop(PRINT_CONFIG, None)
    values, refused = applicable(classes, plain_defaults(classes), of_file, of_flags)
    for need in refused.values():
        raise UsageError(need.refusal({name: values[name] for name, other in refused.items() if other is need}))
    return values, print_to


def refuse_late_config(argv, classes):
    """Raise UsageError for a configuration file after flags: behind a switch, which would take it for its value."""
    hints = {f"--{name}": hint for cls in classes for name, hint in typing.get_type_hints(cls).items()}
    for before, text in itertools.pairwise(argv):
        if text.endswith(".json") and before in hints and element_type(hints[before]) == (bool, False):
            raise UsageError(f"{text}: a configuration file comes first, before {before} and all other flags")


def known_names(classes, *more):
    """Every name of a flag: of fields, their aliases, and more."""
    fields = all_fields(classes)
    aliases = [spec.metadata["alias"] for _, spec in fields.values() if "alias" in spec.metadata]
    return [*(name for name, (cls, _) in fields.items() if name not in hidden_names(cls)), *aliases, *more]


def plain_defaults(classes):
    """{flag: its default as JSON has it}, None where it is required."""
    return {name: None if is_required(spec) else shown_default(spec) for name, (_, spec) in all_fields(classes).items()}


def instance(cls, classes, values):
    """An instance of one of the dataclasses. It remembers its flags as they were given, or their defaults, for
    effective_config(): what __post_init__ makes of them depends on the machine."""
    own = {name: spec for name, (owner, spec) in all_fields(classes).items() if owner is cls}
    made = cls(**{name: values[name] for name in own if name in values})
    hints = typing.get_type_hints(cls)
    made.given = {
        name: values[name] if name in values else typed(default_of(spec), FieldKind.of(spec, hints[name]))
        for name, spec in own.items()
    }
    return made


def typed(value, kind):
    """A default as the kind's type has it: a whole number where there may be others becomes one of those."""
    return float(value) if kind.type is float and isinstance(value, int) else value


def effective_config(*parsed):
    """Every flag with its value, as a dict for JSON, of what parse() returned: as a file, it makes the same run."""
    return {
        name: plain(value) for one in parsed for name, value in one.given.items() if name not in hidden_names(type(one))
    }


def plain(value):
    """A flag's value as JSON has it."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.value if isinstance(value, enum.Enum) else value


def print_config(config, path):
    """Write a configuration as a JSON file, or to the screen if the path is -. Raises UsageError."""
    text = json_text.pretty(config)
    if path == "-":
        json_text.show(text.removesuffix("\n"))
        return
    path = os.path.expanduser(path)
    try:
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(path).write_text(text, encoding="utf8")
    except OSError as error:
        raise UsageError(f"--{PRINT_CONFIG} {path}: cannot be written ({error.strerror})") from None


class OneLineParser(HelpParser):
    """An argument parser that reports mistakes as UsageError instead of printing its usage."""

    def error(self, message):
        found = re.fullmatch(r"argument (--\w+)[^:]*: expected (one|at least one) argument", message)
        raise UsageError(f"{found[1]} needs a value; --help explains it" if found else message)


def build_parser(classes, description):
    """The parser whose flags are the fields of the dataclasses, grouped by class. Flags not given are absent."""
    parser = OneLineParser(
        description=description,
        usage=f"%(prog)s {said('[config.json] [--name value ...]')}",
        allow_abbrev=False,
    )
    # argparse's own pattern takes -1e-5 for a flag.
    parser._negative_number_matcher = re.compile(r"-\.?\d")
    for cls in classes:
        hints, specs = typing.get_type_hints(cls), {spec.name: spec for spec in dataclasses.fields(cls) if spec.init}
        for title, names in groups_of(cls).items():
            group = parser.add_argument_group(said(title))
            for name in names:
                add_flag(group, specs[name], hints[name])
        for name in hidden_names(cls):
            add_flag(parser, specs[name], hints[name], hidden=True)
    files = parser.add_argument_group(said("Configuration files"))
    files.add_argument(
        f"--{PRINT_CONFIG}",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help=said(
            "Write all flags with their values as a JSON file that can be run again (- is the screen), and stop."
        ),
    )
    return parser


def groups_of(cls):
    """{title: names of fields} in which --help shows the flags of a dataclass: as its GROUPS say (titles, names divided
    by spaces), or all under the first line of its docstring."""
    if hasattr(cls, "GROUPS"):
        return {title: names.split() for title, names in cls.GROUPS.items()}
    title = (cls.__doc__ or cls.__name__).strip().splitlines()[0].rstrip(".")
    return {title: [spec.name for spec in dataclasses.fields(cls) if spec.init]}


def hidden_names(cls):
    """Fields outside of the groups: flags that --help does not show and configurations do not have."""
    shown = {name for names in groups_of(cls).values() for name in names}
    return [spec.name for spec in dataclasses.fields(cls) if spec.init and spec.name not in shown]


def add_flag(group, spec, hint, hidden=False):
    """Add the flag of one dataclass field."""
    kind = FieldKind.of(spec, hint)
    shown = help_of(spec.name, spec.metadata.get("help", "").strip())
    if is_required(spec):
        shown = said("{} (required)").format(shown)
    else:
        shown = said("{} (default: {})").format(shown, shown_default(spec))
    options = {
        "dest": spec.name,
        "default": argparse.SUPPRESS,
        "help": argparse.SUPPRESS if hidden else shown.replace("%", "%%"),
        "metavar": "|".join(kind.choices) if kind.choices else kind.type.__name__.upper(),
    }
    if kind.is_list:
        options |= {"nargs": "+", "goes_on": spec.metadata.get("goes_on", False)}
    elif kind.type is bool:
        options.update(nargs="?", const="True")
    names = [spec.name, *filter(None, [spec.metadata.get("alias")])]
    group.add_argument(*(f"--{name}" for name in names), action=ConvertedStore, kind=kind, **options)


class ConvertedStore(argparse.Action):
    """Store a flag's value converted. With argparse's type= the messages of convert() would be lost. goes_on: whether a
    list goes on where the flag stands there again, instead of taking the place of the one before."""

    def __init__(self, *args, kind, goes_on=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.kind, self.goes_on = kind, goes_on

    def __call__(self, parser, namespace, value, option_string=None):
        texts = value if self.kind.is_list else [value]
        values = [convert(f"--{self.dest}", text, self.kind) for text in texts]
        before = getattr(namespace, self.dest, []) if self.goes_on else []
        setattr(namespace, self.dest, [*before, *values] if self.kind.is_list else values[0])


class FieldKind(typing.NamedTuple):
    """What a field holds: the type of a value, whether there are several, whether None is one, the choices and the
    bounds, or None; whether it is a path, in which ~ is somebody's home."""

    type: type
    is_list: bool
    optional: bool
    choices: tuple | None
    bounds: Bounds | None = None
    is_path: bool = False

    @classmethod
    def of(cls, spec, hint):
        """The kind of a dataclass field with this type hint."""
        value_type, is_list = element_type(hint)
        optional = spec.default is None or type(None) in typing.get_args(hint)
        bounds = NUMBERS.get(spec.name) if value_type in (int, float) else None
        is_path = value_type is str and spec.name.endswith(PATHS)
        return cls(value_type, is_list, optional, spec.metadata.get("choices"), bounds, is_path)


def element_type(hint):
    """(type of a value, whether the flag takes several) of a field's type hint."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        # A switch that may also hold text (paddlenlp's --sharding) is given as text.
        return element_type(str if str in options else options[0])
    if typing.get_origin(hint) is list:
        return typing.get_args(hint)[0], True
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return str, False
    return hint, False


def convert(label, text, kind):
    """Text as a value of a FieldKind. label: what the message calls the value. Raises UsageError."""
    # In a list, "none" is an item like any other: paddlenlp's --report_to none.
    if kind.optional and not kind.is_list and text.lower() in ("none", "null"):
        return None
    if kind.is_path:
        return os.path.expanduser(text)
    if kind.type is bool:
        switches = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if text.lower() not in switches:
            raise UsageError(f"{label} is {text!r}; it must be True or False")
        return switches[text.lower()]
    try:
        value = kind.type(text)
    except (TypeError, ValueError):
        raise UsageError(f"{label} is {text!r}; it must be {OF_TYPE[kind.type]}") from None
    return checked_choice(label, value, kind)


def checked_choice(label, value, kind):
    """The value. Raises UsageError unless it is one of the kind's choices, and within its bounds."""
    if kind.choices and value not in kind.choices:
        raise UsageError(f"{label} is {value!r}; it must be one of {', '.join(map(str, kind.choices))}")
    if kind.bounds is not None and not kind.bounds.hold(value):
        raise UsageError(f"{label} is {value!r:.40}; it must be {kind.bounds}")
    return value


def read_config(path, classes):
    """Values by field name from a JSON file, each of its field's type. Raises UsageError."""
    path = os.path.expanduser(path)
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_CONFIG + 1)
        if len(content) > LARGEST_CONFIG:
            raise UsageError(f"{path}: has more than {LARGEST_CONFIG} bytes; give a file of flags and their values")
        text = content.decode("utf-8-sig")
        content = json.loads(text)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; flags begin with --") from None
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
    except UsageError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: must hold one object with a value for each flag, as --print_config writes it")
    return {name: config_value(place_of(path, text, name), name, value, classes) for name, value in content.items()}


def place_of(path, text, name):
    """path:line of a key in a JSON text: the last one of this name, which counts. Written with escapes: the path."""
    keys = list(re.finditer(re.escape(json.dumps(name, ensure_ascii=False)) + r"\s*:", text))
    return f"{path}:{text.count(chr(10), 0, keys[-1].start()) + 1}" if keys else str(path)


def config_value(place, name, value, classes):
    """One value of a JSON file, checked against its field; place: where it stands. Raises UsageError."""
    fields = all_fields(classes)
    if name not in fields:
        raise UsageError(f"{place}: {unknown_name(name, known_names(classes))}")
    owner, spec = fields[name]
    kind = FieldKind.of(spec, typing.get_type_hints(owner)[name])
    label = f"{place}: {name}"
    if value is None and kind.optional:
        return None
    if not kind.is_list:
        return json_value(label, value, kind)
    return [json_value(label, item, kind) for item in (value if isinstance(value, list) else [value])]


def json_value(label, value, kind):
    """A JSON value as one of the kind; text may spell any kind, a whole number a float. Raises UsageError."""
    if isinstance(value, str):
        return convert(label, value, kind)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind.type is float and is_number:
        return convert(label, str(value), kind)
    if not isinstance(value, kind.type) or (kind.type is int and not is_number):
        raise UsageError(f"{label} is {json.dumps(value, ensure_ascii=False)}; it must be {OF_TYPE[kind.type]}")
    return checked_choice(label, value, kind)


def all_fields(classes):
    """{field name: (dataclass, field)} of all the dataclasses."""
    return {spec.name: (cls, spec) for cls in classes for spec in dataclasses.fields(cls) if spec.init}


def is_required(spec):
    """Whether a field has no default."""
    return spec.default is MISSING and spec.default_factory is MISSING


def default_of(spec):
    """A field's default."""
    return spec.default if spec.default_factory is MISSING else spec.default_factory()


def shown_default(spec):
    """A field's default as --help shows it."""
    return plain(default_of(spec))
