"""Command lines: dataclasses become flags, a JSON file may come first. Only the standard library: --help is fast."""

import argparse
import dataclasses
import difflib
import enum
import json
import pathlib
import re
import sys
import types
import typing
from dataclasses import MISSING, dataclass, field

from errors import UserError, one_line_errors

# The flag that writes a configuration.
PRINT_CONFIG = "print_config"
# What may be chosen anew for each use of a decoder: flag → field of GenerationConfig that it overrides.
OVERRIDES = {
    "tgt_length": "max_new_tokens",
    "min_tgt_length": "min_new_tokens",
    "length_penalty": "length_penalty",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "seed": "seed",
}
BEAMS_ONLY, SAMPLING_ONLY = ("length_penalty",), ("temperature", "top_k", "top_p", "seed")


class UsageError(UserError):
    """A mistake on the command line or in a configuration file, told in one line."""


def choice(default, help, **metadata):
    """A dataclass field with a default and the text that --help shows. metadata: choices; alias, another name of the
    flag."""
    return field(default=default, metadata={"help": help, **metadata})


@dataclass
class PromptArguments:
    """Data to answer, shared by prediction in Python and inference in C++."""

    data_file: str = choice(
        None,
        "Records to answer: JSON Lines with context and answer, or with instruction and input, .source/.target "
        "pairs, or one prompt a line; - reads them from standard input. Default: two example prompts.",
    )
    interactive: bool = choice(False, "Ask for prompts on the terminal and show each answer as it comes.")
    template: str = choice(
        None,
        "What prompts are made of: qg, instruction or text. Default: what the first record's fields fit, else qg.",
        choices=("qg", "instruction", "text"),
    )
    output_file: str = choice(None, "Where to write predictions, JSON Lines in input order. Default: the screen.")
    resume: bool = choice(False, "Go on where an interrupted run with the same flags ended.")
    num_return_sequences: int = choice(
        1, "Texts for each prompt: the best of as many --num_beams or more, or so many draws."
    )
    batch_size: int = choice(
        8,
        "Prompts of src_length tokens decoded together; of shorter ones as many more as take the same number of "
        "tokens, source and generated.",
    )
    src_length: int = choice(608, "Longest prompt in tokens; of a longer one the context is cut.")
    on_bad_data: str = choice(
        "error", "What to do with an unusable record: stop, or leave it out.", choices=("error", "skip")
    )


@dataclass
class DecodingArguments:
    """How to decode when a script only decodes."""

    tgt_length: int = choice(160, "Longest generated text in tokens, end token included.")
    min_tgt_length: int = choice(0, "Shortest generated text in tokens.")
    num_beams: int = choice(1, "Beams of the search; 1 is greedy search, or sampling with --select_topk False.")
    length_penalty: float = choice(1.0, "Beams compete by log p / ((length + 5) / 6) ** length_penalty.")
    no_repeat_ngram_size: int = choice(0, "No n-gram of this size occurs twice in a generated text; 0 allows all.")
    select_topk: bool = choice(True, "True: take the most probable pieces; False: draw from the distribution.")
    top_k: int = choice(0, "Draw from the top_k most probable pieces only; 0 keeps all. Needs --select_topk False.")
    top_p: float = choice(
        1.0, "Draw from the smallest set of pieces of this total probability; 1 keeps all. Needs --select_topk False."
    )
    temperature: float = choice(1.0, "Logits are divided by it before drawing.")
    seed: int = choice(42, "Seed of everything that is drawn.")


@dataclass
class ScoredDecodingArguments(DecodingArguments):
    """How to decode, and whether to say how probable the texts are."""

    scores: bool = choice(False, "Also give each text's log probability; of beams, what they compete by.")


