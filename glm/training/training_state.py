"""What a checkpoint holds besides the model: the optimizer's state, the schedule and where the run stands. Arrays are
in safetensors, all else in JSON, so that reading a checkpoint runs nothing that is in it.

An optimizer's state is read at any degree of tensor parallelism, whatever the degree it was written at.
"""

import re
from pathlib import Path

import numpy as np
import paddle

from glm import json_text
from glm.parallel.sharding import axis_of, local_part, whole_of_parts
from glm.weights.stored_weights import read_object
from glm.weights.weight_sources import ModelError, read_weights_file

OPTIMIZER_FILE, PROGRESS_FILE, ARGUMENTS_FILE = "optimizer.safetensors", "progress.json", "args.json"
# Where master copies of half-precision weights are kept in an optimizer's state, and their prefix in the file.
MASTERS = "master_weights"
SCHEDULE = "LR_Scheduler"
# How paddle calls a master weight, behind its parameter's name.
OF_MASTER = "_fp32_master_"
MASTER_NAME = re.compile(rf".*{OF_MASTER}\d+")


def optimizer_file(ranks):
    """Name of the file of this rank's optimizer state."""
    return OPTIMIZER_FILE if ranks.size == 1 else f"optimizer.tp{ranks.rank:02d}.safetensors"


def optimizer_tensors(optimizer):
    """{name: tensor} of all that an optimizer keeps of its parameters; the schedule is not among it."""
    state = dict(optimizer.state_dict())
    state.pop(SCHEDULE, None)
    masters = state.pop(MASTERS, {})
    return {**state, **{f"{MASTERS}/{name}": tensor for name, tensor in masters.items()}}


def write_progress(directory, progress, arguments):
    """Write where a run stands: numbers and objects of numbers, which come back exactly as they were; and its flags."""
    for name, content in ((PROGRESS_FILE, progress), (ARGUMENTS_FILE, arguments)):
        text = json_text.dumps(content, indent=1, default=float)
        (Path(directory) / name).write_text(text + "\n", encoding="utf8")


def read_progress(directory):
    """What write_progress() wrote. Raises ModelError."""
    return read_object(Path(directory) / PROGRESS_FILE)


def state_files(directory):
    """The files of an optimizer's state in a checkpoint, one of each tensor-parallel rank, in order."""
    whole = Path(directory) / OPTIMIZER_FILE
    return [whole] if whole.is_file() else sorted(Path(directory).glob("optimizer.tp*.safetensors"))


def read_optimizer_state(directory, names_at, parameters, ranks):
    """What optimizer.set_state_dict() takes, for this rank, of a checkpoint. Raises ModelError.

    names_at: degree → {name of a weight: name of the parameter that its state is kept under} at that degree.
    parameters: this rank's trained ones, by name of the weight.
    """
    files = state_files(directory)
    if not files:
        raise ModelError(
            f"{directory}: no {OPTIMIZER_FILE} there; training cannot go on from it, but with its weights alone by "
            "--ignore_load_lr_and_optim"
        )
    if len(files) == ranks.size:
        weights = read_weights_file(files[ranks.rank])
        arrays = {name: weights.take(name) for name in weights.shapes}
    else:
        arrays = arrays_at_another_degree(files, names_at(len(files)), parameters, ranks)
    tensors = {name: paddle.to_tensor(np.ascontiguousarray(array)) for name, array in arrays.items()}
    masters = {name: tensors.pop(name) for name in list(tensors) if name.startswith(f"{MASTERS}/")}
    if masters:
        tensors[MASTERS] = {name.removeprefix(f"{MASTERS}/"): tensor for name, tensor in masters.items()}
        name_masters(tensors[MASTERS], tensors)
    return tensors


def name_masters(masters, kept):
    """Give master weights, {name of the parameter: tensor}, the names that paddle had for them: it keeps moments under
    those, the keys of `kept`, and finds them so again."""
    names = {key.partition(OF_MASTER)[0]: MASTER_NAME.match(key) for key in kept if OF_MASTER in key}
    for name, tensor in masters.items():
        if names.get(name):
            tensor.name = names[name][0]


def arrays_at_another_degree(files, stored_names, parameters, ranks):
    """{name: array} of this rank's optimizer state, from the files of the ranks of another degree.

    Moments lie like their parameters; what is kept once for a parameter (powers of beta) is the same on all ranks.
    """
    states = [read_weights_file(path) for path in files]
    result = {}
    for weight, parameter in parameters.items():
        old = stored_names[weight]
        for key in states[0].shapes:
            bare = key.removeprefix(f"{MASTERS}/")
            # Not by prefix: linear_1.w_0 begins linear_1.w_0_moment1_0 and is none of linear_11's.
            if bare == old or bare.startswith(f"{old}_"):
                new = key[: len(key) - len(bare)] + parameter.name + bare[len(old) :]
                result[new] = moved(weight, [state.take(key) for state in states], parameter, ranks)
    return result


def moved(weight, parts, parameter, ranks):
    """This rank's part of what other ranks keep of a weight. All of them have what has one number alone along the axis
    that the weight is divided along."""
    axis = axis_of(weight)
    if axis is None or parts[0].shape[axis] == 1 != parameter.shape[axis]:
        return parts[0]
    return np.ascontiguousarray(local_part(weight, whole_of_parts(weight, parts), ranks.rank, ranks.size))
