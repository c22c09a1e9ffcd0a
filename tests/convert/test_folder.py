"""LLM(folder): Hugging Face folders of all shapes run, and damaged ones are refused with a reason."""

from __future__ import annotations

import contextlib
import json
import pickle
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte import LLM, _core
from halfbyte.convert.families import FAMILIES
from halfbyte.convert.hyperparameters import config_of, hyperparameters, rope_tensors
from halfbyte.convert.transforms import AddOne, Heads, PermuteHeads, SplitGroups, SplitThirds, Transpose
from halfbyte.convert.unpickle import read_torch_file
from halfbyte.errors import FormatError, HalfbyteError, InvalidArgumentError, ModelNotFoundError, UnsupportedError

from .folders import CONFIG, llama_weights, write_folder, write_tokenizer

IDS = [3, 200, 17, 99, 42, 5]


def logits(folder: Path, **options: Any) -> np.ndarray:
    with LLM(folder, n_ctx=64, **options) as llm:
        return llm.forward(IDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("hf") / "model")


def test_every_architecture_of_the_engine_is_in_the_table() -> None:
    assert {f.arch for f in FAMILIES} == set(_core.ARCHITECTURES)


def test_a_folder_answers(folder: Path) -> None:
    with LLM(folder, n_ctx=64) as llm:
        assert llm.tokenize("hé") == llm.tokenizer.encode("hé", add_bos=False)
        assert llm.chat([{"role": "user", "content": "hi"}], temperature=0, max_tokens=8).text
        assert llm.tokenizer.bos_id == 257
        assert llm.tokenizer.end_ids == [258, 260]
        assert llm.config["architecture"] == "llama"


def test_shards_and_torch_files_hold_the_same_model(folder: Path, tmp_path: Path) -> None:
    expected = logits(folder)
    weights = llama_weights()
    names = sorted(weights)
    sharded = write_folder(tmp_path / "sharded")
    (sharded / "model.safetensors").unlink()
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for part, held in parts.items():
        safetensors.numpy.save_file({n: weights[n] for n in held}, sharded / part)
    index = {"weight_map": {n: part for part, held in parts.items() for n in held}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    assert np.array_equal(logits(sharded), expected)
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match="00002-of-00002"):
        LLM(sharded)
    index["weight_map"]["lm_head.weight"] = "../../etc/passwd"
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FormatError, match="must lie beside it"):
        LLM(sharded)


def test_quantized_on_loading(folder: Path) -> None:
    expected = logits(folder)
    found = logits(folder, quant="q8_0")
    assert 0 < np.max(np.abs(found - expected)) < 0.1 * np.max(np.abs(expected))
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999
    with pytest.raises(InvalidArgumentError, match="no file type"):
        LLM(folder, quant="q9_9")


@pytest.mark.parametrize("mmap", [False, True])
def test_half_types_and_mmap(folder: Path, tmp_path: Path, mmap: bool) -> None:
    expected = logits(folder)
    half = write_folder(tmp_path / "half", {n: w.astype(np.float16) for n, w in llama_weights().items()})
    assert np.max(np.abs(logits(half, mmap=mmap) - expected)) < 0.01 * np.max(np.abs(expected))


def test_generation_config_names_more_ends(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [258, 65], "suppress_tokens": [9, 7], "temperature": 0.25})
    )
    (folder / "chat_template.jinja").write_text("J {{ messages[0].content }}")
    with LLM(folder, n_ctx=64) as llm:
        assert llm.tokenizer.end_ids == [65, 258, 260]
        assert llm.tokenizer.suppressed_ids == [7, 9]
        assert llm.defaults.temperature == 0.25
        assert llm.chat_template.render([{"role": "user", "content": "x"}]) == "J x"


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"model_type": "nonesuch"}, UnsupportedError, 'model_type "nonesuch"'),
        ({"hidden_act": "gelu"}, UnsupportedError, 'activation "gelu"'),
        ({"num_attention_heads": "four"}, FormatError, "num_attention_heads is 'four'"),
        ({"num_key_value_heads": 3}, FormatError, "no multiple of 3"),
        ({"num_hidden_layers": 3}, FormatError, "blk.2."),
        ({"hidden_size": 32}, FormatError, "token_embd.weight is 264 x 64"),
        ({"rope_scaling": {"type": "magic"}}, UnsupportedError, 'rope of type "magic"'),
        ({"quantization_config": {"quant_method": "nonesuch"}}, UnsupportedError, "nonesuch"),
    ],
)
def test_configs_that_do_not_fit(tmp_path: Path, change: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        LLM(write_folder(tmp_path / "m", **change))


def test_unknown_tensors_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"model.layers.0.magic.weight has no place"):
        LLM(write_folder(tmp_path / "a", llama_weights() | {"model.layers.0.magic.weight": np.zeros(4, np.float32)}))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ModelNotFoundError, match=r"neither model\.safetensors"):
        LLM(tmp_path / "b")
    (tmp_path / "b" / "config.json").write_text("[" * 100_000)
    with pytest.raises(FormatError, match="no JSON"):
        LLM(tmp_path / "b")