def parse(classes, argv=None, description=None):
    """Instances of dataclasses from a command line: [config.json] --name value …

    The JSON file, if one comes first, gives values under the flags' names; flags override it. Booleans may stand alone
    (--do_train) or take True or False. On a mistake the program ends with one line on stderr and exit code 2.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser(classes, description)
    with one_line_errors():
        values = read_config(argv.pop(0), classes) if argv and not argv[0].startswith("-") else {}
        namespace, unknown = parser.parse_known_args(argv)
        if unknown:
            raise UsageError(unknown_name(unknown[0], classes, "--"))
        values.update(vars(namespace))
        print_to = values.pop(PRINT_CONFIG, None)
        missing = [name for name, (_, spec) in all_fields(classes).items() if is_required(spec) and name not in values]
        if missing:
            raise UsageError(f"--{missing[0]} is missing; --help explains it")
        parsed = tuple(instance(cls, classes, values) for cls in classes)
        if print_to is not None:
            print_config(effective_config(*parsed), print_to)
            raise SystemExit(0)
        return parsed


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
    text = json.dumps(config, ensure_ascii=False, indent=2) + "\n"
    if path == "-":
        sys.stdout.write(text)
        return
    try:
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(path).write_text(text, encoding="utf8")
    except OSError as error:
        raise UsageError(f"--{PRINT_CONFIG} {path}: cannot be written ({error.strerror})") from None


class OneLineParser(argparse.ArgumentParser):
    """An argument parser that reports mistakes as UsageError instead of printing its usage."""

    def error(self, message):
        raise UsageError(message)


def build_parser(classes, description):
    """The parser whose flags are the fields of the dataclasses, grouped by class. Flags not given are absent."""
    parser = OneLineParser(
        description=description,
        usage="%(prog)s [config.json] [--name value ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    # argparse's own pattern takes -1e-5 for a flag.
    parser._negative_number_matcher = re.compile(r"-\.?\d")
    for cls in classes:
        hints, specs = typing.get_type_hints(cls), {spec.name: spec for spec in dataclasses.fields(cls) if spec.init}
        for title, names in groups_of(cls).items():
            group = parser.add_argument_group(title)
            for name in names:
                add_flag(group, specs[name], hints[name])
        for name in hidden_names(cls):
            add_flag(parser, specs[name], hints[name], hidden=True)
    files = parser.add_argument_group("Configuration files")
    files.add_argument(
        f"--{PRINT_CONFIG}",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="Write all flags with their values as a JSON file that can be run again (- is the screen), and stop.",
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
    default = "required" if is_required(spec) else f"default: {shown_default(spec)}"
    shown = f"{spec.metadata.get('help', '').strip()} ({default})".replace("%", "%%")
    options = {
        "dest": spec.name,
        "default": argparse.SUPPRESS,
        "help": argparse.SUPPRESS if hidden else shown,
        "metavar": "|".join(kind.choices) if kind.choices else kind.type.__name__.upper(),
    }
    if kind.is_list:
        options["nargs"] = "+"
    elif kind.type is bool:
        options.update(nargs="?", const="True")
    names = [spec.name, *filter(None, [spec.metadata.get("alias")])]
    group.add_argument(*(f"--{name}" for name in names), action=ConvertedStore, kind=kind, **options)


class ConvertedStore(argparse.Action):
    """Store a flag's value converted. With argparse's type= the messages of convert() would be lost."""

    def __init__(self, *args, kind, **kwargs):
        super().__init__(*args, **kwargs)
        self.kind = kind

    def __call__(self, parser, namespace, value, option_string=None):
        texts = value if self.kind.is_list else [value]
        values = [convert(f"--{self.dest}", text, self.kind) for text in texts]
        setattr(namespace, self.dest, values if self.kind.is_list else values[0])


class FieldKind(typing.NamedTuple):
    """What a field holds: the type of a value, whether there are several, whether None is one, the choices or None."""

    type: type
    is_list: bool
    optional: bool
    choices: tuple | None

    @classmethod
    def of(cls, spec, hint):
        """The kind of a dataclass field with this type hint."""
        value_type, is_list = element_type(hint)
        optional = spec.default is None or type(None) in typing.get_args(hint)
        return cls(value_type, is_list, optional, spec.metadata.get("choices"))


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
    if kind.type is bool:
        switches = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if text.lower() not in switches:
            raise UsageError(f"{label} is {text!r}; it must be True or False")
        return switches[text.lower()]
    try:
        value = kind.type(text)
    except (TypeError, ValueError):
        article = {int: "a whole number", float: "a number"}.get(kind.type, kind.type.__name__)
        raise UsageError(f"{label} is {text!r}; it must be {article}") from None
    return checked_choice(label, value, kind)


def checked_choice(label, value, kind):
    """The value. Raises UsageError unless it is one of the kind's choices."""
    if kind.choices and value not in kind.choices:
        raise UsageError(f"{label} is {value!r}; it must be one of {', '.join(map(str, kind.choices))}")
    return value


