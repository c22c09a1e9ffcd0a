"""halfbyte convert: folder -> GGUF -> folder, with the vocabulary that readers of either expect."""

from __future__ import annotations

import dataclasses
import json
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

from halfbyte import LLM, _core
from halfbyte.cli.main import main
from halfbyte.convert.plan import Planned, plan_folder
from halfbyte.convert.quantizing import quantize_plan
from halfbyte.errors import UnsupportedError
from halfbyte.tokenizer import Tokenizer
from halfbyte.tokenizer.pretokenizers import find_pretokenizer
from halfbyte.tokenizer.to_gguf import find_pre, gguf_vocabulary
from halfbyte.tokenizer.to_hf import write_tokenizer

from .folders import CONFIG, llama_weights, write_folder

IDS = [3, 200, 17, 99, 42, 5]


def logits(path: Path) -> np.ndarray:
    with LLM(path, n_ctx=64) as llm:
        return llm.forward(IDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("hf") / "model")


@pytest.mark.parametrize(
    ("type_name", "bound"), [("f32", 0), ("f16", 0.005), ("bf16", 0.03), ("q8_0", 0.05), ("q4_1", 0.5)]
)
def test_there(folder: Path, tmp_path: Path, type_name: str, bound: float) -> None:
    out = tmp_path / "out.gguf"
    assert main(["convert", str(folder), str(out), "--type", type_name]) == 0
    expected, found = logits(folder), logits(out)
    assert np.max(np.abs(found - expected)) <= bound * np.max(np.abs(expected))
    file = _core.GgufFile(str(out))
    assert {t.name: t.format for t in file.tensors}["blk.1.ffn_down.weight"] == type_name.upper()
    assert {t.name: t.format for t in file.tensors}["blk.1.ffn_norm.weight"] == "F32"


@pytest.mark.parametrize("n_embd", [64, 256])  # 64: formats of 256 weights a block give way to others
@pytest.mark.parametrize("mix", ["f16", "q8_0", "q4_k_m", "q2_k", "iq2_m", "mxfp4"])
def test_a_type_is_what_quantizing_afterwards_gives(tmp_path: Path, mix: str, n_embd: int) -> None:
    changes = {"hidden_size": n_embd, "intermediate_size": 2 * n_embd}
    folder = write_folder(tmp_path / "m", llama_weights(CONFIG | changes), **changes)
    plain, after, at_once = tmp_path / "plain.gguf", tmp_path / "after.gguf", tmp_path / "once.gguf"
    assert main(["convert", str(folder), str(plain)]) == 0
    assert main(["quantize", str(plain), str(after), mix]) == 0
    assert main(["convert", str(folder), str(at_once), "--type", mix]) == 0
    assert at_once.read_bytes() == after.read_bytes()
    with LLM(folder, n_ctx=64, quant=mix) as llm:
        assert np.array_equal(llm.forward(IDS), logits(after))


def test_a_plan_makes_nothing_before_its_turn(folder: Path) -> None:
    """Plans hold no rows: what was made is gone with its last user, the next tensor starts anew."""
    made: list[weakref.ref[np.ndarray]] = []
    plan = plan_folder(folder)

    def watched(tensor: Planned) -> Planned:
        def make() -> np.ndarray:
            assert all(reference() is None for reference in made)
            rows = np.array(tensor.make())
            made.append(weakref.ref(rows))
            return rows

        return dataclasses.replace(tensor, make=make)

    quantized = quantize_plan(dataclasses.replace(plan, tensors=[watched(t) for t in plan.tensors]), "q4_k_m")
    assert made == []
    for tensor in quantized.tensors:
        assert tensor.as_row()[3]().nbytes == tensor.n_bytes
    assert len(made) == len(plan.tensors)


def test_metadata_says_what_readers_look_for(folder: Path, tmp_path: Path) -> None:
    assert main(["convert", str(folder), str(tmp_path / "m.gguf")]) == 0
    metadata = _core.GgufFile(str(tmp_path / "m.gguf")).metadata
    wanted = {
        "general.architecture": "llama", "general.name": "model", "general.file_type": 0, "llama.vocab_size": 264,
        "llama.rope.dimension_count": 16, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.bos_token_id": 257, "tokenizer.ggml.eos_token_id": 258, "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.merges": ["h e"], "tokenizer.chat_template": "{{ messages[0].content }}",
    }  # fmt: skip
    assert {k: metadata.get(k) for k in wanted} == wanted
    assert metadata["tokenizer.ggml.tokens"][256:] == [
        "he",
        "<s>",
        "</s>",
        "<|im_start|>",
        "<|im_end|>",
        "[PAD261]",
        "[PAD262]",
        "[PAD263]",
    ]
    assert metadata["tokenizer.ggml.token_type"][256:] == [1, 3, 3, 3, 3, 5, 5, 5]


@pytest.mark.parametrize("type_name", [None, "bf16"])
def test_and_back(folder: Path, tmp_path: Path, tiny_model: Callable[..., Path], type_name: str | None) -> None:
    there, back = tmp_path / "there.gguf", tmp_path / "back"
    assert main(["convert", str(folder), str(there), "--type", type_name or "f32"]) == 0
    assert main(["convert", str(there), str(back)]) == 0
    assert np.array_equal(logits(back), logits(there))
    with LLM(back, n_ctx=64) as a, LLM(folder, n_ctx=64) as b:
        text = "the heather <s> hé\n"
        assert a.tokenize(text, parse_special=True) == b.tokenize(text, parse_special=True)
        assert a.chat_template.source == b.chat_template.source
        assert a.tokenizer.end_ids == b.tokenizer.end_ids
    packed = tiny_model(format_name="Q4_0", n_embd=64)
    assert main(["convert", str(packed), str(tmp_path / "unpacked"), "--type", "f32"]) == 0
    source = _core.GgufFile(str(packed)).tensor_f32("blk.0.ffn_up.weight")
    found = _core.SafetensorsFile(str(tmp_path / "unpacked" / "model.safetensors"))
    stored = found.tensor_data("model.layers.0.mlp.up_proj.weight").view(np.float32)
    assert np.array_equal(stored.reshape(source.shape), source)


