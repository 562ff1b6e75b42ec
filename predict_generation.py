"""Predict with a GLM in Python.

    python predict_generation.py --model_name_or_path ./checkpoints/glm-large-chinese
    python predict_generation.py --model_name_or_path ./checkpoints/glm-large-chinese \\
        --data_file dev.json --output_file predictions.jsonl
    python predict_generation.py --model_name_or_path THUDM/glm-large-chinese --lora_path ./checkpoints/adapter \\
        --merge_lora_path ./checkpoints/merged
    python predict_generation.py --lora_path ./checkpoints/adapter --export_peft ./checkpoints/adapter-peft
    python -m paddle.distributed.launch --nproc_per_node 2 --backend gloo predict_generation.py \\
        --model_name_or_path ./checkpoints/glm-large-chinese --data_file dev.json --output_file predictions.jsonl
    python -m paddle.distributed.launch --nproc_per_node 2 --backend gloo predict_generation.py \\
        --model_name_or_path ./checkpoints/glm-large-chinese/checkpoint-100 --tensor_parallel_degree 2
"""

import glm.runtime  # noqa: F401  sets what paddle reads when it is imported

import os
from dataclasses import dataclass, fields, replace
from typing import ClassVar

from glm.command_line import UsageError, choice, parse
from glm.errors import one_line_errors, say
from glm.inference import parts
from glm.inference.arguments import (
    DTYPE_HELP,
    DTYPES,
    ENGINE_HELP,
    ENGINES,
    PromptArguments,
    ScoredDecodingArguments,
    to_generation_config,
)
from glm.needs import Need

# All that has no effect where a model or an adapter is written in another form.
NOTHING = ", which predicts nothing"
PREDICTION = " ".join(spec.name for cls in (PromptArguments, ScoredDecodingArguments) for spec in fields(cls))
PREDICTION += " dtype engine tensor_parallel_degree"


@dataclass
class ModelArguments:
    """The model to predict with."""

    NEEDS: ClassVar = (
        Need("scores", lambda flags: not flags.interactive, beside="--interactive"),
        Need("boundaries", lambda flags: flags.within_source, missing="--within_source True"),
        Need(PREDICTION, lambda flags: not flags.merge_lora_path, beside=f"--merge_lora_path{NOTHING}"),
        Need(PREDICTION, lambda flags: not flags.export_peft, beside=f"--export_peft{NOTHING}"),
        Need(
            PREDICTION,
            lambda flags: not flags.merge_tensor_parallel_path,
            beside=f"--merge_tensor_parallel_path{NOTHING}",
        ),
    )

    model_name_or_path: str = choice(
        "THUDM/glm-large-chinese", "Directory or name of the model; with --lora_path, of its base model."
    )
    lora_path: str = choice(None, "Directory of a LoRA adapter to predict with.")
    dtype: str = choice("auto", DTYPE_HELP, choices=DTYPES)
    engine: str = choice("auto", ENGINE_HELP, choices=ENGINES)
    tensor_parallel_degree: int = choice(
        1, "So many launched processes divide the model among them; if there are more, they share the prompts out."
    )
    merge_lora_path: str = choice(
        None, "Write the model with the adapter added to its weights into this new directory; nothing is predicted."
    )
    export_peft: str = choice(
        None,
        "Write the adapter of --lora_path as Hugging Face's PEFT reads it into this new directory; nothing is "
        "predicted.",
    )
    merge_tensor_parallel_path: str = choice(
        None, "Write the model, put together from its shards, into this new directory; nothing is predicted."
    )

    def __post_init__(self):
        if self.tensor_parallel_degree < 1:
            raise UsageError(f"tensor_parallel_degree is {self.tensor_parallel_degree}; it must be at least 1")
        if self.merge_lora_path and not self.lora_path:
            raise UsageError("--merge_lora_path merges an adapter: give its directory as --lora_path")
        if self.export_peft and not self.lora_path:
            raise UsageError("--export_peft writes an adapter: give its directory as --lora_path")
        if self.merge_lora_path and self.export_peft:
            raise UsageError("--merge_lora_path and --export_peft write different things; one at a time")
        if self.merge_tensor_parallel_path and self.lora_path:
            raise UsageError("--merge_tensor_parallel_path merges shards alone; --merge_lora_path merges an adapter")

    @property
    def merges(self):
        """Whether a model or an adapter is written in another form instead of predicting."""
        return bool(self.merge_lora_path or self.merge_tensor_parallel_path or self.export_peft)


def merge(arguments):
    """Write a merged model, or an adapter for PEFT."""
    from glm.files import locks, places

    for flag in ("export_peft", "merge_tensor_parallel_path", "merge_lora_path"):
        if getattr(arguments, flag):
            places.check_directory(getattr(arguments, flag), f"--{flag}")
    if arguments.export_peft:
        return export_peft(arguments)
    from glm.files.atomic import check_is_free, new_directory
    from glm.files.guarded import product
    from glm.weights import adapters, model_directory, resharding

    directory = model_directory.resolve(arguments.model_name_or_path)
    if arguments.merge_tensor_parallel_path:
        resharding.reshard(directory, arguments.merge_tensor_parallel_path, degree=1)
    else:
        with product(arguments.merge_lora_path), locks.held_for(arguments.merge_lora_path):
            check_is_free(arguments.merge_lora_path, "--merge_lora_path")
            model = adapters.load_merged(directory, arguments.lora_path)
            tokenizer = model_directory.load_tokenizer(directory, arguments.lora_path)
            with new_directory(arguments.merge_lora_path, facts={}) as target:
                model_directory.save_model(model, tokenizer, target, model_directory.stored_dtypes(directory))
    say(f"merged model written to {arguments.merge_tensor_parallel_path or arguments.merge_lora_path}")
    return None


