"""Adapters of PaddleNLP and PEFT: read as what they are, refused by name for what is no LoRA, written for PEFT."""

import json
import pickle
import shutil

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import predict_generation
from glm.model.lora import TARGETS, lora_parameters
from glm.weights import adapters, builtin_model, model_directory
from glm.weights.__main__ import main as weights_command
from glm.weights.stored_adapters import read_adapter
from glm.weights.weight_sources import ModelError
from tests.helpers import models
from tests.model.test_modeling import LENGTHS, dense_mask
from tests.weights.test_dtypes import old_pytorch_file, pytorch_file
from tests.weights.test_weight_sources import in_parts

SHAPES = {"query_key_value": (96, 288), "dense": (96, 96), "dense_h_to_4h": (96, 384), "dense_4h_to_h": (384, 96)}


@pytest.fixture(scope="module")
def base():
    return builtin_model.build()


def factors(targets, r, seed=0):
    """Random factors under this project's names, [in, r] and [r, out]."""
    rng, found = np.random.default_rng(seed), {}
    for layer in range(2):
        for name in targets:
            inputs, outputs = SHAPES[name]
            place = f"glm.transformer.layers.{layer}.{TARGETS[name]}.{name}.lora_"
            found[place + "A"] = rng.standard_normal([inputs, r]).astype("float32")
            found[place + "B"] = rng.standard_normal([r, outputs]).astype("float32") / 10
    return found


def merged_by_definition(base, stored, scaling):
    """W + scaling · A · B of every layer that has factors, in float64, as [in, out]."""
    weights = {name: array.astype("float64") for name, array in load_file(str(base / "model.safetensors")).items()}
    for name in stored:
        if name.endswith(".lora_A"):
            layer = name.removesuffix(".lora_A")
            update = stored[name].astype("float64") @ stored[f"{layer}.lora_B"].astype("float64")
            weights[f"{layer}.weight"] += scaling * update
    return weights


