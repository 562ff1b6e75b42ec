"""Models decoded by their layers and by their graphs: the same texts; and when a graph is made, kept and given up."""

import os
import subprocess
import sys

import numpy as np
import paddle
import pytest

from glm.command_line import UsageError
from glm.decoding.generation_config import GenerationConfig
from glm.errors import UserError
from glm.export import engines
from glm.model import outputs_first
from glm.model.lora import LoraConfig, LoRALinear, add_lora, lora_parameters
from glm.weights import adapters, builtin_model, model_directory
from tests.helpers import ROOT, models

CHOICES = {
    "greedy": {},
    "beams": {"num_beams": 3, "length_penalty": 0.7},
    "sampling": {"do_sample": True, "top_p": 0.9, "num_return_sequences": 2},
    "sampled beams": {"do_sample": True, "num_beams": 3, "top_k": 20},
    "without repetitions": {"no_repeat_ngram_size": 2, "ban_source_ngrams": True, "min_new_tokens": 9},
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GLM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def saved(tmp_path, cache):
    """A function that writes a model of a seed as a directory."""
    directory = model_directory.resolve(builtin_model.NAME)
    tokenizer, size = model_directory.load_tokenizer(directory), model_directory.load_config(directory).vocab_size

    def save(seed=1):
        directory = tmp_path / f"model{seed}"
        model_directory.save_model(models.make_model(seed, vocab_size=size), tokenizer, directory)
        return directory

    return save


def with_lora(model):
    """A model with LoRA layers whose updates are not nothing."""
    add_lora(model, LoraConfig(r=4, alpha=16, target_modules=("all",), rslora=True))
    for name, factor in lora_parameters(model).items():
        rng = np.random.default_rng(len(name))
        factor.set_value(paddle.to_tensor(0.2 * rng.standard_normal(factor.shape).astype("float32")))
    model.eval()
    return model


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("choices", CHOICES.values(), ids=CHOICES)
def test_a_graph_gives_the_texts_and_scores_of_the_layers(choices, lora):
    model = with_lora(models.make_model()) if lora else models.make_model()
    config = GenerationConfig(max_new_tokens=40, output_scores=True, **choices)
    prompts, special = models.random_prompts((9, 5, 12, 7)), models.special_ids()
    wanted = engines.PythonEngine(model, special).run(prompts, config, [3, 0, 7, 2])
    found = engines.of_model(model, special).run(prompts, config, [3, 0, 7, 2])
    assert models.trimmed(found[0]) == models.trimmed(wanted[0])
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("has_avx512", [False, True])
def test_weights_lie_as_suits_the_processor_and_texts_stay(has_avx512, lora, saved, tmp_path, monkeypatch):
    """Where there is no AVX-512, plain linear layers as [out, in], and not the other way beside it; adapters stay."""
    directory, adapter = saved(), None
    if lora:
        adapter, config = tmp_path / "adapter", LoraConfig(r=2, target_modules=("dense",))
        adapter.mkdir()
        fingerprint = {}
        model = add_lora(model_directory.load_model(directory, fingerprint=fingerprint), config)
        adapters.Adapter(model, config, str(directory), fingerprint).save_whole(adapter)
    tokenizer = model_directory.load_tokenizer(directory)
    monkeypatch.setattr(outputs_first, "multiplies_with_avx512", lambda: has_avx512)
    engine = engines.opened("python", directory, adapter, tokenizer)
    layers = engine.model.glm.transformer.layers
    laid = [layer.mlp.dense_h_to_4h.weight.shape for layer in layers]
    hidden = engine.model.config.hidden_size
    assert laid == [[hidden, 4 * hidden] if has_avx512 else [4 * hidden, hidden]] * len(layers)
    assert isinstance(layers[0].attention.dense, LoRALinear) == lora
    assert len(engine.model.state_dict()) == len(models.make_model().state_dict()) + (2 * len(layers) if lora else 0)
    prompts, choices = models.random_prompts((9, 5, 12)), GenerationConfig(max_new_tokens=30, num_beams=2)
    wanted = engines.PythonEngine(adapters.load_model(directory, adapter), engine.special).run(prompts, choices)
    assert models.trimmed(engine.run(prompts, choices)) == models.trimmed(wanted)


def test_pieces_are_shown_as_they_come_by_both():
    model, special = models.make_model(), models.special_ids()
    config, shown = GenerationConfig(max_new_tokens=25), {}
    prompts = models.random_prompts((9, 5, 12))
    for engine in (engines.PythonEngine(model, special), engines.of_model(model, special)):
        texts = shown[type(engine)] = [[], [], []]

        def on_token(numbers, pieces, texts=texts):
            for number, piece in zip(numbers.tolist(), pieces.tolist(), strict=True):
                texts[number].append(piece)

        ids = engine.run(prompts, config, on_token=on_token)
        # A batch may go on with a text that has ended.
        assert [models.trimmed(np.array([text]))[0] for text in texts] == models.trimmed(ids)


def test_positions_that_there_are_not_are_refused_before_anything_is_decoded(monkeypatch):
    engine = engines.of_model(models.make_model(), models.special_ids())
    monkeypatch.setattr(engine.model, "prefill", None)
    with pytest.raises(UserError, match=r"max_new_tokens is 500 tokens long"):
        engine.run(models.random_prompts((9,)), GenerationConfig(max_new_tokens=500))


@pytest.mark.parametrize("engine", ["layers", "graph"])
def test_texts_with_limits_of_their_own_are_beginnings_of_the_longest_ones(engine):
    model, special, config = models.make_model(), models.special_ids(), GenerationConfig(max_new_tokens=25)
    opened = engines.PythonEngine(model, special) if engine == "layers" else engines.of_model(model, special)
    prompts, limits = models.random_prompts((9, 5, 12, 7)), [25, 1, 3, 8]
    whole = models.trimmed(opened.run(prompts, config))
    read = []
    if engine == "graph":
        step = opened.model.step
        opened.model.step = lambda tokens, *more: (read.append(len(tokens)), step(tokens, *more))[1]
    found = opened.run({**prompts, "max_new_tokens": np.array(limits)}, config)
    wanted = whole if engine == "layers" else [text[:limit] for text, limit in zip(whole, limits, strict=True)]
    limits = limits if engine == "graph" else [25] * 4
    assert [models.trimmed(ids[None, :limit])[0] for ids, limit in zip(found, limits, strict=True)] == wanted
    if engine == "graph":
        # The first piece comes of reading the prompt.
        assert sum(read) == sum(map(len, wanted)) - len(wanted)


@pytest.mark.parametrize(
    ("asked", "about", "chosen"),
    [
        ("auto", {}, "onnx"),
        ("onnx", {}, "onnx"),
        ("python", {}, "python"),
        ("auto", {"dtype": "bfloat16"}, "python"),
        ("auto", {"degree": 2}, "python"),
        ("onnx", {"dtype": "float16"}, "computes in float32, not float16"),
        ("onnx", {"degree": 2}, "does not divide a model"),
    ],
)
def test_what_decodes(asked, about, chosen):
    about = {"dtype": "float32", **about}
    if " " in chosen:
        with pytest.raises(UsageError, match=f"--engine onnx {chosen}.*; leave it out"):
            engines.choice_of(asked, **about)
    else:
        assert engines.choice_of(asked, **about) == chosen


@pytest.mark.parametrize("missing", ["gpu", "package"])
def test_where_there_is_a_gpu_or_no_onnxruntime_layers_decode(missing, monkeypatch):
    if missing == "gpu":
        monkeypatch.setattr(engines.device, "takes_gpu_branches", lambda: True)
    else:
        monkeypatch.setattr(engines, "is_installed", lambda: False)
    assert engines.choice_of("auto", "float32") == "python"
    with pytest.raises(UsageError, match=r"--engine onnx .*; leave it out"):
        engines.choice_of("onnx", "float32")


def opened(directory, asked="auto", lora_path=None):
    tokenizer = model_directory.load_tokenizer(directory)
    return engines.opened(asked, directory, lora_path, tokenizer)


def graphs(cache):
    return sorted(path.name for path in (cache / engines.FOLDER).iterdir() if path.is_dir())


def test_a_graph_is_made_once_for_the_same_weights_and_anew_for_others(saved, cache, monkeypatch):
    first, second = saved(1), saved(2)
    assert isinstance(opened(first), engines.OnnxEngine)
    (known,) = graphs(cache)
    monkeypatch.setattr(adapters, "load_model", None)
    first.rename(first.with_name("moved"))
    opened(first.with_name("moved"))
    assert graphs(cache) == [known]
    monkeypatch.undo()
    os.environ["GLM_CACHE_DIR"] = str(cache)
    opened(second)
    assert len(graphs(cache)) == 2


def test_another_adapter_is_another_graph(saved, cache, tmp_path):
    directory = saved(1)
    fingerprint = {}
    model = with_lora(model_directory.load_model(directory, fingerprint=fingerprint))
    config = LoraConfig(r=4, alpha=16, target_modules=("all",), rslora=True)
    adapter = adapters.Adapter(model, config, str(directory), fingerprint)
    (tmp_path / "adapter").mkdir()
    adapter.save(tmp_path / "adapter", adapter.tensors())
    prompts, choices = models.random_prompts((9, 5)), GenerationConfig(max_new_tokens=20)
    base, adapted = opened(directory), opened(directory, lora_path=tmp_path / "adapter")
    assert len(graphs(cache)) == 2
    found = adapted.run(prompts, choices)
    assert found.tolist() != base.run(prompts, choices).tolist()
    wanted = engines.PythonEngine(model, adapted.special).run(prompts, choices)
    assert found.tolist() == wanted.tolist()


def test_a_graph_that_was_damaged_is_made_anew(saved, cache, capsys):
    directory = saved(1)
    prompts, config = models.random_prompts((9, 5)), GenerationConfig(max_new_tokens=20)
    wanted = opened(directory).run(prompts, config).tolist()
    (name,) = graphs(cache)
    weights = cache / engines.FOLDER / name / f"{engines.GRAPH}.data"
    weights.write_bytes(bytes(weights.stat().st_size))
    assert opened(directory).run(prompts, config).tolist() == wanted
    assert "is made anew" in capsys.readouterr().err


def test_only_the_graphs_used_last_are_kept(saved, cache, monkeypatch):
    monkeypatch.setattr(engines, "KEPT", 2)
    names = []
    for seed in range(3):
        opened(saved(seed))
        (new,) = set(graphs(cache)) - set(names)
        names.append(new)
        for age, name in enumerate(reversed(names)):
            if (cache / engines.FOLDER / name).exists():
                os.utime(cache / engines.FOLDER / name, (1e9 - age, 1e9 - age))
    assert graphs(cache) == sorted(names[1:])


def test_without_room_for_a_graph_layers_decode_and_say_so(saved, cache, capsys, monkeypatch):
    directory = saved(1)
    real = engines.own_cache_directory

    def full():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engines, "own_cache_directory", full)
    assert isinstance(opened(directory), engines.PythonEngine)
    assert "decoding in Python: no graph could be kept in the cache" in capsys.readouterr().err
    with pytest.raises(UserError, match="--engine onnx: no graph could be kept"):
        opened(directory, "onnx")
    monkeypatch.setattr(engines, "own_cache_directory", real)
    assert isinstance(opened(directory), engines.OnnxEngine)


WITHOUT_PADDLE = """
import runpy, sys
sys.modules["paddle"] = sys.modules["paddlenlp"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("script", ["predict_generation.py", "infer_generation.py"])
def test_what_onnxruntime_decodes_is_decoded_without_paddle(script, tmp_path, cache):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    flags = ["--model_name_or_path", "glm-tiny-chinese"]
    if script == "infer_generation.py":
        made = ["--output_path", tmp_path / "program" / "glm", "--format", "onnx", *flags]
        subprocess.run([sys.executable, "export_generation_model.py", *map(str, made)], cwd=ROOT, check=True)
        flags = ["--model_path", str(tmp_path / "program")]
    command = [sys.executable, script, *flags]
    first = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    again = [sys.executable, "-c", WITHOUT_PADDLE, *command[1:]]
    second = subprocess.run(again, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert len(second.stdout.splitlines()) == 2
    assert second.stdout == first.stdout
