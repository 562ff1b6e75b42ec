"""What becomes of candidates: answers out of texts, levels, duplicates, the choice of different pairs."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm.command_line import UsageError
from glm.data.tokenization import Tokenizer
from glm.pairs import choosing, duplicates, judging, proposing
from glm.pairs.candidates import Candidate
from glm.pairs.splitting import Passage
from glm.weights import builtin_model

TEXT = "云栖湖在青岚山脚下，湖面海拔一千二百米。四月到六月观鸟。"
PASSAGE = Passage("doc.txt", 100, 100 + len(TEXT), TEXT)


def candidate(answer, question="问什么", answers=(), **more):
    start = 100 + TEXT.index(answer)
    return Candidate(PASSAGE, start, start + len(answer), question, answers=tuple(answers), **more)


def test_candidates_are_where_their_texts_stand_without_marks_each_once():
    tokenizer = Tokenizer(builtin_model.build())
    texts = ["青岚山", ",湖面海拔", "观鸟。", "观鸟", "。", "没有", ""]
    found = proposing.candidates_of(PASSAGE, texts, tokenizer, "characters")
    assert [one.answer for one in found] == ["青岚山", "湖面海拔", "观鸟"]
    for one in found:
        assert TEXT[one.start - 100 : one.end - 100] == one.answer


@pytest.mark.parametrize(
    ("answers", "levels"),
    [
        (["青岚山", "湖"], {"exact", "beam", "f1=0.5", "f1=1", "all"}),
        (["青岚山。", "湖"], {"exact", "beam", "f1=0.5", "all"}),
        (["湖", "青岚山"], {"beam", "all"}),
        (["青岚山脚下"], {"f1=0.5", "all"}),
        (["湖面"], {"all"}),
        ([], {"all"}),
    ],
)
def test_a_pair_holds_at_the_levels_of_what_the_model_answers(answers, levels):
    for level in ("exact", "beam", "f1=0.5", "f1=1", "all"):
        one = candidate("青岚山", answers=answers)
        judging.judge(one, judging.Level.parse(level))
        assert (one.reason is None) == (level in levels), level
        assert one.reason in (None, judging.NOT_ANSWERED)


def test_a_question_of_marks_alone_is_none():
    one = candidate("青岚山", question="？？", answers=["青岚山"])
    judging.judge(one, judging.Level.parse("all"))
    assert one.reason == judging.NO_QUESTION


@pytest.mark.parametrize("wrong", ["f1", "f1=", "f1=0", "f1=1.5", "f1=-1", "f1=nan", "exact=1", "best", ""])
def test_levels_that_there_are_not_are_refused(wrong):
    with pytest.raises(UsageError, match="--keep"):
        judging.Level.parse(wrong)


def by_definition(a, b):
    """Whether two questions are near: Jaccard index of the sets of 3 characters above 0.8."""
    sets = []
    for text in (a, b):
        bare = "".join(c for c in text.lower() if c.isalnum())
        sets.append({bare[i : i + 3] for i in range(len(bare) - 2)} or {bare})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1]) > 0.8


@settings(max_examples=60)
@given(st.integers(0, 2**32))
def test_every_question_that_is_near_an_earlier_one_is_found(seed):
    rng = random.Random(seed)
    questions = ["".join(rng.choices("云栖湖在哪里观鸟几月", k=rng.randint(1, 30)))]
    while len(questions) < 30:
        # Most are another one with a few characters changed.
        text = list(rng.choice(questions))
        for _ in range(rng.randint(0, 3)):
            text[rng.randrange(len(text))] = rng.choice("云栖湖在哪里观鸟几月？ ")
        questions.append("".join(text) + rng.choice(["", "？", "  "]))
    asked = duplicates.Asked()
    for number, question in enumerate(questions):
        near = [str(i) for i in range(number) if by_definition(question, questions[i])]
        assert asked.find(question) == (near[0] if near else None)
        asked.add(str(number), question)


def test_chosen_pairs_have_distinct_answers_first_and_then_different_questions():
    pairs = [
        candidate("青岚山", "湖在哪座山脚下", question_log_p=-1),
        candidate("青岚山脚下", "湖在哪座山的脚下", question_log_p=-2),
        candidate("一千二百米", "湖面海拔多少", question_log_p=-9),
        candidate("四月到六月", "几月到几月观鸟", question_log_p=-8),
    ]
    assert choosing.chosen(pairs, None) == pairs
    assert choosing.chosen(pairs, 3) == [pairs[0], pairs[2], pairs[3]]
    assert choosing.chosen(pairs, 1) == [pairs[0]]
    for count, order in itertools.product(range(1, 5), itertools.permutations(pairs)):
        found = choosing.chosen(list(order), count)
        assert len(found) == count
        assert [one for one in order if any(one is other for other in found)] == found