def assert_merges_to(base, directory, expected):
    for name, parameter in adapters.load_merged(base, directory).named_parameters():
        np.testing.assert_allclose(parameter.numpy(), expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


def refusal(base, directory):
    with pytest.raises(ModelError) as error:
        adapters.load_model(base, directory)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


class TestPaddleNLP:
    """Adapters that paddlenlp itself has written."""

    @pytest.mark.parametrize(
        ("options", "targets"),
        [
            ({"r": 4, "lora_alpha": 8, "target_modules": [".*query_key_value.*"]}, ["query_key_value"]),
            ({"r": 8, "lora_alpha": 4, "rslora": True, "target_modules": ".*dense.*"}, [*TARGETS][1:]),
            ({"r": 2, "lora_alpha": 3, "lora_dropout": 0.1, "target_modules": [".*layers.*(dense|value).*"]}, TARGETS),
        ],
    )
    def test_logits_are_those_of_paddlenlp(self, base, tmp_path, capsys, options, targets):
        from paddlenlp.peft import LoRAConfig, LoRAModel
        from paddlenlp.transformers import GLMForConditionalGeneration

        stock = LoRAModel(GLMForConditionalGeneration.from_pretrained(str(base)), LoRAConfig(**options))
        rng = np.random.default_rng(1)
        for name, parameter in stock.named_parameters():
            if "lora_" in name:
                parameter.set_value(rng.standard_normal(parameter.shape).astype("float32") / 10)
        stock.save_pretrained(str(tmp_path))
        stock.eval()
        batch = models.padded_batch(models.random_rows(LENGTHS))
        inputs = batch["input_ids"], batch["position_ids"], dense_mask(batch)
        model = adapters.load_model(base, tmp_path)
        assert "warning: " in (said := capsys.readouterr().err)
        assert f"{tmp_path}: an adapter of PaddleNLP" in said
        np.testing.assert_allclose(model(*inputs).numpy(), stock(*inputs)[0].numpy(), rtol=0, atol=1e-5)
        assert set(adapters.read_config(tmp_path)[0].target_modules) == set(targets)
        plain = model_directory.load_model(base)(*inputs).numpy()
        assert np.abs(plain - model(*inputs).numpy()).max() > 0.1

    @pytest.fixture
    def adapter(self, tmp_path):
        """A function that writes a directory as paddlenlp lays it out, with changes of its description."""

        def made(changes=None, stored=None):
            directory = tmp_path / "paddle"
            directory.mkdir(exist_ok=True)
            config = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "rslora": False, "pissa": False, "do_qat": False}
            config |= {"target_modules": [".*query_key_value.*"], "trainable_bias": None, "trainable_modules": None}
            config |= {"enable_lora_list": None, "tensor_parallel_degree": -1, "scaling": 2.0, "dtype": "float32"}
            (directory / "lora_config.json").write_text(json.dumps({**config, **(changes or {})}))
            stored = stored or factors(["query_key_value"], 4)
            (directory / "lora_model_state.pdparams").write_bytes(pickle.dumps(stored, protocol=4))
            return directory

        return made

    @pytest.mark.parametrize(
        "change",
        [
            {"pissa": True},
            {"do_qat": True},
            {"trainable_bias": "lora"},
            {"trainable_modules": [".*layernorm.*"]},
            {"enable_lora_list": [[True, False, True]]},
            {"use_mora": True},
        ],
    )
    def test_what_is_more_than_lora_is_refused_by_its_name(self, base, adapter, change):
        assert f"lora_config.json: {next(iter(change))} is " in (told := refusal(base, adapter(change)))
        assert "plain LoRA alone is read" in told

    @pytest.mark.parametrize(
        "change",
        [
            {"enable_lora_list": [None]},
            {"use_mora": False},
            {"mixer_num": 1, "lorapro_x_mode": "zero"},
            {"rslora": False},
        ],
    )
    def test_what_is_off_does_not_matter(self, base, adapter, change):
        stored = factors(["query_key_value"], 4)
        assert_merges_to(base, adapter(change), merged_by_definition(base, stored, 2.0))

    def test_a_pattern_of_the_description_is_never_run(self, base, adapter):
        """This one takes for ever."""
        assert adapters.read_config(adapter({"target_modules": ["(.*)*" * 30 + "x"]}))[0].r == 4

    def test_factors_that_are_missing_or_none_are_named(self, base, adapter):
        stored = factors(["query_key_value"], 4)
        bias = {"glm.transformer.layers.0.attention.query_key_value.bias": np.zeros(288, "float32")}
        assert "query_key_value.bias" in refusal(base, adapter(stored={**stored, **bias}))
        some = {name: array for name, array in stored.items() if ".layers.1." not in name}
        assert "lacks glm.transformer.layers.1.attention.query_key_value.lora_A" in refusal(base, adapter(stored=some))
        assert "says r is 8" in refusal(base, adapter({"r": 8}))

    def test_shards_and_nothing_are_told(self, base, adapter):
        directory = adapter()
        weights = directory / "lora_model_state.pdparams"
        weights.rename(directory / "lora_model_state.tp00.pdparams")
        assert "lora_model_state.tp00.pdparams is a shard" in refusal(base, directory)
        (directory / "lora_model_state.tp00.pdparams").unlink()
        assert "incomplete" in refusal(base, directory)

    def test_parts_by_an_index_are_put_together(self, base, adapter):
        """As paddlenlp's Trainer writes them with --unified_checkpoint."""
        stored = factors(["query_key_value"], 4)
        directory = adapter()
        (directory / "lora_model_state.pdparams").unlink()
        in_parts(directory, "model.safetensors", stored)
        for path in directory.glob("model*"):
            path.rename(directory / f"peft_{path.name}")
        index = directory / "peft_model.safetensors.index.json"
        index.write_text(index.read_text().replace('"model-', '"peft_model-'))
        assert_merges_to(base, directory, merged_by_definition(base, stored, 2.0))


def write_peft(directory, stored, file="adapter_model.safetensors", within="glm.", **changes):
    """An adapter as PEFT's documentation lays it out."""
    directory.mkdir(exist_ok=True)
    config = {"peft_type": "LORA", "task_type": "SEQ_2_SEQ_LM", "base_model_name_or_path": "THUDM/glm-large-chinese"}
    config |= {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "bias": "none", "fan_in_fan_out": False}
    config |= {"target_modules": ["query_key_value"], "modules_to_save": None, "inference_mode": True}
    config |= {"init_lora_weights": True, "use_rslora": False, "use_dora": False, "rank_pattern": {}}
    config |= {"alpha_pattern": {}, "layers_to_transform": None, "megatron_core": "megatron.core", "loftq_config": {}}
    (directory / "adapter_config.json").write_text(json.dumps({**config, **changes}))
    arrays = {
        f"base_model.model.{within}{name.removeprefix('glm.')}.weight": np.ascontiguousarray(array.T)
        for name, array in stored.items()
    }
    if file == "adapter_model.safetensors":
        save_file(arrays, str(directory / file), metadata={"format": "pt"})
    else:
        write = old_pytorch_file if file == "old" else pytorch_file
        write(directory, arrays, dict.fromkeys(arrays, "F32"))
        (directory / "pytorch_model.bin").rename(directory / "adapter_model.bin")
    return directory