def test_the_command_tells_and_refuses(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "m.gguf"
    assert main(["convert", str(folder), str(out), "--type", "q8_0", "--dry-run", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["tensors"] == {"Q8_0": 16, "F32": 5}
    assert not out.exists()
    assert main(["convert", str(folder), str(out), "--type", "q8_0"]) == 0
    assert report["bytes"] == sum(t.n_bytes for t in _core.GgufFile(str(out)).tensors)
    assert main(["convert", str(folder), str(out)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["convert", str(folder), str(tmp_path / "x.gguf"), "--type", "q9"]) == 1
    assert main(["convert", str(folder), str(tmp_path / "no" / "x.gguf")]) == 1
    assert main(["convert", str(out), str(tmp_path / "x"), "--type", "q8_0"]) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.gguf"]


def test_rows_that_no_block_divides_are_kept_in_halves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {"hidden_size": 48, "intermediate_size": 80}
    folder = write_folder(tmp_path / "odd", llama_weights(CONFIG | changes), **changes)
    assert main(["convert", str(folder), str(tmp_path / "odd.gguf"), "--type", "q8_0"]) == 0
    assert "rows of 48 are no whole blocks of Q8_0: they become F16" in capsys.readouterr().err
    assert logits(tmp_path / "odd.gguf").shape == (len(IDS), 264)


# Vocabularies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "gpt-2",
        "llama-bpe",
        "qwen2",
        "smollm",
        "tekken",
        "gpt-4o",
        "deepseek-v3",
        "deepseek-llm",
        "dbrx",
        "falcon",
        "seed-coder",
    ],
)
def test_the_pre_tokenizer_is_recognized(name: str) -> None:
    pre = find_pretokenizer(name)
    assert pre is not None
    pipeline = tokenizers.Tokenizer(models.BPE())
    steps = [pre_tokenizers.Split(Regex(p), "isolated") for p in pre.patterns]
    pipeline.pre_tokenizer = pre_tokenizers.Sequence(
        [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    found = find_pretokenizer(find_pre(pipeline, pre.ignore_merges))
    assert found is not None
    assert (found.patterns, found.ignore_merges) == (pre.patterns, pre.ignore_merges)


def test_an_unknown_pre_tokenizer_is_refused() -> None:
    pipeline = tokenizers.Tokenizer(models.BPE())
    pipeline.pre_tokenizer = pre_tokenizers.Split(Regex("[aeiou]"), "isolated")
    with pytest.raises(UnsupportedError, match=r"tokenizer\.ggml\.pre"):
        find_pre(pipeline, False)


def sentencepiece_json(folder: Path, *before: normalizers.Normalizer) -> Path:
    """A SentencePiece BPE model as Hugging Face's converters write it: merges, byte fallback; before: e.g. a space put
    first."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "a"), ("a", "n"), ("▁", "an"), ("an", "d"), ("▁a", "n")]
    singles = ["▁", *"abcdefghijklmnopqrstuvwxyz", "é"]
    for piece in [*("".join(m) for m in merges), *singles]:
        if piece not in pieces:
            pieces.append(piece)
    tokenizer = tokenizers.Tokenizer(
        models.BPE({p: i for i, p in enumerate(pieces)}, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", len(before), 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    )
    return folder


@pytest.fixture(scope="module")
def three_tokenizers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Tokenizer, Tokenizer]:
    base = tmp_path_factory.mktemp("sp")
    folder = sentencepiece_json(base / "hf", normalizers.Prepend("▁"))
    metadata = gguf_vocabulary(folder, 400)
    (base / "back").mkdir()
    write_tokenizer(metadata, base / "back")
    return Tokenizer.from_hf(folder), Tokenizer.from_metadata(metadata), Tokenizer.from_hf(base / "back")


def test_a_vocabulary_that_keeps_its_merges_cuts_text_alike(tmp_path: Path) -> None:
    folder = sentencepiece_json(tmp_path / "hf")
    metadata = gguf_vocabulary(folder, 400, "gemma4")
    assert (metadata["tokenizer.ggml.model"], len(metadata["tokenizer.ggml.merges"])) == ("gemma4", 8)
    there, back = Tokenizer.from_hf(folder), Tokenizer.from_metadata(metadata)
    for text in ("the and the", " an  andthe", "thé 日\n\n and", "ban", "a"):
        assert back.encode(text) == there.encode(text)
        assert back.decode(back.encode(text)) == text


def test_sentencepiece_metadata(three_tokenizers: tuple[Tokenizer, ...]) -> None:
    _, gguf, _ = three_tokenizers
    assert gguf.add_bos
    assert gguf.n_vocab == 400
    assert gguf.encode("the and", add_bos=True)[0] == gguf.bos_id == 1


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(text=st.text(st.sampled_from("the and é日\n x"), max_size=24))
def test_folder_gguf_and_folder_again_cut_text_alike(three_tokenizers: tuple[Tokenizer, ...], text: str) -> None:
    first, *others = three_tokenizers
    expected = first.encode(text)
    for other in others:
        assert other.encode(text) == expected or not text
        assert other.decode(expected) == first.decode(expected)
