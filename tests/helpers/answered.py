"""Prompts with what was generated for them, made by hand."""

import numpy as np

from glm.data.examples import Encoded
from glm.data.preparation import DEFAULT
from glm.data.records import ReadReport
from glm.data.templates import Example
from glm.inference.answer_lines import Answer
from glm.inference.prompts import opened


def answered(source, *predictions, scores=None, **fields):
    """The Answer to a prompt; fields: others of its templates.Example."""
    row = Encoded(Example("", source, "", **fields), np.array([1, 2, 3], np.int32), None, 3, 0)
    return Answer(row, predictions, scores)


def prompts_of(arguments, remembered=DEFAULT):
    """The Examples that PromptArguments ask for, and the reader's report."""
    with opened(arguments, remembered) as source:
        report = ReadReport(str(source.name))
        return list(source.examples(report)), report