class TestPEFT:
    """Adapters as PEFT writes them, made from the documented layout: [r, in] and [out, r]."""

    @pytest.mark.parametrize("file", ["adapter_model.safetensors", "zip", "old"])
    @pytest.mark.parametrize("within", ["glm.", ""])
    def test_merged_it_is_the_base_plus_b_times_a(self, base, tmp_path, capsys, file, within):
        stored = factors(["query_key_value", "dense"], 4)
        directory = write_peft(tmp_path / "peft", stored, file, within, target_modules=["dense", "query_key_value"])
        assert_merges_to(base, directory, merged_by_definition(base, stored, 8 / 4))
        assert f"{directory}: an adapter of PEFT" in capsys.readouterr().err
        config, named = adapters.read_config(directory)
        assert (config.r, config.alpha, config.dropout, config.rslora) == (4, 8, 0.1, False)
        assert named == "THUDM/glm-large-chinese"

    def test_square_matrices_are_turned_too(self, base, tmp_path):
        """Their shapes cannot tell: r may be as large as a layer."""
        stored = factors(["dense"], 96)
        directory = write_peft(tmp_path / "peft", stored, r=96, lora_alpha=48, target_modules=["dense"])
        assert_merges_to(base, directory, merged_by_definition(base, stored, 0.5))

    @pytest.mark.parametrize(
        ("change", "scaling"),
        [({"use_rslora": True}, 4.0), ({"lora_alpha": 2.5}, 0.625), ({"init_lora_weights": "gaussian"}, 2.0)],
    )
    def test_scaling_is_alpha_over_r_or_its_root(self, base, tmp_path, change, scaling):
        stored = factors(["query_key_value"], 4)
        assert_merges_to(
            base, write_peft(tmp_path / "peft", stored, **change), merged_by_definition(base, stored, scaling)
        )

    @pytest.mark.parametrize(
        "change",
        [
            {"bias": "lora_only"},
            {"bias": "all"},
            {"modules_to_save": ["word_embeddings"]},
            {"use_dora": True},
            {"fan_in_fan_out": True},
            {"rank_pattern": {"dense": 8}},
            {"alpha_pattern": {"dense": 8}},
            {"layers_to_transform": [0]},
            {"layer_replication": [[0, 1]]},
            {"peft_type": "ADALORA"},
            {"init_lora_weights": "pissa_niter_4"},
            {"init_lora_weights": "olora"},
            {"lora_bias": True},
            {"trainable_token_indices": [3]},
            {"something_new": {"on": True}},
        ],
    )
    def test_what_is_more_than_lora_is_refused_by_its_name(self, base, tmp_path, change):
        directory = write_peft(tmp_path / "peft", factors(["query_key_value"], 4), **change)
        assert f"adapter_config.json: {next(iter(change))} is " in (told := refusal(base, directory))
        assert "plain LoRA alone is read" in told

    def test_factors_that_are_missing_or_none_are_named(self, base, tmp_path):
        stored = factors(["query_key_value"], 4)
        directory = write_peft(tmp_path / "peft", stored, target_modules=["query_key_value", "dense"])
        assert "lacks the factors of dense" in refusal(base, directory)
        vector = {"glm.transformer.layers.0.attention.query_key_value.lora_magnitude_vector": np.ones([288, 1], "f4")}
        directory = write_peft(tmp_path / "peft", {**stored, **vector})
        assert "lora_magnitude_vector" in refusal(base, directory)
        (directory / "adapter_model.safetensors").unlink()
        assert "no adapter_model.safetensors or adapter_model.bin" in refusal(base, directory)

    def test_two_adapters_in_one_directory_are_told(self, base, tmp_path):
        directory = write_peft(tmp_path / "peft", factors(["query_key_value"], 4))
        (directory / "lora_model_state.pdparams").write_bytes(b"")
        assert "several LoRA adapters" in refusal(base, directory)


