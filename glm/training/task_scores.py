"""How good a model is at each of several tasks by itself: to ask, to find answers in a passage, to answer."""

from dataclasses import dataclass

from glm import metrics
from glm.decoding.generation_config import GenerationConfig
from glm.inference.binding import Binding
from glm.training import evaluation


@dataclass
class Evaluator:
    """What answers rows of all tasks. decode(rows, config, binding): evaluation.answers() of some rows. generation: the
    GenerationConfig of asked questions. candidates: texts that are looked for in each passage."""

    decode: object
    generation: GenerationConfig
    tokenizer: object
    candidates: int

    def scores(self, rows):
        """(answers to the rows, scores by name: those of metrics.score() of asked questions, and TASK_SCORES)."""
        found, scores = [], {}
        for task, evaluate in (("ask", self.ask), ("extract", self.extract), ("answer", self.answer)):
            if of_task := [row for row in rows if row.example.task == task]:
                answers, of_answers = evaluate(of_task)
                found += answers
                scores |= of_answers
        return found, scores

    def ask(self, rows):
        """Questions, as where they are the only task."""
        answers = self.decode(rows, self.generation, None)
        return answers, metrics.score([row.prediction for row in answers], [row.target for row in answers])

    def extract(self, rows):
        """The best candidates of each passage, once; how many of the known answers are among them."""
        known = {}
        for row in rows:
            known.setdefault(row.source, []).append(row)
        config = self.bound(num_beams=self.candidates, num_return_sequences=self.candidates)
        answers = self.decode([of_passage[0] for of_passage in known.values()], config, self.binding())
        pairs = [
            (answer.predictions, row.example.target)
            for answer, of_passage in zip(answers, known.values(), strict=True)
            for row in of_passage
        ]
        return answers, {"extract_recall": metrics.recall(*zip(*pairs, strict=True))}

    def answer(self, rows):
        """The answer to each question."""
        answers = self.decode(rows, self.bound(), self.binding())
        pairs = [(row.prediction, row.target) for row in answers]
        return answers, metrics.answer_scores(*zip(*pairs, strict=True))

    def binding(self):
        """What answers are bound to: their passages."""
        return Binding(self.tokenizer)

    def bound(self, **choices):
        """The GenerationConfig of answers."""
        return GenerationConfig(max_new_tokens=self.generation.max_new_tokens, within_source=True, **choices)


def mean_losses(model, rows, collate, batch_size, share):
    """evaluation.mean_loss() of all rows as "loss", and of those of each task as "ask_loss" and so on."""
    losses, tokens = {}, {}
    for task in dict.fromkeys(row.example.task for row in rows):
        of_task = [row for row in rows if row.example.task == task]
        losses[task] = evaluation.mean_loss(model, of_task, collate, batch_size, share)
        tokens[task] = sum(len(row.target_ids) for row in of_task)
    mean = sum(losses[task] * tokens[task] for task in losses) / sum(tokens.values())
    return {"loss": mean, **{f"{task}_loss": loss for task, loss in losses.items() if task}}
