"""Data sets by name or path, and one line for what is not there."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import data
from glm.data import selections
from glm.errors import UserError

RECORD = '{"context": "湖在山下。", "answer": "山下", "question": "湖在哪？"}\n'


def refusal(*arguments):
    """The one line that a wrong data set is refused with."""
    with pytest.raises(UserError) as error:
        data.question_generation(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def write(path):
    """Write one record; return the path."""
    path.write_text(RECORD, encoding="utf8")
    return path


@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True), (False, False)])
def test_demo_ships_with_both_splits(needs, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    splits = data.question_generation("demo_qg", *needs)
    for path in splits.values():
        examples, _ = selections.load_examples(path, "qg", max_samples=3)
        assert all(example.target for example in examples)
    assert splits["train"] != splits["dev"]


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_directory_gives_its_two_files(tmp_path, suffix):
    files = {split: write(tmp_path / (split + suffix)) for split in ("train", "dev")}
    assert data.question_generation(str(tmp_path), True, True) == files


def test_a_file_is_for_training_and_for_evaluation_only_if_nothing_else_is_asked(tmp_path):
    file = write(tmp_path / "mine.jsonl")
    assert data.question_generation(str(file), True, False) == {"train": file, "dev": None}
    assert data.question_generation(str(file), True, True) == {"train": file, "dev": None}
    assert data.question_generation(str(file), False, True)["dev"] == file


def test_a_directory_may_lack_dev_but_not_train(tmp_path):
    train = write(tmp_path / "train.json")
    assert data.question_generation(str(tmp_path), True, True) == {"train": train, "dev": None}
    # Evaluated alone, it has to be by the same records that training would leave out.
    assert data.question_generation(str(tmp_path), False, True) == {"train": train, "dev": None}
    write(tmp_path / "dev.json")
    train.unlink()
    assert "no train.json" in refusal(str(tmp_path), True, False)
    assert data.question_generation(str(tmp_path), False, True)["dev"] == tmp_path / "dev.json"


class TestParts:
    """Which records are for evaluation where there is no dev file."""

    @given(st.integers(2, 60), st.floats(0.001, 0.999), st.integers(0, 5))
    def test_the_split_follows_ratio_and_seed_and_leaves_neither_side_empty(self, count, ratio, seed):
        chosen = data.held_out(count, ratio, seed)
        assert 1 <= len(chosen) <= count - 1
        assert chosen <= set(range(count))
        assert abs(len(chosen) - count * ratio) <= 1
        assert data.held_out(count, ratio, seed) == chosen

    def test_seeds_choose_differently(self):
        assert len({data.held_out(1000, 0.1, seed) for seed in range(5)}) == 5

    def test_every_record_is_on_one_side(self, tmp_path):
        path = tmp_path / "mine.jsonl"
        path.write_text(RECORD * 10, encoding="utf8")
        needed = {"train": True, "dev": True}
        parts = data.parts({"train": path, "dev": None}, needed, 0.2, seed=1)
        sides = [[part.has(number) for _, part in parts.values()] for number in range(10)]
        assert sorted(sides) == [[False, True]] * 2 + [[True, False]] * 8
        alone = data.parts({"train": path, "dev": None}, {"train": False, "dev": True}, 0.2, seed=1)
        assert alone["dev"] == parts["dev"]
        files = {"train": path, "dev": path}
        assert data.parts(files, needed, 0.2, seed=1) == {"train": (path, None), "dev": (path, None)}
        assert data.parts({"train": path, "dev": None}, {"train": True, "dev": False}, 0.2, 1) == {
            "train": (path, None)
        }

    def test_a_single_record_cannot_be_split(self, tmp_path):
        path = write(tmp_path / "mine.jsonl")
        with pytest.raises(UserError, match="1 records cannot be split for --do_eval"):
            data.parts({"train": path, "dev": None}, {"train": True, "dev": True}, 0.5, 0)


class TestInstructions:
    """Where instruction data sets are looked for."""

    @pytest.fixture
    def fetched(self, monkeypatch, tmp_path):
        """(name, split) asked of paddlenlp, which is made to answer without a network."""
        from paddlenlp.datasets.bellegroup import BelleGroup

        asked = []

        def get(self, split):
            asked.append((self.name, split))
            return str(tmp_path / "cache" / f"{self.name}.zip" / f"{split}.json")

        monkeypatch.setattr(BelleGroup, "_get_data", get)
        monkeypatch.chdir(tmp_path)
        return asked

    def test_a_name_of_belle_is_downloaded(self, fetched, tmp_path):
        splits = data.instructions("bellegroup", "train_2M_CN", True, False)
        assert fetched == [("train_2M_CN", "train")]
        # Some archives unpack into the name without ".zip".
        assert splits == {"train": tmp_path / "cache" / "train_2M_CN" / "train.json", "dev": None}

    @pytest.mark.parametrize("where", ["file", "directory", "inside", "inside .json", "data_name"])
    def test_a_path_comes_first(self, fetched, tmp_path, where):
        name = "school_math_0.25M"
        (tmp_path / "belle" / name).mkdir(parents=True)
        file = write(tmp_path / "belle" / (f"{name}.json" if where == "inside .json" else f"{name}/train.json"))
        if where == "inside .json":
            (tmp_path / "belle" / name).rmdir()
        asked = {
            "file": ("bellegroup", str(file)),
            "directory": ("bellegroup", str(file.parent)),
            "inside": (str(tmp_path / "belle"), name),
            "inside .json": (str(tmp_path / "belle"), name),
            "data_name": (str(file), name),
        }
        assert data.instructions(*asked[where], True, False) == {"train": file, "dev": None}
        assert fetched == []

    def test_a_clone_with_one_data_file_is_a_data_set(self, tmp_path):
        file = write(tmp_path / "school_math_0.25M.json")
        (tmp_path / "README.md").write_text("")
        assert data.instructions("bellegroup", str(tmp_path), True, True) == {"train": file, "dev": None}

    def test_unknown_names_and_no_network_are_told_in_one_line(self, fetched, monkeypatch):
        from paddlenlp.datasets.bellegroup import BelleGroup

        def refusal(*names):
            with pytest.raises(UserError) as error:
                data.instructions(*names, True, True)
            assert "\n" not in str(error.value)
            return str(error.value)

        assert "multiturn_chat_0.8M" in refusal("bellegroup", "school")
        assert "--data_name ./bell" in refusal("./bell", "school_math_0.25M")

        def fail(self, split):
            raise RuntimeError("Downloading from …\nfailed after 3 retries")

        monkeypatch.setattr(BelleGroup, "_get_data", fail)
        assert "could not be downloaded (RuntimeError)" in refusal("bellegroup", "train_2M_CN")


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
        splits = data.question_generation("dureader_qg", *needs)
        wanted = [split for split, needed in zip(("train", "dev"), needs, strict=True) if needed]
        assert fetched == wanted
        assert splits == {split: Path(f"cache/{split}.json") if split in wanted else None for split in ("train", "dev")}

    def test_a_directory_of_this_name_comes_first(self, fetched, tmp_path):
        (tmp_path / "dureader_qg").mkdir()
        write(tmp_path / "dureader_qg" / "train.json")
        assert data.question_generation("dureader_qg", True, False)["train"] == Path("dureader_qg/train.json")
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


@pytest.mark.parametrize(
    ("name", "own", "expected"), [("dureader_qg", False, "skip"), ("dureader_qg", True, "error"), ("x", True, "error")]
)
def test_only_what_is_downloaded_is_used_without_its_bad_records_unasked(tmp_path, monkeypatch, name, own, expected):
    monkeypatch.chdir(tmp_path)
    if own:
        (tmp_path / name).mkdir()
    arguments = SimpleNamespace(
        task_name=name, on_bad_data=None, max_record_bytes=100, max_train_samples=None, max_eval_samples=None
    )
    arguments.dev_ratio, arguments.columns, arguments.prompt = 0.5, None, None
    run = SimpleNamespace(do_train=True, do_eval=False, seed=1)
    for asked, found in ((None, expected), ("error", "error"), ("skip", "skip")):
        arguments.on_bad_data = asked
        selections = data.select(arguments, run, {"train": tmp_path / "train.json", "dev": None}, "qg")
        assert selections["train"].on_bad_data == found