class TestInAnothersPlace:
    """A model, an adapter and a program, each where another one belongs."""

    @pytest.fixture
    def places(self, base, tmp_path):
        stored = factors(["query_key_value"], 4)
        config = {"r": 4, "lora_alpha": 8, "base_model_name_or_path": "the-base"}
        for name in ("paddle", "program"):
            (tmp_path / name).mkdir()
        (tmp_path / "paddle" / "lora_config.json").write_text(json.dumps(config))
        # paddlenlp puts the model's description beside an adapter.
        shutil.copy(base / "config.json", tmp_path / "paddle")
        (tmp_path / "paddle" / "lora_model_state.pdparams").write_bytes(pickle.dumps(stored))
        for name in ("glm.pdmodel", "glm.pdiparams", "glm_generation_config.json", "cog-pretrain.model"):
            (tmp_path / "program" / name).write_text("{}")
        write_peft(tmp_path / "peft", stored, base_model_name_or_path="the-base")
        return tmp_path

    @pytest.mark.parametrize("kind", ["paddle", "peft"])
    def test_an_adapter_is_no_model(self, places, kind, capsys):
        for run in (
            lambda: predict_generation.main(["--model_name_or_path", str(places / kind)]),
            lambda: weights_command(
                ["split", str(places / kind), str(places / "new"), "--tensor_parallel_degree", "2"]
            ),
        ):
            with pytest.raises(SystemExit) as ended:
                run()
            assert ended.value.code == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert "holds a LoRA adapter; give it as --lora_path, and its base" in line
            assert "(the-base)" in line

    def test_a_program_is_no_model_and_no_adapter(self, base, places):
        with pytest.raises(ModelError, match="holds an exported program; infer_generation.py"):
            model_directory.resolve(places / "program")
        assert "holds an exported program and no LoRA adapter" in refusal(base, places / "program")

    def test_a_model_is_no_adapter(self, base, places):
        assert "holds a whole model and no LoRA adapter" in refusal(base, base)
        assert model_directory.resolve(base) == base


@pytest.mark.parametrize("kind", ["own", "paddle", "peft"])
@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_that_is_written_for_peft_comes_back_bit_by_bit(base, tmp_path, kind, rslora, capsys):
    stored = factors(["query_key_value", "dense_4h_to_h"], 4)
    source = tmp_path / "source"
    source.mkdir()
    config = {"r": 4, "lora_alpha": 6.0, "lora_dropout": 0.1, "rslora": rslora, "base_model_name_or_path": "the-base"}
    if kind == "peft":
        changes = {"lora_alpha": 6.0, "use_rslora": rslora, "base_model_name_or_path": "the-base"}
        write_peft(source, stored, target_modules=["query_key_value", "dense_4h_to_h"], **changes)
    elif kind == "paddle":
        (source / "lora_config.json").write_text(json.dumps(config))
        (source / "lora_model_state.pdparams").write_bytes(pickle.dumps(stored))
    else:
        config["target_modules"] = ["query_key_value", "dense_4h_to_h"]
        (source / "lora_config.json").write_text(json.dumps(config))
        save_file(stored, str(source / "lora_model_state.safetensors"))
        (source / "base_fingerprint.json").write_text("{}")
    target = tmp_path / "peft"
    predict_generation.main(["--lora_path", str(source), "--export_peft", str(target)])
    assert str(target) in capsys.readouterr().out

    described = json.loads((target / "adapter_config.json").read_text())
    assert described["peft_type"] == "LORA"
    assert described["target_modules"] == ["query_key_value", "dense_4h_to_h"]
    assert (described["r"], described["lora_alpha"], described["lora_dropout"]) == (4, 6, 0.1)
    assert described["use_rslora"] is rslora
    assert described["base_model_name_or_path"] == "the-base"
    assert described["bias"] == "none"
    with safe_open(str(target / "adapter_model.safetensors"), framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == {f"base_model.model.{name}.weight" for name in stored}
        for name, array in stored.items():
            np.testing.assert_array_equal(file.get_tensor(f"base_model.model.{name}.weight"), array.T)
    back, before = read_adapter(target), read_adapter(source)
    assert back.config == before.config
    for name, array in stored.items():
        assert back.weights.take(name).tobytes() == np.ascontiguousarray(before.weights.take(name)).tobytes()
        np.testing.assert_array_equal(back.weights.take(name), array)
    assert_merges_to(base, target, merged_by_definition(base, stored, before.config.scaling))


def test_a_foreign_adapter_divided_among_ranks_is_the_same(base, tmp_path):
    """Each rank has its part, whichever layout the file has."""
    from glm.parallel.ranks import Ranks

    stored = factors(TARGETS, 4)
    directory = write_peft(tmp_path / "peft", stored, target_modules=list(TARGETS))
    whole = {name: value.numpy() for name, value in lora_parameters(adapters.load_model(base, directory)).items()}
    assert {name: array.tolist() for name, array in whole.items()} == {n: a.tolist() for n, a in stored.items()}
    ranks = Ranks.imagined(2)
    part = lora_parameters(adapters.load_model(base, directory, ranks=ranks))
    name = "glm.transformer.layers.0.mlp.dense_4h_to_h.lora_A"
    np.testing.assert_array_equal(part[name].numpy(), stored[name][:192])
