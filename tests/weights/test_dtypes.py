"""float32, float16, bfloat16 and mixtures of them, in any file, stay what they are; all else is refused by name."""

import json
import pickle
import shutil
import struct
import zipfile

import numpy as np
import pytest
from safetensors.numpy import load_file

import export_generation_model
import predict_generation
from glm.errors import UserError
from glm.weights import builtin_model, model_directory
from glm.weights.__main__ import main as weights_command
from glm.weights.stored_weights import read_weights

MATRIX = "glm.transformer.layers.1.mlp.dense_4h_to_h.weight"
CODES = {"F64": "float64", "F32": "float32", "F16": "float16", "I8": "int8", "U8": "uint8", "I64": "int64"}
CODES |= {"U16": "uint16", "BOOL": "bool"}


@pytest.fixture(scope="module")
def original():
    return load_file(str(builtin_model.build() / "model.safetensors"))


def truncated(array):
    """The upper 16 bits of float32 numbers: bfloat16, rounded towards 0."""
    return (np.ascontiguousarray(array).view(np.uint32) >> 16).astype(np.uint16)


def stored(array, code):
    """(the bytes of an array in a dtype, the numbers that they mean in float64)."""
    if code == "BF16":
        bits = truncated(array)
        return bits.tobytes(), (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    array = array.astype(CODES[code])
    return array.tobytes(), array.astype(np.float64)


def safetensors_file(path, arrays, codes):
    header, content = {}, b""
    for name, array in arrays.items():
        data = stored(array, codes[name])[0]
        places = [len(content), len(content) + len(data)]
        header[name] = {"dtype": codes[name], "shape": list(array.shape), "data_offsets": places}
        content += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + content)


def pdparams_file(path, arrays, codes):
    """As paddle.save writes it, which has no bfloat16 but its bits."""
    content = {
        name: truncated(array) if codes[name] == "BF16" else array.astype(CODES[codes[name]])
        for name, array in arrays.items()
    }
    (path / "model_state.pdparams").write_bytes(pickle.dumps(content, protocol=4))


STORAGES = {"F64": "Double", "F32": "Float", "F16": "Half", "BF16": "BFloat16", "I8": "Char", "U8": "Byte"}
STORAGES |= {"I64": "Long", "BOOL": "Bool"}


