"""How a run begins in its output_dir: anew, or going on from a checkpoint, which has to be of the same run.

What shapes a run is kept in the manifest of each checkpoint. A run that is to go on with something else would end with
weights that are of neither, under the flags of the second.
"""

import json
import os
import shutil
from pathlib import Path

from paddlenlp.trainer.trainer import TRAINER_STATE_NAME
from paddlenlp.utils.log import logger

from glm.command_line import UsageError
from glm.files import descriptions, manifest
from glm.training import saving
from glm.training.training_state import ARGUMENTS_FILE

# Flags of which each value makes another run. Batches, lengths, data and adapters are compared by what comes of them.
SHAPING = (
    *("seed", "label_smoothing", "group_by_length", "packing", "neftune_alpha", "dataloader_drop_last"),
    *("learning_rate", "lr_scheduler_type", "warmup_ratio", "warmup_steps", "lr_decay_ratio", "num_cycles", "lr_end"),
    *("power", "weight_decay", "max_grad_norm", "optim", "adam_beta1", "adam_beta2", "adam_epsilon"),
    *("fp16", "bf16", "fp16_opt_level", "amp_master_grad", "amp_custom_black_list", "amp_custom_white_list"),
    *("scale_loss", "lora", "lora_plus_scale"),
)
# What is compared by its content → the flags that it may come from.
CONTENTS = {
    "training data": "--task_name",
    "base model": "--model_name_or_path",
    "adapter to begin with": "--lora_path",
    "examples a step": "--per_device_train_batch_size, --gradient_accumulation_steps and processes",
}
ADAPTER_FLAGS = {
    "r": "r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "target_modules": "lora_target_modules",
    "rslora": "rslora",
}
WAYS_OUT = {
    False: "give what it was made with, another --output_dir, or --overwrite_output_dir to start anew",
    True: "give what it was made with, or begin a new run at its weights: they load as --model_name_or_path, an "
    "adapter's as --lora_path",
}


def shape_of_run(arguments, *, rows, examples_a_step, base, adapter=None, adapter_config=None):
    """What makes a run what it is, {name: JSON value}.

    arguments: {flag: value}. rows: of training, see encoded_files.StoredRows. base, adapter: directories, the latter of
    the adapter to begin with, or None. adapter_config: lora.LoraConfig, or None.
    """
    shape = {name: arguments[name] for name in SHAPING if name in arguments}
    for name, flag in ADAPTER_FLAGS.items() if adapter_config else ():
        shape[flag] = getattr(adapter_config, name)
    shape["examples a step"] = examples_a_step
    shape["training data"] = rows.identity()
    shape["base model"] = manifest.identity(base)
    shape["adapter to begin with"] = manifest.identity(adapter) if adapter else None
    return json.loads(json.dumps(shape, default=list))


def check_same_run(checkpoint, shape, asked):
    """Raise UsageError, with the flags that differ, unless a checkpoint is of a run of this shape_of_run(). asked:
    whether --resume_from_checkpoint names it."""
    stored = (manifest.read(checkpoint) or {}).get("shape")
    if not isinstance(stored, dict):
        logger.warning(f"{checkpoint} does not say what it was made with: that the flags are the same is not checked")
        return
    differing = [name for name in {**stored, **shape} if stored.get(name) != shape.get(name)]
    if differing:
        told = "; ".join(difference(name, stored.get(name), shape.get(name)) for name in differing)
        raise UsageError(f"{checkpoint} is of another run: {told}; {WAYS_OUT[asked]}")


def difference(name, stored, asked):
    """How a part of a shape differs, in words."""
    if name == "examples a step":
        return f"{name} {stored}, now {asked} ({CONTENTS[name]})"
    if name in CONTENTS:
        return f"{CONTENTS[name]}: another {name}" if name != "training data" else f"{CONTENTS[name]}: other {name}"
    return f"--{name} {json.dumps(stored)}, now {json.dumps(asked)}"