def read_config(path, classes):
    """Values by field name from a JSON file, each of its field's type. Raises UsageError."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
        content = json.loads(text)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; flags begin with --") from None
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: must hold one object with a value for each flag")
    return {name: config_value(place_of(path, text, name), name, value, classes) for name, value in content.items()}


def place_of(path, text, name):
    """path:line of a key in a JSON text: the last one of this name, which counts. Written with escapes: the path."""
    keys = list(re.finditer(re.escape(json.dumps(name, ensure_ascii=False)) + r"\s*:", text))
    return f"{path}:{text.count(chr(10), 0, keys[-1].start()) + 1}" if keys else str(path)


def config_value(place, name, value, classes):
    """One value of a JSON file, checked against its field; place: where it stands. Raises UsageError."""
    fields = all_fields(classes)
    if name not in fields:
        raise UsageError(f"{place}: {unknown_name(name, classes)}")
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
        raise UsageError(f"{label} is {json.dumps(value, ensure_ascii=False)}; it must be of type {kind.type.__name__}")
    return checked_choice(label, value, kind)


def unknown_name(name, classes, prefix=""):
    """Message for a flag (prefix "--") or key that nothing has, with its nearest neighbour."""
    if prefix and not name.startswith("-"):
        return f"unexpected value {name!r} on the command line"
    given = name.split("=")[0] if prefix else name
    near = difflib.get_close_matches(
        given.lstrip("-"), [*all_fields(classes), *([PRINT_CONFIG] if prefix else [])], n=1
    )
    return f"unknown name {given}" + (f"; did you mean {prefix}{near[0]}?" if near else "; --help lists all")


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


def to_generation_config(arguments, seed, **changes):
    """GenerationConfig from objects with the decoding flags. Raises UsageError."""
    from generation_config import GenerationConfig

    if arguments.select_topk and (arguments.top_k or 0 < arguments.top_p < 1):
        raise UsageError("--top_k and --top_p draw from the distribution: they need --select_topk False")
    try:
        return GenerationConfig(
            **{
                "max_new_tokens": arguments.tgt_length,
                "min_new_tokens": arguments.min_tgt_length,
                "num_beams": arguments.num_beams,
                "length_penalty": arguments.length_penalty,
                "no_repeat_ngram_size": arguments.no_repeat_ngram_size,
                "do_sample": not arguments.select_topk,
                "top_k": arguments.top_k,
                # 0 has always meant "all" for this flag.
                "top_p": arguments.top_p or 1.0,
                "temperature": arguments.temperature,
                "output_scores": getattr(arguments, "scores", False),
                "seed": seed,
                **changes,
            }
        )
    except UserError as error:
        message = str(error)
        for field_name, flag in (
            ("max_new_tokens", "--tgt_length"),
            ("min_new_tokens", "--min_tgt_length"),
            ("num_return_sequences", "--num_return_sequences"),
        ):
            message = message.replace(field_name, flag)
        raise UsageError(message) from None
