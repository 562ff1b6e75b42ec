"""Documents → pairs in a file: passages a window at a time, each window kept on disk when it is done.

Windows hold the same passages whatever the batches are, so that neither these nor where a run was interrupted change
what comes of it.
"""

import hashlib
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice

from glm import json_text
from glm.data.examples import encode
from glm.data.validation import DataError
from glm.decoding.generation_config import GenerationConfig, check_positions
from glm.errors import Interrupted, UserError, note, say
from glm.files.guarded import product, whole_file
from glm.inference.answers import answer_all
from glm.inference.binding import Binding
from glm.inference.partial_answers import key_of
from glm.pairs import answering, asking, choosing, judging, proposing
from glm.pairs.documents import Seen, documents
from glm.pairs.duplicates import NEAR, Asked, grams, jaccard
from glm.pairs.progress import Kept
from glm.pairs.splitting import passages_of
from glm.texts import said

# Passages of a window.
WINDOW = 64
# Flags that pairs do not depend on.
WITHOUT_EFFECT = ("output_file", "rejected", "resume", "batch_size", "level")


@dataclass
class Searches:
    """The GenerationConfigs of the three searches: for answers in a passage, for a question, for answers to it."""

    propose: GenerationConfig
    ask: GenerationConfig
    answer: GenerationConfig

    @classmethod
    def of(cls, arguments):
        """Those that PairsArguments ask for. Scores are log probabilities: nothing is divided by a length."""
        scored = {"length_penalty": 0.0, "output_scores": True}
        bound = {"max_new_tokens": arguments.answer_length, "within_source": True, **scored}
        several = {"num_beams": arguments.candidates, "num_return_sequences": arguments.candidates}
        answers = {"num_beams": arguments.answer_beams, "num_return_sequences": arguments.answer_beams}
        question = {"max_new_tokens": arguments.question_length, "num_beams": arguments.question_beams, **scored}
        return cls(
            GenerationConfig(**several, **bound), GenerationConfig(**question), GenerationConfig(**answers, **bound)
        )


@dataclass
class Counted:
    """What a run has come to: passages, passages that no answer could be looked for in, candidates, and how many of
    these were kept or rejected by reason."""

    passages: int = 0
    unanswerable: int = 0
    candidates: int = 0
    kept: int = 0
    rejected: Counter = field(default_factory=Counter)

    def see(self, pair):
        """Count a pair, a dict."""
        self.candidates += 1
        if pair["kept"]:
            self.kept += 1
        else:
            self.rejected[pair["reason"]] += 1


class Pipeline:
    """What makes pairs of passages.

    run(prompts, config, row_ids): ids and scores, as decoder.run(). arguments: PairsArguments. src_length: of prompts.
    """

    def __init__(self, run, tokenizer, arguments, src_length):
        self.run, self.tokenizer, self.arguments, self.src_length = run, tokenizer, arguments, src_length
        self.searches, self.binding = Searches.of(arguments), Binding(tokenizer, arguments.boundaries)
        self.asked = Asked()

    def pairs(self, passages):
        """Judged candidates of passages, in their order; some are duplicates of earlier ones."""
        of_passages = proposing.proposed(passages, self.propose, self.tokenizer, self.arguments.boundaries)
        candidates = [one for of_passage in of_passages for one in of_passage]
        asking.ask(candidates, self.ask)
        answering.answer_back(candidates, self.answer)
        for candidate in candidates:
            judging.judge(candidate, self.arguments.level)
        for of_passage in of_passages:
            self.settle([one for one in of_passage if one.reason is None])
        return candidates

    def settle(self, candidates):
        """Find which of a passage's candidates that hold are kept; the others get a reason."""
        different = []
        for one in sorted(candidates, key=lambda one: -(one.question_log_p + one.answer_log_p)):
            ours = grams(one.question)
            near = next((other.id for other in different if jaccard(ours, grams(other.question)) > NEAR), None)
            one.duplicate_of = self.asked.find(one.question) or near
            if one.duplicate_of is None:
                different.append(one)
            else:
                one.reason = judging.DUPLICATE
        kept = choosing.chosen([one for one in candidates if one.reason is None], self.arguments.questions)
        for one in candidates:
            if any(one is other for other in kept):
                self.asked.add(one.id, one.question)
            elif one.reason is None:
                one.reason = judging.NOT_CHOSEN

    def propose(self, examples):
        """Texts of each example that a passage's answers are looked for with; none where it has no words."""
        rows = [self.encoded(example) for example in examples]
        possible = [self.has_words(row) for row in rows]
        found = iter(
            self.decoded(
                [row for row, is_possible in zip(rows, possible, strict=True) if is_possible],
                self.searches.propose,
                self.binding,
            )
        )
        return [next(found).predictions if is_possible else () for is_possible in possible]

    def has_words(self, row):
        """Whether there is a text that the search for answers may find in a passage."""
        try:
            return self.binding.edges_of(row)[:, 3].min() < self.arguments.answer_length - 1
        except DataError:
            return False

    def ask(self, examples):
        """(question, log probability) of each example."""
        rows = [self.encoded(example) for example in examples]
        return [(answer.prediction, answer.scores[0]) for answer in self.decoded(rows, self.searches.ask)]

    def answer(self, examples):
        """(texts, log probabilities) of each example."""
        rows = [self.encoded(example) for example in examples]
        found = self.decoded(rows, self.searches.answer, self.binding)
        return [(answer.predictions, answer.scores) for answer in found]

    def encoded(self, example):
        """An Example as examples.Encoded."""
        return encode(example, self.tokenizer, self.src_length, 2, need_target=False)

    def decoded(self, rows, config, binding=None):
        """answer_lines.Answers of rows."""
        return answer_all(
            rows,
            lambda prompts, numbers: self.run(prompts, config, numbers),
            self.tokenizer,
            batch_size=self.arguments.batch_size,
            src_length=self.src_length,
            new_tokens=config.new_tokens_a_prompt,
            texts=config.num_return_sequences,
            progress=False,
            binding=binding,
        )


