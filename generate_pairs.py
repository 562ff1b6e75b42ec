"""Make question–answer pairs of documents, and keep those that the model answers back.

    python generate_pairs.py --model_name_or_path ./checkpoints/glm-pairs --data_file ./documents \\
        --output_file pairs.jsonl
    python generate_pairs.py --model_path ./checkpoints/infer --data_file handbook.md --output_file pairs.jsonl \\
        --keep beam --questions 3 --rejected rejected.jsonl

The model is one of finetune_generation.py --tasks ask,extract,answer; docs/en/pairs.md tells the way.
"""

import glm.runtime  # noqa: F401  sets what paddle reads when it is imported

from glm.command_line import parse
from glm.errors import one_line_errors
from glm.pairs.arguments import DocumentArguments, PairsArguments, PairsModelArguments


def main(argv=None):
    """Parse the command line and make pairs."""
    model, documents, pairs = parse((PairsModelArguments, DocumentArguments, PairsArguments), argv, __doc__)
    with one_line_errors():
        from glm.files import lines, places
        from glm.inference.answers import output_lock

        lines.set_limit(documents.max_record_bytes)
        for name in ("output_file", "rejected"):
            if getattr(pairs, name) is not None:
                places.check_file(getattr(pairs, name), f"--{name}")
        from glm.pairs.pipeline import generate

        with output_lock(pairs.output_file):
            generate(pairs, documents, *(of_programs if model.model_path else of_layers)(model, pairs))


def of_layers(model, pairs):
    """(what opens the model in Python, its tokenizer, its positions, what it is known by)."""
    from glm.export import engines
    from glm.files import identities
    from glm.weights import model_directory

    directory = model_directory.resolve(model.model_name_or_path)
    tokenizer = model_directory.load_tokenizer(directory, model.lora_path)
    dtype = model_directory.dtype_to_compute_in(model.dtype, directory)
    positions = model_directory.load_config(directory).max_sequence_length + 1
    known = [identities.identity(place) for place in (directory, model.lora_path) if place is not None]

    def open_run():
        return engines.opened(model.engine, directory, model.lora_path, tokenizer, dtype).run

    return open_run, tokenizer, positions, [known, dtype]


def of_programs(model, pairs):
    """As of_layers(), of exported programs."""
    from glm.export import for_searches
    from glm.pairs.pipeline import Searches

    searches = vars(Searches.of(pairs))
    found = for_searches.find(model.model_path, model.model_prefix, searches)
    return lambda: found.opened(model.device), found.tokenizer, found.positions, found.identity


if __name__ == "__main__":
    main()
