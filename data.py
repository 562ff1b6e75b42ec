"""What the scripts share about data: sets by name or path → splits → encoded rows, and what a run says of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from paddlenlp.utils.log import logger

from glm import metrics
from glm.data import examples, kinds, records
from glm.data.columns import parse_columns
from glm.data.encoded_files import encode_file, encode_texts
from glm.data.normalization import normalizer
from glm.data.own_prompts import OwnPrompt
from glm.data.preparation import BUILT_IN
from glm.data.records import Part
from glm.data.selections import Selection
from glm.decoding.generation_config import check_positions
from glm.errors import UserError
from glm.files import lines
from glm.files.archives import ArchiveError, OfflineError, contained_archives

ROOT = Path(__file__).resolve().parent
BELLE = "bellegroup"
# What files are called that nobody means to train on.
HELD_BACK = ("test", *kinds.DEV_NAMES)


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


def is_downloaded(data_args):
    """Whether the data set that is asked for is one that paddlenlp downloads, and no file of the user's."""
    name, folder = data_args.task_name, getattr(data_args, "data_name", None)
    inside = [Path(folder), Path(folder) / name, Path(folder) / f"{name}.json"] if folder else []
    return not name.startswith("demo_") and not any(path.exists() for path in (Path(name), *inside))


def splits_of(path, need_train, need_dev):
    """{"train": path, "dev": path} of a file or of a directory with train.json and dev.json (or .jsonl, or pairs).

    A file is for evaluation if only that is needed, else for training. Raises UserError.
    """
    splits = kinds.find_splits(path)
    if need_train and splits["train"] and splits["train"].stem.lower() in HELD_BACK:
        raise UserError(
            f"{splits['train']}: is called {splits['train'].stem}, and would be trained on; name the training data, or "
            "rename the file if it is that"
        )
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
            f"dureader_qg could not be downloaded ({reason_of(error)}): check the network, or give the directory "
            "of its train.json and dev.json as --task_name; demo_qg needs no network"
        ) from None


def reason_of(error):
    """Why a download failed, in a few words."""
    return str(error) if isinstance(error, OfflineError) else type(error).__name__


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
            f"{name} could not be downloaded ({reason_of(error)}): check the network, or give its file or "
            "directory as --task_name; demo_instruction needs no network"
        ) from None
    # paddlenlp has "NAME.zip" where some archives have "NAME".
    return path if path.exists() else Path(str(path.parent).removesuffix(".zip")) / path.name


def select(data_args, args, splits, template):
    """{"train": selections.Selection, "dev": …} of what a run needs; what it does not need is left out. How records
    become texts is left open: that is remembered with the model. Raises UserError."""
    lines.set_limit(data_args.max_record_bytes)
    columns = parse_columns(data_args.columns)
    if data_args.prompt not in (None, BUILT_IN):
        OwnPrompt.parse(data_args.prompt)
    needed = {"train": args.do_train, "dev": args.do_eval}
    counts = {"train": data_args.max_train_samples, "dev": data_args.max_eval_samples}
    chosen = parts(splits, needed, data_args.dev_ratio, args.seed)
    history = getattr(data_args, "train_on_history", False)
    return {
        split: Selection(
            path,
            template,
            on_bad_data=data_args.on_bad_data or ("skip" if is_downloaded(data_args) else "error"),
            max_samples=counts[split],
            part=part,
            with_history=history and split == "train",
            tasks=getattr(data_args, "chosen_tasks", ()),
            columns=columns,
        )
        for split, (path, part) in chosen.items()
    }


def load_splits(data_args, args, selections, tokenizer):
    """(training rows, evaluation rows), None for what is not asked for; with what a run's first lines say of them."""
    settings = tokenizer, data_args.src_length, data_args.tgt_length
    prepared = tokenizer.preparation
    if prepared.prompt:
        logger.info(f"prompt: {prepared.prompt}")
    selections = {
        split: replace(selection, prompt=prepared.prompt, normalize=prepared.normalize)
        for split, selection in selections.items()
    }
    if prepared.prompt and any(selection.tasks for selection in selections.values()):
        raise UserError(f"--tasks has prompts of its own, and not {prepared.prompt!r}; give --prompt builtin, too")
    progress = not args.disable_tqdm
    train_rows = eval_rows = None
    if selection := selections.get("train"):
        train_rows = encode_file(selection, *settings, progress=progress)
        report_rows(train_rows, train_rows.report, data_args, tokenizer)
    if selection := selections.get("dev"):
        eval_rows, report = encode_texts(selection, *settings, progress=progress)
        report_rows(eval_rows, report, data_args, tokenizer)
    rows = train_rows or eval_rows or []
    if args.do_eval:
        warn_of_min_length(data_args, rows)
    for row in (rows[i] for i in range(min(1, len(rows)))):
        for name, ids in (("source", row.source_ids), ("target", row.target_ids)):
            logger.info(f"first row, {name} of {len(ids)} tokens decoded back: {tokenizer.spelled(ids)}")
    return train_rows, eval_rows


def report_rows(rows, report, data_args, tokenizer):
    """Say how many rows there are, how long they are and what was wrong with them."""
    logger.info(report.summary())
    statistics = examples.length_statistics(examples.lengths_of(rows))
    logger.info(f"{report.path}: " + ", ".join(f"{name} {value}" for name, value in statistics.items()))
    if statistics["target_cut"]:
        logger.warning(
            f"{statistics['target_cut']} targets were cut to {data_args.tgt_length} tokens; see --tgt_length"
        )
    if unknown := report.unknown(len(rows)):
        helps = any(normalizer("simplified")(character) != character for character in report.unknown_at)
        logger.warning(unknown + "; --normalize simplified writes traditional ones as simplified ones" * helps)


def has_numbers(rows):
    """Whether a target of rows with texts has a number in it."""
    return any(metrics.final_number(row.example.target) is not None for row in rows)


def warn_of_min_length(data_args, rows):
    """Warn if evaluation is made to write more than the targets have."""
    warning = examples.check_min_tgt_length(examples.lengths_of(rows)[:, 1] - 1, data_args.min_tgt_length)
    if warning:
        logger.warning(warning)


def check_lengths(config, splits, tgt_length):
    """Raise UserError if positions would be needed that the model does not have; splits: rows, or None."""
    longest = max((examples.lengths_of(rows)[:, 0].max() for rows in splits if rows), default=0)
    check_positions(config.max_sequence_length + 1, int(longest), tgt_length)
