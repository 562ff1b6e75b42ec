"""Command lines: dataclasses become flags, a JSON file may come first. Standard library only, so --help answers at once."""

import argparse
import dataclasses
import difflib
import enum
import json
import sys
import types
import typing
from dataclasses import MISSING, dataclass, field

from errors import UserError, one_line_errors


class UsageError(UserError):
    """A mistake on the command line or in a configuration file, told in one line."""


def choice(default, help, **metadata):
    """A dataclass field with a default and the text that --help shows. metadata: choices."""
    return field(default=default, metadata={"help": help, **metadata})


@dataclass
class PromptArguments:
    """Data to answer, shared by prediction in Python and inference in C++."""

    data_file: str = choice(
        None,
        "Records to answer: JSON Lines with context and answer, .source/.target pairs, or one prompt a line. Default: two "
        "example prompts.",
    )
    output_file: str = choice(None, "Where to write predictions, JSON Lines in input order. Default: the screen.")
    batch_size: int = choice(8, "Prompts decoded together.")
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
        missing = [name for name, (_, spec) in all_fields(classes).items() if is_required(spec) and name not in values]
        if missing:
            raise UsageError(f"--{missing[0]} is missing; --help explains it")
        return tuple(
            cls(
                **{
                    name: values[name]
                    for name, (owner, _) in all_fields(classes).items()
                    if owner is cls and name in values
                }
            )
            for cls in classes
        )


class OneLineParser(argparse.ArgumentParser):
    """An argument parser that reports mistakes as UsageError instead of printing its usage."""

    def error(self, message):
        raise UsageError(message)


def build_parser(classes, description):
    """The parser whose flags are the fields of the dataclasses, grouped by class. Flags that are not given are absent."""
    parser = OneLineParser(
        description=description,
        usage="%(prog)s [config.json] [--name value ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for cls in classes:
        group = parser.add_argument_group(cls.__name__, (cls.__doc__ or "").strip().splitlines()[0])
        hints = typing.get_type_hints(cls)
        for spec in dataclasses.fields(cls):
            if spec.init:
                add_flag(group, spec, hints[spec.name])
    return parser


def add_flag(group, spec, hint):
    """Add the flag of one dataclass field."""
    kind, is_list = element_type(hint)
    default = "required" if is_required(spec) else f"default: {shown_default(spec)}"
    options = {
        "dest": spec.name,
        "default": argparse.SUPPRESS,
        "help": f"{spec.metadata.get('help', '').strip()} ({default})".replace("%", "%%"),
        "type": lambda text: convert(spec.name, text, kind),
        "metavar": "|".join(spec.metadata["choices"]) if "choices" in spec.metadata else kind.__name__.upper(),
    }
    if is_list:
        options["nargs"] = "+"
    elif kind is bool:
        options.update(nargs="?", const=True)
    group.add_argument(f"--{spec.name}", action=CheckedStore, choices_allowed=spec.metadata.get("choices"), **options)


class CheckedStore(argparse.Action):
    """Store a value after comparing it with the choices, so that the message can name them all."""

    def __init__(self, *args, choices_allowed=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.choices_allowed = choices_allowed

    def __call__(self, parser, namespace, value, option_string=None):
        check_choice(self.dest, value, self.choices_allowed)
        setattr(namespace, self.dest, value)


def check_choice(name, value, choices):
    """Raise UsageError unless value is one of the choices (None allows all)."""
    if choices and value not in choices:
        raise UsageError(f"--{name} is {value!r}; it must be one of {', '.join(map(str, choices))}")


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


def convert(name, text, kind):
    """Text of the command line as a value of the kind. Raises UsageError."""
    if text.lower() in ("none", "null") and kind is not bool:
        return None
    if kind is bool:
        if text.lower() in ("true", "1", "yes"):
            return True
        if text.lower() in ("false", "0", "no"):
            return False
        raise UsageError(f"--{name} is {text!r}; it must be True or False")
    try:
        return kind(text)
    except (TypeError, ValueError):
        article = {int: "a whole number", float: "a number"}.get(kind, kind.__name__)
        raise UsageError(f"--{name} is {text!r}; it must be {article}") from None


def read_config(path, classes):
    """Values by field name from a JSON file, each of its field's type. Raises UsageError."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            content = json.load(file)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; flags begin with --") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from None
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: must hold one object with a value for each flag")
    return {name: config_value(path, name, value, classes) for name, value in content.items()}


def config_value(path, name, value, classes):
    """One value of a JSON file, checked against its field."""
    fields = all_fields(classes)
    if name not in fields:
        raise UsageError(f"{path}: {unknown_name(name, classes)}")
    owner, spec = fields[name]
    kind, is_list = element_type(typing.get_type_hints(owner)[name])
    items = value if is_list and isinstance(value, list) else [value]
    checked = [check_json_type(path, name, item, kind) for item in items]
    check_choice(name, value, spec.metadata.get("choices"))
    return checked if is_list and isinstance(value, list) else checked[0]


def check_json_type(path, name, value, kind):
    """A JSON value as the kind; whole numbers may stand for floats. Raises UsageError."""
    if value is None or isinstance(value, kind) and not (kind is not bool and isinstance(value, bool)):
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and kind is not str:
        return convert(name, value, kind)
    raise UsageError(f"{path}: {name} is {json.dumps(value)}; it must be of type {kind.__name__}")


def unknown_name(name, classes, prefix=""):
    """Message for a flag or key that nothing has, with its nearest neighbour."""
    bare = name.lstrip("-").split("=")[0]
    near = difflib.get_close_matches(bare, list(all_fields(classes)), n=1)
    if not name.startswith("-") and prefix:
        return f"unexpected value {name!r} on the command line"
    return f"unknown name {prefix}{bare}" + (f"; did you mean {prefix}{near[0]}?" if near else "; --help lists all")


def all_fields(classes):
    """{field name: (dataclass, field)} of all the dataclasses."""
    return {spec.name: (cls, spec) for cls in classes for spec in dataclasses.fields(cls) if spec.init}


def is_required(spec):
    """Whether a field has no default."""
    return spec.default is MISSING and spec.default_factory is MISSING


def shown_default(spec):
    """A field's default as --help shows it."""
    default = spec.default if spec.default_factory is MISSING else spec.default_factory()
    return default.value if isinstance(default, enum.Enum) else default


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
                "seed": seed,
                **changes,
            }
        )
    except UserError as error:
        message = str(error)
        for field_name, flag in (("max_new_tokens", "--tgt_length"), ("min_new_tokens", "--min_tgt_length")):
            message = message.replace(field_name, flag)
        raise UsageError(message) from None
