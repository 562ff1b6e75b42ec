"""One rank of a divided model: run by test_parallel.py under paddle.distributed.launch, writes what it computed.

python -m paddle.distributed.launch --nproc_per_node N --backend gloo parallel_model.py MODEL OUTPUT
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import glm.runtime  # noqa: F401

import numpy as np
import paddle

from glm.decoding.decoder import generate
from glm.model.dropout import Noise
from glm.model.lora import LoraConfig, add_lora, lora_parameters
from glm.parallel.ranks import launched_ranks
from glm.parallel.sharding import axis_of
from glm.weights import model_directory
from tests.helpers import models

LENGTHS = [(9, 4), (5, 7), (12, 1), (7, 6)]


def computed(directory, ranks):
    """{what: array} of a model in a directory: losses, gradients, logits, texts; with LoRA, too."""
    results = {}
    batch = models.training_batch(models.random_rows(LENGTHS))
    padded = models.padded_batch(models.random_rows(LENGTHS))
    for lora in (False, True):
        model = model_directory.load_model(directory, ranks=ranks)
        if lora:
            add_lora(model, LoraConfig(r=3, target_modules=("all",)), seed=5)
            for name, factor in lora_parameters(model).items():
                if name.endswith("lora_B"):
                    factor.set_value(fixed_part(name, factor, ranks))
        kind = "lora" if lora else "full"
        for smoothing in (0.0, 0.1):
            loss = model(**batch, label_smoothing=smoothing)
            loss.backward()
            results[f"{kind} loss {smoothing}"] = loss.numpy()
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    results[f"{kind} gradient {smoothing} {name}"] = parameter.grad.numpy()
            model.clear_gradients()
        inputs = padded["input_ids"], padded["position_ids"], padded["source_length"]
        with paddle.no_grad():
            results[f"{kind} logits"] = model(*inputs).numpy()
            results[f"{kind} padded loss"] = model(*inputs, labels=padded["labels"], label_smoothing=0.1).numpy()
        model.glm.transformer.enable_recompute = True
        model(**batch, noise=Noise(1, 2)).backward()
        recomputed = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
        results[f"{kind} recomputed"] = np.array(
            max(abs(recomputed[name] - results[f"{kind} gradient 0.0 {name}"]).max() for name in recomputed)
        )
        results.update({f"{kind} {what}": array for what, array in dropping(model, batch).items()})
        for beams in (1, 3):
            results[f"{kind} texts {beams}"] = texts(model, beams)
    return results


def dropping(model, batch):
    """With dropout everywhere: the gradients of what all ranks have, and the places at which is dropped."""
    for layer in model.sublayers():
        if isinstance(layer, paddle.nn.Dropout):
            layer.p = 0.3
    noise, places = Noise(1, 2), []
    draw = noise.dropout
    noise.dropout = lambda probability, *place: places.append(str(place)) or draw(probability, *place)
    model.clear_gradients()
    model(**batch, noise=noise).backward()
    common = {name: p.grad for name, p in model.named_parameters() if p.grad is not None and axis_of(name) is None}
    for layer in model.sublayers():
        if isinstance(layer, paddle.nn.Dropout):
            layer.p = 0.0
    places = np.array(sorted(set(places)))
    return {"dropped places": places, **{f"dropped {name}": gradient.numpy() for name, gradient in common.items()}}


def fixed_part(name, factor, ranks):
    """Random numbers for a lora_B, which are those of its rank's part of a whole one."""
    from glm.parallel import sharding

    shape = sharding.whole_shape(name, factor.shape, ranks.size)
    whole = np.random.default_rng(len(name)).standard_normal(shape).astype("float32") * 0.1
    return np.ascontiguousarray(sharding.local_part(name, whole, ranks.rank, ranks.size))


def texts(model, beams):
    """Ids of three generated texts."""
    prompts = models.random_prompts([9, 5, 12])
    source = np.concatenate([prompts["input_ids"], np.full([3, 1], models.SOP)], axis=1)
    positions = np.zeros([3, 2, source.shape[1]], "int64")
    positions[:, 0, -1] = prompts["mask_index"]
    ids = generate(
        model,
        paddle.to_tensor(source),
        paddle.to_tensor(positions),
        paddle.to_tensor(prompts["source_mask"].sum(axis=1).astype("int64")),
        special_ids=models.special_ids(),
        max_new_tokens=12,
        num_beams=beams,
        no_repeat_ngram_size=2,
    )
    return ids.numpy()


def main(directory, output):
    """Compute and write."""
    paddle.set_device("cpu")
    ranks = launched_ranks()
    np.savez(f"{output}/rank{ranks.rank}.npz", **computed(directory, ranks))


if __name__ == "__main__":
    main(*sys.argv[1:])
