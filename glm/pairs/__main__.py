"""Pairs in other formats, and the agreement of two reviewers, from the command line:

python -m glm.pairs convert pairs.jsonl --to squad --output_file squad.json
python -m glm.pairs agreement anna.reviewed.jsonl ben.reviewed.jsonl
"""

import glm.runtime  # noqa: F401  sets what paddle reads when it is imported

import json
import os
from pathlib import Path

from glm.errors import UserError, one_line_errors, say
from glm.help_parser import HelpParser
from glm.texts import said

SUFFIXES = {"squad": ".squad.json", "alpaca": ".alpaca.json", "messages": ".messages.jsonl", "csv": ".csv"}


def main(argv=None):
    """The command line: convert, agreement."""
    parser = HelpParser(prog="python -m glm.pairs", description="Write pairs in other formats, or compare two reviews.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="convert | agreement")
    what = "write the pairs that are kept in another format"
    one = commands.add_parser("convert", help=said(what), description=what)
    one.add_argument("pairs", type=os.path.expanduser, help="file of generate_pairs.py, or of a reviewer")
    one.add_argument("--to", choices=SUFFIXES, required=True, help="the format")
    one.add_argument("--output_file", type=os.path.expanduser, help="where to write it; by default beside the pairs")
    one.add_argument("--without_passage", action="store_true", help="of alpaca and messages: leave the passage out")
    what = "compare the decisions of two reviewers"
    one = commands.add_parser("agreement", help=said(what), description=what)
    one.add_argument("first", type=os.path.expanduser, help="reviewed pairs")
    one.add_argument("second", type=os.path.expanduser, help="the same pairs, reviewed by somebody else")
    arguments = parser.parse_args(argv)
    with one_line_errors():
        convert(arguments) if arguments.command == "convert" else compare(arguments)


def convert(arguments):
    """Write pairs in another format."""
    from glm.files import places
    from glm.pairs import formats

    target = arguments.output_file or str(Path(arguments.pairs).with_suffix("")) + SUFFIXES[arguments.to]
    if Path(target).exists() and Path(target).samefile(arguments.pairs):
        raise UserError(f"--output_file {target} would replace the pairs; give another file")
    if arguments.without_passage and arguments.to not in ("alpaca", "messages"):
        raise UserError(f"--without_passage: {arguments.to} is not written with a choice of that; leave it out")
    places.check_file(target, "--output_file")
    count = formats.convert(arguments.pairs, target, arguments.to, not arguments.without_passage)
    say(f"{count} pairs written to {target}")


def compare(arguments):
    """Print the agreement of two reviewers as JSON."""
    from glm.pairs.agreement import agreement, decisions_of

    found = agreement(decisions_of(arguments.first), decisions_of(arguments.second))
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in found.items()}
    print(json.dumps(rounded, indent=2))


if __name__ == "__main__":
    main()