class Passages:
    """The passages of all documents, gone through once to know their number and what they are, then again window by
    window. count: of them. digest: stands for their texts."""

    def __init__(self, arguments, tokenizer):
        """arguments: DocumentArguments. Raises UserError where there is no passage at all."""
        self.arguments, self.tokenizer = arguments, tokenizer
        self.seen, digest, self.count, self.divided = Seen(), hashlib.sha256(), 0, 0
        for passage in self.all(self.seen):
            digest.update(f"{passage.document}\0{passage.start}\0{passage.text}\0".encode("utf8", "surrogatepass"))
            self.count += 1
            self.divided += passage.divided
        self.digest = digest.hexdigest()
        if not self.count:
            first = next(iter(self.seen.first.values()), f"{arguments.data_file}: there is nothing in it")
            raise UserError(f"no passages to make pairs of: {first}")

    def all(self, seen):
        """Yield every passage."""
        arguments = self.arguments
        for document in documents(arguments.data_file, arguments.passage_field, seen):
            yield from passages_of(document, self.tokens, arguments.passage_length, arguments.overlap)

    def tokens(self, text):
        """Tokens of a text."""
        return len(self.tokenizer.encode(text))

    def windows(self, done):
        """Yield lists of passages after the first so many."""
        passages = islice(self.all(Seen()), done, None)
        while window := list(islice(passages, WINDOW)):
            yield window


def generate(arguments, document_arguments, open_run, tokenizer, positions, settings):
    """Make pairs of documents and write them.

    arguments, document_arguments: PairsArguments and DocumentArguments. open_run(): opens what decodes, run() of
    Pipeline. positions: rows of its model's position tables. settings: what pairs depend on besides flags. Raises
    UserError and RunError.
    """
    src_length = arguments.src_length(document_arguments)
    check_positions(positions, src_length, max(arguments.answer_length, arguments.question_length))
    passages = Passages(document_arguments, tokenizer)
    choices = {name: value for name, value in vars(arguments).items() if name not in WITHOUT_EFFECT}
    key = key_of([passages.digest, choices, settings])
    kept = Kept(f"{arguments.output_file}.partial", key, arguments.resume)
    counted = Counted(passages.count)
    if kept.passages < passages.count:
        pipeline = Pipeline(open_run(), tokenizer, arguments, src_length)
        for pair in kept.pairs():
            counted.see(pair)
            if pair["kept"]:
                pipeline.asked.add(pair["id"], pair["question"])
        try:
            make(pipeline, passages, kept, counted)
        except KeyboardInterrupt:
            done = f"the pairs of {kept.passages} of {passages.count} passages are kept in {kept.path}"
            raise Interrupted(signal.SIGINT, f"{done}; the same command with --resume goes on") from None
        pipeline.asked.close()
    else:
        for pair in kept.pairs():
            counted.see(pair)
    write(kept, arguments)
    report(passages, counted, arguments)


def make(pipeline, passages, kept, counted):
    """Make the pairs of all passages that are not done, with a bar."""
    from tqdm import tqdm

    start, before = time.monotonic(), counted.kept
    with tqdm(total=passages.count, initial=kept.passages, unit="passage", file=sys.stderr) as bar:
        for window in passages.windows(kept.passages):
            pairs = [candidate.record() for candidate in pipeline.pairs(window)]
            kept.add(pairs, len(window))
            for pair in pairs:
                counted.see(pair)
            hours = (time.monotonic() - start) / 3600
            bar.set_postfix_str(said("{} pairs/h").format(f"{(counted.kept - before) / hours:,.0f}"), refresh=False)
            bar.update(len(window))


def write(kept, arguments):
    """Write the pairs that are kept, and the others where that is asked for; both files whole."""
    advice = f"the pairs are kept in {kept.path}, --resume writes them: make room first"
    for path, wanted in ((arguments.output_file, True), (arguments.rejected, False)):
        if path is not None:
            with product(path, advice), whole_file(path) as file:
                for pair in kept.pairs():
                    if pair["kept"] == wanted:
                        file.write(json_text.dumps(pair) + "\n")
    kept.remove()


def report(passages, counted, arguments):
    """Say what was read, what was passed over, and what came of it."""
    for line in passages.seen.told():
        note(line)
    if passages.divided:
        note(f"{passages.divided} passages end inside of a sentence that is longer than --passage_length")
    reasons = "".join(f", {count} {reason}" for reason, count in sorted(counted.rejected.items()))
    say(f"{passages.seen.read} documents, {passages.count} passages, {counted.candidates} candidates{reasons}")
    say(f"{counted.kept} pairs written to {arguments.output_file}")
