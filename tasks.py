"""Data sets by name or path: where the files of --task_name are."""

from pathlib import Path

import records
from errors import UserError

ROOT = Path(__file__).resolve().parent


def question_generation(name_or_path, need_train, need_dev):
    """{"train": path, "dev": path} of a question generation task; a split that is not needed may be None.

    name_or_path: "demo_qg" (ships with the project), "dureader_qg" (paddlenlp downloads it), a file (for training,
    or for evaluation alone) or a directory with train.json and dev.json (or .jsonl).
    Raises UserError for what is not there.
    """
    path = Path(name_or_path)
    if name_or_path == "demo_qg":
        path = ROOT / "demo" / "qg"
    elif name_or_path == "dureader_qg" and not path.exists():
        return {
            split: dureader_qg(split) if needed else None
            for split, needed in (("train", need_train), ("dev", need_dev))
        }
    splits = records.find_splits(path)
    if path.is_dir():
        for split, needed in (("train", need_train), ("dev", need_dev)):
            if needed and splits[split] is None:
                raise UserError(f"{path}: no {split}.json here; put it there (.jsonl will do), or give a file")
    elif need_dev:
        if need_train:
            raise UserError(
                f"{path} is one file, for training; for --do_eval give a directory with train.json and dev.json"
            )
        splits["dev"] = splits["train"]
    return splits


def dureader_qg(split):
    """File of a DuReaderQG split, which paddlenlp downloads into its cache. Raises UserError without network."""
    from paddlenlp.datasets.dureader_qg import DuReaderQG

    try:
        return Path(DuReaderQG()._get_data(split))
    except Exception as error:
        raise UserError(
            f"dureader_qg could not be downloaded ({type(error).__name__}): check the network, or give the directory "
            "of its train.json and dev.json as --task_name; demo_qg needs no network"
        ) from None
