"""What both stacks make alike, to the byte: texts, and the files that move between them. `python -m
tests.helpers.both_stacks` records them anew; tests on either stack compare."""

import hashlib
import json
from pathlib import Path

from tests.helpers import ROOT

RECORD = Path(__file__).with_name("both_stacks.json")


def texts():
    """{structure and number of the run: ids} of eager decoding, the scores of beams beside them."""
    from tests.export.test_program import RUNS, STRUCTURES, eager, run_config
    from tests.helpers import models

    model = models.make_model()
    return {
        f"{name} {number}": eager(model, run_config(structure, run)).tolist()
        for name, structure in STRUCTURES.items()
        for number, run in enumerate(RUNS)
    }


def files(directory):
    """{what it is: hash of its bytes} of a model's weights in each dtype, its shards, an adapter, and a set's ids."""
    from glm.data import encoded_files
    from glm.data.selections import Selection
    from glm.model.lora import LoraConfig, add_lora
    from glm.weights import adapters, builtin_model, model_directory, resharding

    base = builtin_model.build()
    tokenizer = model_directory.load_tokenizer(base)
    model = model_directory.load_model(base)
    for dtype in ("float32", "float16", "bfloat16"):
        model_directory.save_model(model, tokenizer, directory / dtype, dtype)
    resharding.reshard(base, directory / "shards", degree=2)
    config = LoraConfig(r=4, alpha=8)
    add_lora(model, config, 1, 1.0)
    (directory / "adapter").mkdir()
    adapters.Adapter(model, config, str(base), {}, tokenizer.preparation).save_whole(directory / "adapter")
    selection = Selection(ROOT / "demo" / "qg" / "dev.json", "qg")
    rows = encoded_files.encode_file(selection, tokenizer, 64, 16, cache_dir=directory / "cache", progress=False)
    found = {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.suffix in (".safetensors", ".npy", ".int32") and "cache" not in path.parts
    }
    return {**found, "ids": rows.identity()}


def made(directory):
    """What is compared. directory: an empty one."""
    return {"texts": texts(), "files": files(Path(directory))}


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        RECORD.write_text(json.dumps(made(place)) + "\n", encoding="utf8")
