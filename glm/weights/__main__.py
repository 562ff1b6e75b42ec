"""Models divided into tensor-parallel shards and put together, from the command line:

python -m glm.weights split MODEL SHARDS --tensor_parallel_degree 4
python -m glm.weights merge SHARDS MODEL
python -m glm.weights reshard SHARDS OTHERS --tensor_parallel_degree 2
"""

import glm.runtime  # noqa: F401  sets what paddle reads when it is imported

import os

from glm.errors import UserError, one_line_errors, say
from glm.help_parser import HelpParser
from glm.texts import said


def main(argv=None):
    """The command line: split, merge, reshard."""
    with one_line_errors():
        from glm.weights import resharding
        from glm.weights.stored_weights import SHARD_READERS, shard_files

    parser = HelpParser(
        prog="python -m glm.weights", description="Divide a model into tensor-parallel shards, or put shards together."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="split | merge | reshard")
    for command, what in (
        ("split", "write a whole model in shards"),
        ("merge", "write a model in shards whole"),
        ("reshard", "write a model, whole or in shards, in another number of shards"),
    ):
        one = commands.add_parser(command, help=said(what), description=what)
        one.add_argument("source", type=os.path.expanduser, help="directory of the model")
        one.add_argument("target", type=os.path.expanduser, help="new directory, which appears whole or not at all")
        one.add_argument("--format", choices=SHARD_READERS, default="safetensors", help="of the files that are written")
        if command != "merge":
            one.add_argument("--tensor_parallel_degree", type=int, required=True, help="number of shards")
    arguments = parser.parse_args(argv)
    with one_line_errors():
        degree = 1 if arguments.command == "merge" else arguments.tensor_parallel_degree
        if arguments.command == "split" and shard_files(arguments.source):
            raise UserError(f"{arguments.source} is in shards already; reshard writes another number of them")
        if arguments.command == "merge" and not shard_files(arguments.source):
            raise UserError(f"{arguments.source} has no shards to merge")
        resharding.reshard(arguments.source, arguments.target, degree, arguments.format)
        say(f"{arguments.source} written to {arguments.target}, {'whole' if degree == 1 else f'{degree} shards'}")


if __name__ == "__main__":
    main()
