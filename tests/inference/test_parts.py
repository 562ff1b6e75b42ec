"""Parts of a file, answered by processes that know nothing of each other: together they give the bytes of one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm.command_line import UsageError
from glm.data.tokenization import Tokenizer
from glm.errors import Interrupted, RunError, UserError
from glm.files import locks
from glm.inference import answers, parts, prompts
from glm.inference.arguments import PromptArguments
from glm.inference.partial_answers import is_complete
from glm.inference.parts import Part
from glm.weights import builtin_model
from tests.inference.test_prompts import CONFIG, Echo, records


@pytest.fixture(scope="module")
def tokenizer():
    """The built-in tokenizer."""
    return Tokenizer(builtin_model.build())


@pytest.fixture
def job(tmp_path, tokenizer, monkeypatch):
    """A function that answers a part ("" for all) of 50 records; and the output file."""
    monkeypatch.setattr(prompts, "WINDOW", 16)
    data, output = tmp_path / "data.jsonl", tmp_path / "out.jsonl"
    data.write_text("\n".join(records(50)), encoding="utf8")

    def run(part="", decoder=None, **flags):
        flags = {"data_file": str(data), "output_file": str(output), "src_length": 40, "batch_size": 2, **flags}
        decoder = decoder or Echo(tokenizer)
        answers.answer_prompts(PromptArguments(part=part or None, **flags), tokenizer, CONFIG, [], decoder)
        return decoder.batches

    return run, output


@given(st.integers(1, 9), st.integers(0, 99), st.integers(0, 99))
def test_every_batch_belongs_to_one_part(count, window, batch):
    assert sum(part.has(window, batch) for part in Part(0, count).siblings()) == 1


@pytest.mark.parametrize("count", [2, 3, 5])
def test_parts_in_any_order_give_the_bytes_and_the_batches_of_one_process(job, capsys, count):
    run, output = job
    batches = run()
    whole = output.read_bytes()
    told = capsys.readouterr().err.splitlines()[-2:]
    output.unlink()
    found = []
    order = [*range(2, count + 1), 1]
    for done, number in enumerate(order, 1):
        assert not output.exists()
        own = run(f"{number}/{count}")
        assert own
        found += own
        said = capsys.readouterr()
        if done < count:
            assert f"part {number}/{count} is done; {count - done} of {count} parts are still to come" in said.err
            assert "of 50 prompts" not in said.err
    assert output.read_bytes() == whole
    assert f"50 predictions written to {output}" in said.out
    # What was counted is told once, of all.
    assert [line for line in said.err.splitlines() if "of 50 prompts" in line] == [
        line for line in told if "of 50 prompts" in line
    ]
    assert sorted(found) == sorted(batches)
    assert [path.name for path in output.parent.iterdir() if "part" in path.name] == []


def test_a_part_that_was_interrupted_goes_on_and_the_last_one_writes(job, tokenizer):
    run, output = job
    run()
    whole = output.read_bytes()
    output.unlink()
    with pytest.raises(Interrupted, match=r"answers are kept in .*out\.jsonl\.part-1-of-2\.partial"):
        run("1/2", Echo(tokenizer, fail_at=3))
    run("2/2")
    assert not output.exists()
    again = run("1/2", resume=True)
    assert output.read_bytes() == whole
    assert len(again) > 3
    # A part that is done has nothing to decode.
    run("2/2")
    assert run("2/2", resume=True) == []


def test_parts_of_other_data_or_other_batches_are_not_joined(job, tokenizer):
    run, output = job
    run("1/2")
    run("2/2", batch_size=3)
    assert not output.exists()
    with pytest.raises(UserError, match="other data, another model or other flags"):
        run("1/2", resume=True, batch_size=3)
    run("2/2")
    assert output.exists()


def test_whoever_writes_the_output_is_left_alone(job, capsys):
    run, output = job
    run("1/2")
    with locks.held_for(output):
        run("2/2")
        assert "another process writes" in capsys.readouterr().err
    assert not output.exists()
    run("1/2", resume=True)
    assert output.read_bytes().count(b"\n") == 50


def test_an_answer_that_is_missing_in_a_part_is_told(job):
    run, output = job
    run("1/2")
    path = output.with_name("out.jsonl.part-1-of-2.partial")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3] + lines[4:]))
    with pytest.raises(RunError, match="answers are missing"):
        run("2/2")
    assert not output.exists()


def test_a_part_is_complete_when_its_last_line_says_so_and_it_is_of_the_same_settings(tmp_path):
    path = tmp_path / "x"
    assert not is_complete(path, "key")
    for content, expected in (
        ('{"settings": "key"}\n', False),
        ('{"settings": "key"}\n{"complete": true}\n', True),
        ('{"settings": "other"}\n{"complete": true}\n', False),
        ('{"settings": "key"}\n{"complete": true}', False),
        ("nonsense\n", False),
    ):
        path.write_text(content)
        assert is_complete(path, "key") is expected


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3", ""])
def test_a_part_that_is_none_is_refused(text):
    with pytest.raises(UserError, match="write which part of how many"):
        Part.parse(text)


def test_ranks_that_divide_a_model_have_the_same_part_and_the_first_of_them_writes(monkeypatch):
    assert parts.launched() == (parts.WHOLE, True)
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "4")
    found = []
    for rank in range(4):
        monkeypatch.setenv("PADDLE_TRAINER_ID", str(rank))
        found.append([parts.launched(degree) for degree in (1, 2, 4)])
    assert [place for place, *_ in found] == [(Part(rank, 4), True) for rank in range(4)]
    assert [place for _, place, _ in found] == [(Part(rank // 2, 2), rank % 2 == 0) for rank in range(4)]
    assert [place for *_, place in found] == [(parts.WHOLE, rank == 0) for rank in range(4)]
    with pytest.raises(UserError, match="needs 3 processes, or a multiple, and there are 4"):
        parts.launched(3)


def test_what_parts_cannot_do_is_refused_in_a_line(job, tokenizer):
    run, output = job
    launched = {"part": Part(0, 2)}
    for flags, told in (
        ({"output_file": None}, "2 processes share the prompts out, .* give --output_file FILE"),
        ({"data_file": "-"}, "give a file as --data_file"),
        ({"part": "1/2"}, "--part: launched processes share the prompts out by themselves"),
    ):
        arguments = PromptArguments(**{"data_file": "x", "output_file": str(output), **flags})
        with pytest.raises(UsageError, match=told):
            answers.answer_prompts(arguments, tokenizer, CONFIG, [], Echo(tokenizer), **launched)
    with pytest.raises(UsageError, match="cannot read what this one has from standard input"):
        PromptArguments(data_file="-", output_file="x", part="1/2")
    with pytest.raises(UserError, match="--interactive: one process has a conversation, and there are 2"):
        parts.check_alone(PromptArguments(interactive=True), Part(0, 2))


def test_the_lines_of_parts_keep_no_records(job):
    run, output = job
    run("1/2")
    lines = output.with_name("out.jsonl.part-1-of-2.partial").read_text(encoding="utf8").splitlines()
    assert all(set(json.loads(line)) == {"row", "answer"} for line in lines[1:-1])