@pytest.mark.parametrize("transform", [AddOne(), Transpose(), PermuteHeads("heads"), SplitThirds(), SplitGroups()])
def test_transforms_have_an_inverse(transform: Any) -> None:
    heads = Heads(4, 2) if isinstance(transform, SplitGroups) else Heads(4, 4)
    array = np.arange(96 * 5, dtype=np.float32).reshape(96, 5)
    changed = transform.apply(array, heads)
    assert not np.array_equal(changed, array)
    assert np.array_equal(transform.undo(changed, heads), array)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.model_types[0])
def test_config_goes_there_and_back(family: Any) -> None:
    config = {
        "num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96,
        "max_position_embeddings": 256, "vocab_size": 100,
    }  # fmt: skip
    if family.experts:
        config |= {family.config_name("expert_count"): 8, "num_experts_per_tok": 2}
    if "kv_lora_rank" in family.defaults:  # keys of all heads come from one vector
        config["num_key_value_heads"] = config["num_attention_heads"]
    there = hyperparameters(family, config)
    back = config_of(family, there, tied=False)
    assert hyperparameters(family, back) == there
    assert back["model_type"] == family.model_types[0]


def test_old_and_new_spellings_of_rope_scaling_agree() -> None:
    llama = FAMILIES[0]
    base = {k: v for k, v in CONFIG.items() if k != "rope_theta"}
    for scaling in (
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "attention_factor": 1.2},
        {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
    ):  # fmt: skip
        new = base | {"rope_parameters": {"rope_theta": 5e5, **scaling}}
        old = base | {"rope_theta": 5e5, "rope_scaling": {**scaling, "type": scaling["rope_type"]}}
        assert hyperparameters(llama, new) == hyperparameters(llama, old)
        for name, factors in rope_tensors(llama, new).items():
            assert np.array_equal(factors, rope_tensors(llama, old)[name])


# pytorch_model.bin --------------------------------------------------------------------------------------------------


class _Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.parts = function, arguments

    def __reduce__(self) -> Any:
        return self.parts


def write_zip(path: Path, pickled: bytes, storages: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)


