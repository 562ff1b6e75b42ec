"""Data sets by name or path, and one line for what is not there."""

from pathlib import Path

import pytest

import data
import tasks
from errors import UserError

RECORD = '{"context": "湖在山下。", "answer": "山下", "question": "湖在哪？"}\n'


def refusal(*arguments):
    """The one line that a wrong data set is refused with."""
    with pytest.raises(UserError) as error:
        tasks.question_generation(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def write(path):
    """Write one record; return the path."""
    path.write_text(RECORD, encoding="utf8")
    return path


@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True), (False, False)])
def test_demo_ships_with_both_splits(needs, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    splits = tasks.question_generation("demo_qg", *needs)
    for path in splits.values():
        examples, _ = data.load_examples(path, "qg", max_samples=3)
        assert all(example.target for example in examples)
    assert splits["train"] != splits["dev"]


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_directory_gives_its_two_files(tmp_path, suffix):
    files = {split: write(tmp_path / (split + suffix)) for split in ("train", "dev")}
    assert tasks.question_generation(str(tmp_path), True, True) == files


def test_a_file_is_for_training_or_for_evaluation_but_not_for_both(tmp_path):
    file = write(tmp_path / "mine.jsonl")
    assert tasks.question_generation(str(file), True, False) == {"train": file, "dev": None}
    assert tasks.question_generation(str(file), False, True)["dev"] == file
    refused = refusal(str(file), True, True)
    assert str(file) in refused
    assert "--do_eval" in refused
    assert "train.json and dev.json" in refused


def test_a_directory_that_lacks_a_needed_split_is_refused(tmp_path):
    train = write(tmp_path / "train.json")
    assert tasks.question_generation(str(tmp_path), True, False)["train"] == train
    refused = refusal(str(tmp_path), True, True)
    assert f"{tmp_path}: no dev.json" in refused
    assert "one file" not in refused
    assert "no dev.json" in refusal(str(tmp_path), False, True)
    write(tmp_path / "dev.json")
    train.unlink()
    assert "no train.json" in refusal(str(tmp_path), True, False)
    assert tasks.question_generation(str(tmp_path), False, True)["dev"] == tmp_path / "dev.json"


def test_what_is_not_there_is_refused(tmp_path):
    assert "nowhere" in refusal(str(tmp_path / "nowhere"), True, False)
    assert str(tmp_path) in refusal(str(tmp_path), True, False)
    write(tmp_path / "train.json")
    write(tmp_path / "train.jsonl")
    assert "train.json and train.jsonl are both there" in refusal(str(tmp_path), True, False)


class TestDuReaderQG:
    """The data set that paddlenlp downloads."""

    @pytest.fixture
    def fetched(self, monkeypatch, tmp_path):
        """Splits asked of paddlenlp, which is made to answer without a network."""
        from paddlenlp.datasets.dureader_qg import DuReaderQG

        asked = []
        monkeypatch.setattr(DuReaderQG, "_get_data", lambda self, split: asked.append(split) or f"cache/{split}.json")
        monkeypatch.chdir(tmp_path)
        return asked

    @pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True)])
    def test_only_what_is_needed_is_downloaded(self, fetched, needs):
        splits = tasks.question_generation("dureader_qg", *needs)
        wanted = [split for split, needed in zip(("train", "dev"), needs, strict=True) if needed]
        assert fetched == wanted
        assert splits == {split: Path(f"cache/{split}.json") if split in wanted else None for split in ("train", "dev")}

    def test_a_directory_of_this_name_comes_first(self, fetched, tmp_path):
        (tmp_path / "dureader_qg").mkdir()
        write(tmp_path / "dureader_qg" / "train.json")
        assert tasks.question_generation("dureader_qg", True, False)["train"] == Path("dureader_qg/train.json")
        assert fetched == []

    def test_no_network_is_told_in_one_line(self, fetched, monkeypatch):
        from paddlenlp.datasets.dureader_qg import DuReaderQG

        def fail(self, split):
            raise RuntimeError("Downloading from …\nfailed after 3 retries")

        monkeypatch.setattr(DuReaderQG, "_get_data", fail)
        refused = refusal("dureader_qg", True, True)
        assert "dureader_qg could not be downloaded (RuntimeError)" in refused
        assert "--task_name" in refused
        assert "demo_qg" in refused
