"""Flags two by two: whatever changes how a run saves, batches or computes trains beside any other that does, is saved,
goes on and is exported; or is refused in one line.

allpairspy gives few runs in which every pair of values occurs. make test does two of them, make test-faults all.
"""

from itertools import combinations

import pytest
from allpairspy import AllPairs

import export_generation_model
import finetune_generation
from glm.files import manifest
from glm.training import saving
from tests.helpers import ROOT
from tests.helpers.runs import SMALL, launched

RUN = [*SMALL, "--do_train", "--per_device_train_batch_size", "4", "--logging_steps", "1", "--save_steps", "2"]
RUN += ["--learning_rate", "1e-2", "--disable_tqdm", "True"]
# Flag → values; None leaves it out. "ranks" is the number of processes, which divide the model.
VALUES = {
    "lora": [None, "True"],
    "async_save": [None, "True"],
    "ranks": [1, 2],
    "packing": [None, "True"],
    "group_by_length": [None, "False"],
    "recompute": [None, "True"],
    "gradient_accumulation_steps": [None, "2"],
    "save_total_limit": [None, "1"],
    "load_best_model_at_end": [None, "True"],
    "neftune_alpha": [None, "5"],
    "label_smoothing": [None, "0"],
    "lr_scheduler_type": [None, "constant_with_warmup"],
    "max_grad_norm": [None, "0"],
    "optim": [None, "adafactor"],
    "on_save_error": [None, "continue"],
    "auto_batch": [None, "True"],
}
# What is refused beside another value, which would leave the rest of a run untried; each is tried apart.
REFUSED = {frozenset([("ranks", 2), ("auto_batch", "True")]): "--auto_batch is for one process"}
LOSSY = {"ignore_save_lr_and_optim": "True"}
LOSSY_REASON = "training cannot go on from it"


def may_be(values):
    """Whether the first values of a case are not refused."""
    return not any(pair <= set(zip(VALUES, values, strict=False)) for pair in REFUSED)


PLAIN = {name: values[0] for name, values in VALUES.items()}


def pairs_in(case):
    """Its pairs of values."""
    return {frozenset(pair) for pair in combinations(case.items(), 2)}


def all_cases():
    """Runs that every pair of values occurs in, those that are refused apart."""
    cases = [dict(zip(VALUES, values, strict=True)) for values in AllPairs(list(VALUES.values()), filter_func=may_be)]
    wanted = {
        frozenset([(one, a), (other, b)])
        for one, other in combinations(VALUES, 2)
        for a in VALUES[one]
        for b in VALUES[other]
    }
    # Where something is refused, allpairspy leaves a pair or two out.
    left = wanted - set(REFUSED) - {pair for case in cases for pair in pairs_in(case)}
    return cases + [{**PLAIN, **dict(pair)} for pair in sorted(left, key=str)]


CASES = all_cases()


def test_every_pair_of_values_is_in_some_run_or_refused():
    pairs = {pair for case in CASES for pair in pairs_in(case)} | set(REFUSED)
    assert len(pairs) == 4 * len(VALUES) * (len(VALUES) - 1) // 2


def flags_of(case):
    """The flags of a case, without the number of ranks."""
    flags = [part for name, value in case.items() if name != "ranks" and value for part in (f"--{name}", value)]
    if case["load_best_model_at_end"]:
        flags += ["--do_eval", "--evaluation_strategy", "steps", "--eval_steps", "2", "--metric_for_best_model", "loss"]
        flags += ["--prediction_loss_only", "True", "--max_eval_samples", "2"]
    return flags


def train(tmp_path, case, steps):
    """Run; the one line that it is refused in, or None."""
    flags = [*RUN, *flags_of(case), "--max_steps", str(steps), "--output_dir", str(tmp_path / "out")]
    if case["ranks"] > 1:
        script, degree = ROOT / "finetune_generation.py", ["--tensor_parallel_degree", str(case["ranks"])]
        launched(tmp_path, script, *flags, *degree, ranks=case["ranks"])
    else:
        finetune_generation.main(flags)


def refused(tmp_path, capfd, case, steps):
    """What a case is refused with, or None."""
    capfd.readouterr()
    code, said = 0, ""
    try:
        train(tmp_path, case, steps)
    except SystemExit as ended:
        code, said = ended.code, capfd.readouterr().err
    except AssertionError as error:
        # Of a launched job.
        code, said = 2, str(error)
    assert code in (0, 2), said
    return said if code else None


def check(tmp_path, capfd, case):
    """Train two steps, go on to the third, export."""
    output = tmp_path / "out"
    assert refused(tmp_path, capfd, case, 2) is None
    (saved,) = saving.checkpoints(output)
    assert saved.name == "checkpoint-2"
    manifest.verify(saved, required=True)
    assert refused(tmp_path, capfd, case, 3) is None
    assert manifest.verify(output, required=True)["step"] == 3
    steps = [saving.step_of(path) for path in saving.checkpoints(output)]
    assert len(steps) <= (2 if not case["save_total_limit"] or case["load_best_model_at_end"] else 1)
    model = ["--model_name_or_path", "glm-tiny-chinese", "--lora_path", str(output)]
    model = model if case["lora"] else ["--model_name_or_path", str(output)]
    export_generation_model.main([*model, "--output_path", str(tmp_path / "program" / "glm")])
    manifest.verify(tmp_path / "program", required=True, name="glm_manifest.json")


@pytest.mark.parametrize("number", [1, 2])
def test_some_flags_together(tmp_path, capfd, number):
    check(tmp_path, capfd, {**CASES[number], "ranks": 1})


@pytest.mark.faults
@pytest.mark.parametrize("number", range(len(CASES)))
def test_every_pair_of_flags_trains_goes_on_and_is_exported(tmp_path, capfd, number):
    check(tmp_path, capfd, CASES[number])


@pytest.mark.faults
@pytest.mark.parametrize("pair", REFUSED, ids=str)
def test_pairs_that_make_no_sense_are_refused(tmp_path, capfd, pair):
    assert REFUSED[pair] in refused(tmp_path, capfd, {**PLAIN, **dict(pair)}, 2)


@pytest.mark.faults
@pytest.mark.parametrize(("name", "value"), [(name, values[1]) for name, values in VALUES.items()])
def test_a_run_that_saves_no_optimizer_is_not_gone_on_with_and_its_result_is_exported(tmp_path, capfd, name, value):
    case = {**PLAIN, **LOSSY, name: value}
    assert refused(tmp_path, capfd, case, 2) is None
    manifest.verify(tmp_path / "out", required=True)
    assert LOSSY_REASON in refused(tmp_path, capfd, case, 3)
