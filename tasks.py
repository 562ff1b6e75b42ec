"""Data sets by name or path: where the files of --task_name are, and which of their records are for evaluation."""

from pathlib import Path

import numpy as np

import records
from archives import ArchiveError, contained_archives
from errors import UserError
from records import Part

ROOT = Path(__file__).resolve().parent
BELLE = "bellegroup"


class DownloadError(UserError):
    """A data set cannot be downloaded; the message says which, in one line."""


def question_generation(name_or_path, need_train, need_dev):
    """{"train": path, "dev": path} of a question generation task; a split that is not needed may be None.

    name_or_path: "demo_qg" (ships with the project), "dureader_qg" (paddlenlp downloads it), or a path: see
    splits_of(). Raises UserError for what is not there.
    """
    if name_or_path == "demo_qg":
        return splits_of(ROOT / "demo" / "qg", need_train, need_dev)
    if name_or_path == "dureader_qg" and not Path(name_or_path).exists():
        return {
            split: dureader_qg(split) if needed else None
            for split, needed in (("train", need_train), ("dev", need_dev))
        }
    return splits_of(name_or_path, need_train, need_dev)


def instructions(data_name, name_or_path, need_train, need_dev):
    """{"train": path, "dev": path} of an instruction task; a split that is not needed may be None.

    name_or_path: "demo_instruction" (ships with the project), a path (see splits_of()), one inside the directory
    data_name, or the name of a data set of "bellegroup", which paddlenlp downloads. data_name: may be such a path
    itself. Raises UserError for what is not there.
    """
    if name_or_path == "demo_instruction":
        return splits_of(ROOT / "demo" / "instruction", need_train, need_dev)
    inside = Path(data_name) / name_or_path
    for path in (Path(name_or_path), inside, inside.with_name(inside.name + ".json"), Path(data_name)):
        if path.exists():
            return splits_of(path, need_train, need_dev)
    if data_name != BELLE:
        raise UserError(f"--data_name {data_name}: no such file or directory; give a path, or {BELLE}")
    return {
        split: belle(name_or_path, split) if needed else None
        for split, needed in (("train", need_train), ("dev", need_dev))
    }


def splits_of(path, need_train, need_dev):
    """{"train": path, "dev": path} of a file or of a directory with train.json and dev.json (or .jsonl, or pairs).

    A file is for evaluation if only that is needed, else for training. Raises UserError.
    """
    splits = records.find_splits(path)
    if need_train and splits["train"] is None:
        raise UserError(f"{path}: no train.json here; put it there (.jsonl will do), or give a file")
    if need_dev and not need_train and not Path(path).is_dir():
        splits["dev"] = splits["train"]
    return splits


def parts(splits, needed, dev_ratio, seed):
    """{"train": (path, Part or None), "dev": …} of the splits that are needed; None stands for all records.

    splits: {"train": path, "dev": path or None}. needed: {"train": bool, "dev": bool}. Where there is no dev file, a
    share dev_ratio of the training records is kept for it: at least one record, and at least one is left. Raises
    UserError.
    """
    found = {split: (splits[split], None) for split in ("train", "dev") if needed[split] and splits[split] is not None}
    if needed["dev"] and "dev" not in found:
        path = splits["train"]
        count = records.count_records(path)
        if count < 2:
            raise UserError(f"{path}: {count} records cannot be split for --do_eval; give a dev file, or more records")
        chosen = held_out(count, dev_ratio, seed)
        found = {"train": (path, Part(chosen, others=True)), "dev": (path, Part(chosen))}
    return found


def held_out(count, ratio, seed):
    """Numbers of the records kept for evaluation, of `count`: a share `ratio` of them, but not none and not all."""
    size = min(max(1, round(count * ratio)), count - 1)
    return frozenset(np.random.default_rng(seed).choice(count, size, replace=False).tolist())


def dureader_qg(split):
    """File of a DuReaderQG split, which paddlenlp downloads into its cache. Raises UserError without network."""
    from paddlenlp.datasets.dureader_qg import DuReaderQG

    try:
        with contained_archives():
            return Path(DuReaderQG()._get_data(split))
    except ArchiveError:
        raise
    except Exception as error:
        raise DownloadError(
            f"dureader_qg could not be downloaded ({type(error).__name__}): check the network, or give the directory "
            "of its train.json and dev.json as --task_name; demo_qg needs no network"
        ) from None


def belle(name, split):
    """File of a split of a BELLE data set, which paddlenlp downloads into its cache. Raises UserError."""
    from paddlenlp.datasets.bellegroup import BelleGroup

    if name not in BelleGroup.BUILDER_CONFIGS:
        known = ", ".join(BelleGroup.BUILDER_CONFIGS)
        raise UserError(f"--task_name {name}: no such file or directory, and no data set of {BELLE} ({known})")
    try:
        with contained_archives():
            path = Path(BelleGroup(name=name)._get_data(split))
    except ArchiveError:
        raise
    except Exception as error:
        raise DownloadError(
            f"{name} could not be downloaded ({type(error).__name__}): check the network, or give its file or "
            "directory as --task_name; demo_instruction needs no network"
        ) from None
    # paddlenlp has "NAME.zip" where some archives have "NAME".
    return path if path.exists() else Path(str(path.parent).removesuffix(".zip")) / path.name