def text(value):
    """A string as a pickle has it."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def numbers(values):
    """A tuple of whole numbers as a pickle has it."""
    return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"


def pytorch_description(arrays, codes, behind_storage=b""):
    """The pickle of an OrderedDict of tensors; key of a storage: the number of its array."""
    pickled = b"\x80\x02ccollections\nOrderedDict\n)R("
    for number, (name, array) in enumerate(arrays.items()):
        strides = [int(np.prod(array.shape[i + 1 :])) for i in range(array.ndim)]
        storage = b"ctorch\n" + STORAGES[codes[name]].encode() + b"Storage\n"
        count = b"J" + struct.pack("<i", array.size)
        place = b"(" + text("storage") + storage + text(str(number)) + text("cpu") + count + behind_storage + b"tQ"
        pickled += text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + place + b"K\0" + numbers(array.shape)
        pickled += numbers(strides) + b"\x89ccollections\nOrderedDict\n)RtR"
    return pickled + b"u."


def pytorch_file(path, arrays, codes):
    """As torch.save writes it, with the layout of PyTorch's linear layers left as Paddle's: both are read."""
    with zipfile.ZipFile(path / "pytorch_model.bin", "w") as file:
        for number, (name, array) in enumerate(arrays.items()):
            file.writestr(f"archive/data/{number}", stored(array, codes[name])[0])
        file.writestr("archive/data.pkl", pytorch_description(arrays, codes))


MACHINE = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def old_pytorch_file(path, arrays, codes):
    """As torch.save wrote it before 1.6: five pickles, then the storages in the order of the last one."""
    numbers = {str(number): name for number, name in enumerate(arrays)}
    order = sorted(numbers)
    with open(path / "pytorch_model.bin", "wb") as file:
        for content in (0x1950A86A20F9469CFC6C, 1001, MACHINE):
            pickle.dump(content, file, protocol=2)
        file.write(pytorch_description(arrays, codes, behind_storage=b"N"))
        pickle.dump(order, file, protocol=2)
        for key in order:
            array = arrays[numbers[key]]
            file.write(struct.pack("<q", array.size) + stored(array, codes[numbers[key]])[0])


FILES = {
    "safetensors": safetensors_file,
    "pdparams": pdparams_file,
    "pytorch": pytorch_file,
    "old pytorch": old_pytorch_file,
}


@pytest.fixture
def directory(original, tmp_path):
    """A function that makes a model directory: kind of file, name and array → code; gives it and its numbers."""

    def made(kind, choose):
        codes = {name: choose(name, array) for name, array in original.items()}
        target = shutil.copytree(builtin_model.build(), tmp_path / "source")
        (target / "model.safetensors").unlink()
        FILES[kind](target, original, codes)
        return target, {name: stored(array, codes[name])[1] for name, array in original.items()}

    return made


MIXTURES = {
    "bfloat16": lambda name, array: "BF16",
    "float16": lambda name, array: "F16",
    "matrices in bfloat16": lambda name, array: "BF16" if array.ndim == 2 else "F32",
    "matrices in float16": lambda name, array: "F16" if array.ndim == 2 else "F32",
    "matrices in float32": lambda name, array: "F32" if array.ndim == 2 else "BF16",
    "embeddings in float32, the rest in both halves": lambda name, array: (
        "F32" if "embeddings" in name else "BF16" if "mlp" in name else "F16"
    ),
}
NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def assert_holds(directory, numbers, dtypes):
    weights = read_weights(directory)
    assert weights.dtypes == dtypes
    for name, expected in numbers.items():
        array = weights.take(name)
        assert array.dtype.name == dtypes[name]
        np.testing.assert_array_equal(array.astype(np.float64), expected, err_msg=name)


def run(*arguments):
    weights_command([str(argument) for argument in arguments])


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("mixture", MIXTURES)
def test_weights_keep_dtype_and_value_through_shards_of_both_kinds(directory, original, tmp_path, kind, mixture):
    source, numbers = directory(kind, MIXTURES[mixture])
    dtypes = {name: NAMES[MIXTURES[mixture](name, array)] for name, array in original.items()}
    assert_holds(source, numbers, dtypes)
    run("split", source, tmp_path / "two", "--tensor_parallel_degree", 2)
    run("reshard", tmp_path / "two", tmp_path / "four", "--tensor_parallel_degree", 4, "--format", "pdparams")
    run("merge", tmp_path / "four", tmp_path / "whole")
    for target in ("two", "four", "whole"):
        assert_holds(tmp_path / target, numbers, dtypes)
    sizes = {name: sum(original[weight].size for weight in dtypes if dtypes[weight] == name) for name in NAMES.values()}
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["dtype"] == max(sizes, key=sizes.get)
    for target in ("source", "two", "four", "whole"):
        for name, parameter in model_directory.load_model(tmp_path / target).named_parameters():
            np.testing.assert_array_equal(parameter.numpy().astype(np.float64), numbers[name], err_msg=name)


def test_a_model_of_bfloat16_is_loaded_and_saved_as_it_is(directory, tmp_path):
    source, numbers = directory("safetensors", MIXTURES["bfloat16"])
    model = model_directory.load_model(source, "bfloat16")
    model_directory.save_model(model, model_directory.load_tokenizer(source), tmp_path / "saved")
    assert_holds(tmp_path / "saved", numbers, dict.fromkeys(numbers, "bfloat16"))


def test_float32_is_rounded_to_bfloat16_to_the_nearest(original, tmp_path):
    model = model_directory.load_model("glm-tiny-chinese")
    model_directory.save_model(model, model_directory.load_tokenizer("glm-tiny-chinese"), tmp_path, "bfloat16")
    weights = read_weights(tmp_path)
    for name, array in original.items():
        bits = array.view(np.uint32).astype(np.uint64)
        # To the nearest, and where two are equally near, to the even one.
        nearest = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        np.testing.assert_array_equal(weights.take(name).view(np.uint16), nearest, err_msg=name)


def test_a_merged_adapter_leaves_dtypes_as_they_are(directory, tmp_path, monkeypatch):
    from glm.weights import adapters

    source, numbers = directory("safetensors", MIXTURES["matrices in bfloat16"])
    monkeypatch.setattr(adapters, "load_merged", lambda base, lora_path: model_directory.load_model(source))
    merged = tmp_path / "merged"
    predict_generation.main(["--model_name_or_path", str(source), "--lora_path", "x", "--merge_lora_path", str(merged)])
    assert_holds(merged, numbers, read_weights(source).dtypes)


def test_a_program_of_bfloat16_says_what_the_model_says(directory, tmp_path):
    source, _ = directory("safetensors", MIXTURES["bfloat16"])
    flags = ["--model_name_or_path", str(source)]
    data = tmp_path / "data.json"
    contexts = [f"青湖在山脚下，第{number}次去看它时水边有人。" for number in range(8)]
    lines = (json.dumps({"context": text, "answer": "山脚下"}, ensure_ascii=False) for text in contexts)
    data.write_text("\n".join(lines), encoding="utf8")
    prompts = ["--data_file", str(data), "--tgt_length", "12"]
    predict_generation.main([*flags, *prompts, "--output_file", str(tmp_path / "eager.jsonl")])
    export_generation_model.main([*flags, "--output_path", str(tmp_path / "program" / "glm"), "--tgt_length", "12"])
    import infer_generation

    infer_generation.main(
        ["--model_path", str(tmp_path / "program"), "--model_prefix", "glm", "--runtime", "paddle", *prompts]
        + ["--output_file", str(tmp_path / "program.jsonl")]
    )
    size = sum(array.size for array in load_file(str(builtin_model.build() / "model.safetensors")).values())
    assert (tmp_path / "program" / "glm.pdiparams").stat().st_size < 2.1 * size
    assert (tmp_path / "program.jsonl").read_bytes() == (tmp_path / "eager.jsonl").read_bytes()


OTHERS = [("safetensors", code) for code in CODES if code not in NAMES]
OTHERS += [("pdparams", code) for code in ("F64", "I8", "U8", "I64", "BOOL")]
OTHERS += [("pytorch", code) for code in STORAGES if code not in NAMES]


@pytest.mark.parametrize("of_all", [True, False])
@pytest.mark.parametrize(("kind", "code"), OTHERS)
def test_other_dtypes_are_refused_by_name_in_one_line(directory, tmp_path, capfd, kind, code, of_all):
    source, _ = directory(kind, lambda name, array: code if of_all or name == MATRIX else "F32")
    with pytest.raises(UserError) as told:
        model_directory.load_model(source)
    with pytest.raises(SystemExit) as stopped:
        run("split", source, tmp_path / "two", "--tensor_parallel_degree", 2)
    assert stopped.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    for message in (str(told.value), line):
        assert str(source) in message
        assert "glm." in message
        assert of_all or MATRIX in message
        assert CODES[code] in message or code in message
    assert not (tmp_path / "two").exists()