def check_length(checkpoint, state, steps, asked):
    """Raise UsageError for a run of fewer steps than that of a checkpoint was to have: a longer one goes on. Where
    --resume_from_checkpoint names the checkpoint (asked), a line of its own begins, which needs but a step more.

    state: the checkpoint's TrainerState.
    """
    least = min(state.global_step + 1, state.max_steps) if asked else state.max_steps
    if steps < least:
        raise UsageError(
            f"{checkpoint} is step {state.global_step} of a run of {state.max_steps}, and --max_steps or "
            f"--num_train_epochs now make {steps}: a run can be made longer, not shorter; {WAYS_OUT[asked]}"
        )


def begin(args):
    """(the checkpoint to go on from, or None; the checkpoints that have to go before a step is trained). On one rank.

    A directory with checkpoints goes on from the newest whole one; with --overwrite_output_dir they go. Results without
    a checkpoint are not overwritten unasked: UsageError.
    """
    directory = Path(args.output_dir)
    directory.mkdir(parents=True, exist_ok=True)
    if not args.do_train:
        refuse_to_replace_a_run(directory)
        return None, []
    saving.clean(directory)
    if args.resume_from_checkpoint:
        return asked_checkpoint(Path(args.resume_from_checkpoint), directory, args.overwrite_output_dir)
    if args.overwrite_output_dir:
        return None, saving.checkpoints(directory)
    last = saving.newest_whole(directory, logger.warning)
    if last is None and (directory / "all_results.json").exists():
        raise UsageError(
            f"--output_dir {directory} holds the results of a run and no checkpoint to resume: give another directory, "
            "or --overwrite_output_dir to replace them"
        )
    return last and str(last), []


def remove(checkpoints):
    """Remove the checkpoints that begin() says have to go."""
    for old in checkpoints:
        shutil.rmtree(old)


def refuse_to_replace_a_run(directory):
    """Raise UsageError if a directory holds a training run, whose flags, results and predictions evaluation alone would
    replace by its own."""
    path = directory / ARGUMENTS_FILE
    trained = path.is_file() and descriptions.read(path, dict, UsageError).get("do_train")
    if trained or (directory / manifest.FILE).is_file() or saving.checkpoints(directory):
        raise UsageError(
            f"--output_dir {directory} holds a training run, whose results evaluation alone would replace: give "
            f"another one, and {directory} as --model_name_or_path, or as --lora_path"
        )


def asked_checkpoint(asked, directory, overwrite):
    """begin() where --resume_from_checkpoint names a checkpoint: it is `asked`, or what this very line of steps has
    come to since. Raises UsageError.

    Checkpoints in output_dir, `directory`, that are not before `asked` on the same line would be mixed with new ones of
    the same names, and the next run would go on from whichever has the highest number. overwrite: they are to go.
    """
    path = str(check_asked(asked))
    own = asked.resolve().parent == directory.resolve()
    others = [
        found
        for found in saving.checkpoints(directory)
        if not own or saving.step_of(found) > saving.step_of(asked.resolve())
    ]
    newest = saving.newest_whole(directory, logger.warning) if others else None
    if newest in others and saving.began_at(newest) == os.path.abspath(asked):
        return str(newest), []
    if others and not overwrite:
        raise UsageError(
            f"--output_dir {directory} has {others[-1].name} of another run than one from --resume_from_checkpoint "
            f"{path}: give another --output_dir, or --overwrite_output_dir to remove it and those like it"
        )
    return path, others


def check_asked(path):
    """The directory that --resume_from_checkpoint names. Raises UsageError if it is no whole checkpoint."""
    inside = saving.checkpoints(path)
    # The directory of a run that has ended has both files, too.
    if inside or not ((path / TRAINER_STATE_NAME).is_file() or (path / manifest.FILE).is_file()):
        advice = f"the newest one in it is {inside[-1]}" if inside else "give a checkpoint-N that a run has written"
        raise UsageError(f"--resume_from_checkpoint {path} is no checkpoint directory; {advice}")
    try:
        manifest.verify(path, required=True)
    except manifest.DamageError as error:
        raise UsageError(f"--resume_from_checkpoint {path} is not whole: {error}") from None
    return path