def export_peft(arguments):
    """Write an adapter for PEFT; its base is not needed for that."""
    from glm.files import locks
    from glm.files.atomic import check_is_free
    from glm.files.guarded import product
    from glm.weights import peft_export

    target = arguments.export_peft
    with product(target), locks.held_for(target):
        check_is_free(target, "--export_peft")
        peft_export.export(arguments.lora_path, target, arguments.model_name_or_path)
    say(f"adapter for PEFT written to {target}")


class Predictor:
    """A model and how it decodes; launched ranks share the prompts out, or have a part of the model each."""

    def __init__(self, arguments, prompts, decoding):
        """The arguments are those of the script."""
        more = {"within_source": True} if prompts.bound_to else {}
        more["num_return_sequences"] = prompts.num_return_sequences
        self.config = to_generation_config(decoding, decoding.seed, **more)
        self.place = parts.launched(arguments.tensor_parallel_degree)
        parts.check_alone(prompts, self.place[0])
        from glm.weights import model_directory

        self.arguments, self.prompts, self.decoding = arguments, prompts, decoding
        self.directory = model_directory.resolve(arguments.model_name_or_path)
        self.tokenizer = model_directory.load_tokenizer(self.directory, arguments.lora_path)
        self.dtype = model_directory.dtype_to_compute_in(arguments.dtype, self.directory)

    def engine(self):
        """What decodes; see engines.opened()."""
        from glm.export import engines

        arguments, ranks = self.arguments, self.ranks()
        return engines.opened(arguments.engine, self.directory, arguments.lora_path, self.tokenizer, self.dtype, ranks)

    def ranks(self):
        """The ranks.Ranks among which the model is divided, connected; None where it is not, which needs no paddle."""
        if self.arguments.tensor_parallel_degree == 1:
            return None
        from glm.parallel.ranks import launched_ranks

        return launched_ranks(self.arguments.tensor_parallel_degree)

    def predict(self):
        """Answer all prompts and write what comes of it."""
        from glm.inference.answers import answer_prompts
        from glm.weights import model_directory

        positions = model_directory.load_config(self.directory).max_sequence_length + 1
        settings = self.identity() if self.prompts.output_file else []
        part, writes = self.place
        answer_prompts(
            self.prompts, self.tokenizer, self.config, settings, self.open_decoder, positions, part=part, writes=writes
        )

    def open_decoder(self, longest, needed):
        """See answers.answer_prompts()."""
        if not needed:
            # Others are waiting for this rank to connect.
            self.ranks()
            return None
        engine = self.engine()
        return lambda batch, rows: engine.run(batch, self.config, rows, self.stops())

    def stops(self):
        """An on_token that ends texts where flags say so, None where all end by themselves; or where scores are asked
        for, which are of the whole text."""
        from glm.inference.stops import StopsOfBatch

        ends = self.config.stop and self.config.num_beams == 1 and not self.config.output_scores
        return StopsOfBatch(self.tokenizer, self.config.stop) if ends else None

    def identity(self):
        """What answers depend on besides prompts."""
        from glm.files import identities

        directories = [self.directory, *filter(None, [self.arguments.lora_path])]
        # Of float32 nothing is said: those answers were there before there was a choice.
        dtypes = [] if self.dtype == "float32" else [self.dtype]
        return [self.config, *map(identities.identity, directories), *dtypes]

    def converse(self):
        """Answer prompts from the terminal, texts of one piece after another where there is one text."""
        import numpy as np

        from glm.data.examples import encode
        from glm.inference import interactive
        from glm.inference.binding import of_flags, prompts_of
        from glm.inference.stops import StoppedStream, cut

        config = replace(self.config, output_scores=False)
        streams = config.num_beams == 1 and config.num_return_sequences == 1
        stream, write = None, None

        def on_token(_, pieces):
            write(stream.add(pieces[:1]))
            return np.array([stream.over])

        engine, binding = self.engine(), of_flags(self.prompts, config, self.tokenizer)

        def answer(example, show):
            nonlocal stream, write
            stream, write = StoppedStream(self.tokenizer, config.stop), show
            row = encode(example, self.tokenizer, self.prompts.src_length, self.decoding.tgt_length)
            interactive.tell_lost(row, self.prompts.src_length, show)
            prompt = prompts_of([row], self.tokenizer.eos_id, binding)
            ids = engine.run(prompt, config, on_token=on_token if streams else None)
            texts = (cut(self.tokenizer.decode(one), config.stop) for one in ids)
            show(stream.add([], final=True) if streams else "\n".join(texts))

        preparation = self.prompts.preparation(self.tokenizer.preparation)
        interactive.converse(self.prompts.template or "qg", answer, preparation)


def is_first_rank():
    """Whether this process is the first of those that paddle.distributed.launch has started, or alone."""
    return os.environ.get("PADDLE_TRAINER_ID", "0") == "0"


def main(argv=None):
    """Parse the command line, predict or merge, report."""
    arguments, prompts, decoding = parse((ModelArguments, PromptArguments, ScoredDecodingArguments), argv, __doc__)
    with one_line_errors():
        if arguments.merges:
            # The first rank merges; the others have nothing to do.
            return merge(arguments) if is_first_rank() else None
        predictor = Predictor(arguments, prompts, decoding)
        predictor.converse() if prompts.interactive else predictor.predict()
    return None


if __name__ == "__main__":
    main()
