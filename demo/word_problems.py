"""Primary school word problems with a worked answer."""

import zlib

from word_problem_templates import INSTRUCTIONS, ITEMS, NAMES, ONE_STEP, TWO_STEPS

TWO_STEP_SHARE = 0.3
INPUT_SHARE = 1 / 3
# One equation in this many is never shown in train.
HELD_OUT_SHARE = 12
# Sums and differences stay within this, as in the first two years of school; a tiny model can then learn the facts.
LARGEST = 20


def generate_problems(rng, count, for_dev, refused=()):
    """Draw word problems, all different.

    A problem's key is its story with the numbers (story, a, b[, c]), whoever it is told of; problems whose key is in
    `refused` are not drawn. With `for_dev` false, problems that need an equation kept for dev are not drawn either.
    Returns (records {"instruction", "input", "output"}, the set of their keys).
    """
    refused, records, keys = set(refused), {}, set()
    while len(records) < count:
        template = rng.choice(TWO_STEPS if rng.random() < TWO_STEP_SHARE else ONE_STEP)
        numbers, equations, result = solve(rng, template)
        key = (template.story, *numbers.values())
        if key in refused or not for_dev and any(is_held_out(equation) for equation in equations):
            continue
        record = _write_record(rng, template, numbers, equations, result)
        records.setdefault(record["instruction"] + record["input"], record)
        keys.add(key)
    return list(records.values()), keys


def is_held_out(equation):
    """True where the equation ("12+7=19") is kept for dev; stable across runs and machines."""
    return zlib.crc32(equation.encode("utf-8")) % HELD_OUT_SHARE == 0


def solve(rng, template):
    """Draw numbers for the template's steps until each step is one a child can do.

    Returns (numbers {"a": ..., "b": ...}, equations, result).
    """
    while True:
        numbers = _draw_numbers(rng, template.steps)
        equations, result = [], None
        for left, operator, right in template.steps:
            values = {**numbers, "p": result}
            result = _apply(values[left], operator, values[right])
            if result is None:
                break
            equations.append(f"{values[left]}{operator}{values[right]}={result}")
        else:
            return numbers, equations, result


def _draw_numbers(rng, steps):
    """Draw a, b (and c): times-table numbers for × and ÷, up to LARGEST otherwise."""
    operator = steps[0][1]
    if operator == "×":
        numbers = {"a": rng.randint(2, 9), "b": rng.randint(2, 9)}
    elif operator == "÷":
        b = rng.randint(2, 9)
        numbers = {"a": b * rng.randint(2, 9), "b": b}
    else:
        numbers = {"a": rng.randint(2, LARGEST), "b": rng.randint(2, LARGEST)}
    if len(steps) > 1:
        numbers["c"] = rng.randint(2, LARGEST)
    return numbers


def _apply(left, operator, right):
    """Return the result of one step, or None where it is too large, not positive or not exact."""
    if operator == "×":
        return left * right
    if operator == "÷":
        in_table = left % right == 0 and 2 <= right <= 9 and 2 <= left // right <= 9
        return left // right if in_table else None
    result = left + right if operator == "+" else left - right
    return result if 1 <= result <= LARGEST and left <= LARGEST else None


def _write_record(rng, template, numbers, equations, result):
    name, other = rng.sample(NAMES, 2)
    measure, item = rng.choice(ITEMS)
    parts = {"n": name, "o": other, "m": measure, "i": item, "r": result, **numbers}
    story = template.story.format(**parts)
    output = "，".join(equations) + "，所以" + template.conclusion.format(**parts) + f"。答案：{result}"
    if rng.random() < INPUT_SHARE:
        return {"instruction": rng.choice(INSTRUCTIONS), "input": story, "output": output}
    return {"instruction": story, "input": "", "output": output}