def state_dict_pickle(shape: tuple[int, ...], strides: tuple[int, ...], n_items: int, offset: int = 0) -> bytes:
    """The pickle of {"w": tensor} as torch.save writes it, by hand."""

    def integer(n: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", n)

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(integer(v) for v in values) + b"t"

    storage = (
        b"(X\x07\0\0\0storage" + b"ctorch\nFloatStorage\n" + b"X\x01\0\0\x000X\x03\0\0\0cpu" + integer(n_items) + b"tQ"
    )
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + integer(offset) + numbers(shape) + numbers(strides)
    tensor += b"\x89ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02}X\x01\0\0\0w" + tensor + b"s."


def torch_folder(path: Path, pickled: bytes, storages: dict[str, bytes]) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    write_tokenizer(path)
    write_zip(path / "pytorch_model.bin", pickled, storages)
    return path


def test_torch_tensors_are_read_with_their_strides(tmp_path: Path) -> None:
    numbers = np.arange(12, dtype=np.float32)
    write_zip(tmp_path / "x.bin", state_dict_pickle((3, 2), (1, 4), 12, offset=1), {"0": numbers.tobytes()})
    found = read_torch_file(tmp_path / "x.bin")["w"].array()
    assert found.tolist() == [[1, 5], [2, 6], [3, 7]]


@pytest.mark.parametrize(
    ("pickled", "says"),
    [
        (pickle.dumps(_Call(print, "owned")), r"the name builtins\.print"),
        (pickle.dumps(_Call(eval, "1")), r"the name builtins\.eval"),
        (b"cos\nsystem\n(S'true'\ntR.", r"the name os\.system"),
        (b"\x80\x02(S'x'\nios\nsystem\n.", "instruction INST"),
        (pickle.dumps(np.zeros(3)), "the name numpy"),
        (b"\x80\x02]q\x00(h\x00h\x00e.", "no tensors by name"),
        (b"\x80\x02r\xff\xff\xff\xff.", "index out of range|holds"),
        (b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.", "holds"),
        (b".", "holds"),
        (b"", "holds"),
        (state_dict_pickle((4, 4), (4, 1), 15), "past its storage"),
        (state_dict_pickle((1 << 60,), (1,), 16), "absurd shape"),
        (state_dict_pickle((4, 4), (4, 1), 1 << 40), "missing or cut short"),
        (state_dict_pickle((1 << 40,), (0,), 16), "past its storage"),
        (state_dict_pickle((1,) * 100_000, (1,) * 100_000, 16), "absurd shape"),
        # Tuples of the same tuple twice: short to write, too long to hash, to print or to compare.
        (b"\x80\x02})" + b"q\0h\0\x86" * 60 + b"Ns.", "keys are neither"),
        (b"\x80\x02})" + b"\x85" * 1_000_000 + b"Ns.", "keys are neither"),
        (b"\x80\x02ccollections\nOrderedDict\n]])" + b"q\0h\0\x86" * 60 + b"aNaa\x85R.", "keys are neither"),
        (b"\x80\x02()" + b"q\0h\0\x86" * 60 + b"NNNNtQ.", "no storage"),
        (b"\x80\x04)" + b"q\0h\0\x86" * 60 + b"h\0\x93.", "no text"),
    ],
)
def test_hostile_pickles_are_refused(tmp_path: Path, pickled: bytes, says: str) -> None:
    folder = torch_folder(tmp_path / "m", pickled, {"0": bytes(64)})
    with pytest.raises(FormatError, match=says):
        LLM(folder)


LEGACY = b"".join(
    [
        b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.",
        pickle.dumps(1001, 2),
        pickle.dumps({}, 2),
        state_dict_pickle((4, 4), (4, 1), 16),
        pickle.dumps(["0"], 2),
        struct.pack("<q", 16) + np.arange(16, dtype=np.float32).tobytes(),
    ]
)


@pytest.mark.parametrize("kind", ["pickle", "zip", "legacy"])
@settings(max_examples=200, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=9)), max_size=4), data=st.data()
)
def test_damaged_torch_files_are_read_or_refused(
    kind: str, edits: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    def damaged(content: bytes) -> bytes:
        for at, piece in edits:
            at %= len(content)
            content = content[:at] + piece + content[at + len(piece) :]
        return content[: data.draw(st.integers(max(0, len(content) - 99), len(content)))]

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.bin"
        pickled = state_dict_pickle((4, 4), (4, 1), 16)
        write_zip(path, damaged(pickled) if kind == "pickle" else pickled, {"0": bytes(64)})
        if kind != "pickle":
            path.write_bytes(damaged(path.read_bytes() if kind == "zip" else LEGACY))
        with contextlib.suppress(HalfbyteError):
            for tensor in read_torch_file(path).values():
                tensor.array()


def test_the_undamaged_legacy_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(LEGACY)
    assert read_torch_file(tmp_path / "x.bin")["w"].array().tolist() == np.arange(16).reshape(4, 4).tolist()


@pytest.mark.parity
@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves_is_read(folder: Path, tmp_path: Path, zipped: bool) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'halfbyte[parity]'")
    state = {n: torch.from_numpy(w) for n, w in llama_weights().items()}
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    target = write_folder(tmp_path / "torch")
    (target / "model.safetensors").unlink()
    torch.save(state, target / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert np.array_equal(logits(target), logits(folder))
