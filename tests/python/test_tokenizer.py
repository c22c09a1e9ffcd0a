"""Tokenizers: exact ids on real vocabularies, round trips, streams."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte.errors import FormatError, UnsupportedError
from halfbyte.tokenizer import Tokenizer
from halfbyte.tokenizer.pretokenizers import find_pretokenizer, pretokenizer_names

from ..conftest import toy_vocabulary

TOKENS, KINDS = toy_vocabulary()
METADATA = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": KINDS,
    "tokenizer.ggml.bos_token_id": 256,
    "tokenizer.ggml.eos_token_id": 257,
}
VOCABULARIES = ["bert-bge", "gpt-2", "llama-bpe", "llama-spm", "phi-3"]


def sentencepiece_metadata() -> dict[str, object]:
    """A SentencePiece BPE vocabulary: bytes, letters and a few merges by score."""
    tokens = (
        ["<unk>", "<s>", "</s>"]
        + [f"<0x{b:02X}>" for b in range(256)]
        + list("▁abehlow")
        + ["he", "ll", "hell", "▁hell", "lo"]
    )
    kinds = [2, 3, 3] + [6] * 256 + [1] * 13
    scores = [0.0] * 259 + [-100.0] * 8 + [-1.0, -2.0, -3.0, -4.0, -5.0]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


@pytest.mark.parametrize("name", VOCABULARIES)
def test_ids_of_real_vocabularies(name: str, vectors_dir: Path) -> None:
    path = vectors_dir / f"ggml-vocab-{name}.gguf"
    tokenizer = Tokenizer.from_gguf(path)
    with open(f"{path}.inp", encoding="utf-8", newline="") as file:
        texts = file.read().split("\n__ggml_vocab_test__\n")
    lines = Path(f"{path}.out").read_text().split("\n")
    assert len(texts) > 40
    for text, line in zip(texts, lines, strict=False):
        assert tokenizer.encode(text, add_bos=False) == [int(i) for i in line.split()], text


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_byte_level_round_trip(text: str) -> None:
    tokenizer = _byte_level()
    clean = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    assert tokenizer.decode(tokenizer.encode(text, add_bos=False)) == clean


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_sentencepiece_round_trip(text: str) -> None:
    tokenizer = _sentencepiece()
    clean = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").replace("▁", " ")
    assert tokenizer.decode(tokenizer.encode(text, add_bos=False)) == clean


@given(st.text(min_size=1), st.integers(0, 1 << 30))
@settings(max_examples=100, deadline=None)
def test_streams_equal_decoding(text: str, seed: int) -> None:
    tokenizer = _byte_level()
    data = b"".join(tokenizer.token_bytes(i) for i in tokenizer.encode(text, add_bos=False))
    stream, out, draw = tokenizer.stream(), "", random.Random(seed)
    while data:
        cut = draw.randint(1, 3)
        out += stream.feed(data[:cut])
        assert "\ufffd" not in out or "\ufffd" in text or any(0xD800 <= ord(c) < 0xE000 for c in text)
        data = data[cut:]
    assert out + stream.flush() == text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


_CACHE: dict[str, Tokenizer] = {}


def _byte_level() -> Tokenizer:
    return _CACHE.setdefault("bpe", Tokenizer.from_metadata(METADATA))


def _sentencepiece() -> Tokenizer:
    return _CACHE.setdefault("spm", Tokenizer.from_metadata(sentencepiece_metadata()))


def test_sentencepiece_merges_by_score() -> None:
    tokenizer = _sentencepiece()
    assert [tokenizer.piece(i) for i in tokenizer.encode("hello", add_bos=False)] == ["▁hell", "o"]
    assert [tokenizer.piece(i) for i in tokenizer.encode("é", add_bos=False)] == ["▁", "<0xC3>", "<0xA9>"]
    assert tokenizer.encode("hello")[0] == tokenizer.bos_id


def test_special_tokens_only_when_asked() -> None:
    tokenizer = _byte_level()
    text = "<|im_start|>a"
    assert tokenizer.encode(text, parse_special=True) == [258, tokenizer.id_of("a")]
    assert 258 not in tokenizer.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.end_ids == [257, 259]
    assert tokenizer.decode([258, 65, 259], skip_special=True) == tokenizer.piece(65)


@pytest.mark.parametrize(("kind", "ends"), [(3, [257, 260]), (4, [257])])
def test_names_that_end_an_answer_where_they_are_control_tokens(kind: int, ends: list[int]) -> None:
    metadata = METADATA | {
        "tokenizer.ggml.tokens": [*TOKENS[:257], "<|eot_id|>", *TOKENS[258:259], "[PAD]", "</s>"],
        "tokenizer.ggml.token_type": [*KINDS, kind],
    }
    tokenizer = Tokenizer.from_metadata(metadata)
    assert tokenizer.end_ids == ends
    assert tokenizer.decode(tokenizer.encode("a</s>", add_bos=False)) == "a</s>"


def test_unknown_kinds_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="moon-speak"):
        Tokenizer.from_metadata(METADATA | {"tokenizer.ggml.pre": "moon-speak"})
    with pytest.raises(UnsupportedError, match="runes"):
        Tokenizer.from_metadata(METADATA | {"tokenizer.ggml.model": "runes"})
    with pytest.raises(FormatError, match="no vocabulary"):
        Tokenizer.from_metadata({})
    with pytest.raises(FormatError, match="fewer entries"):
        Tokenizer.from_metadata(METADATA | {"tokenizer.ggml.token_type": [1]})


@pytest.mark.parametrize("name", pretokenizer_names())
def test_every_pretokenizer_cuts_without_loss(name: str) -> None:
    pre = find_pretokenizer(name)
    assert pre is not None
    tokenizer = Tokenizer.from_metadata(METADATA | {"tokenizer.ggml.pre": name})
    text = "Hello, World's 12345 façade 北京 \n\n  tabs\t and   spaces… Ω≈ç ١٢٣ 👩‍👩‍👧 don't I'LL"
    if pre.byte_level:
        assert tokenizer.decode(tokenizer.encode(text, add_bos=False)) == text


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("afmoe", "n1234567 12", "n 1 234 567 Ġ 12"),
        ("minicpm5", "  1234", "ĠĠ 123 4"),
        ("llama-bpe", "  1234", "Ġ Ġ 123 4"),
        ("tiny_aya", "1234567", "1 234 567"),
        ("qwen2", "a12\n\nb", "a 1 2 ĊĊ b"),
    ],
)
def test_words_of_pretokenizers(name: str, text: str, words: str) -> None:
    tokenizer = Tokenizer.from_metadata(METADATA | {"tokenizer.ggml.pre": name})
    cut = tokenizer._pipeline.pre_tokenizer.pre_tokenize_str(text)
    assert [word for word, _ in cut] == words.split()


def test_gemma_4_is_raw_utf8_whatever_its_pre_says() -> None:
    tokens = ["<bos>", "<turn|>", *(f"<0x{b:02X}>" for b in range(256)), *"▁aÄ", "▁a"]
    metadata = {
        "tokenizer.ggml.model": "gemma4",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 1] + [6] * 256 + [1] * 4,
        "tokenizer.ggml.merges": ["▁ a"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,  # as early files say, wrongly
    }
    tokenizer = Tokenizer.from_metadata(metadata)
    pieces = [tokenizer.piece(i) for i in tokenizer.encode("a aÄ é")]
    assert pieces == ["<bos>", "a", "▁a", "Ä", "▁", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(tokenizer.encode("a aÄ é")) == "a aÄ é"
    assert tokenizer.end_ids == [1]  # by its name, although the file calls it normal
    assert tokenizer.encode("<turn|>", add_bos=False) != [1]
    assert tokenizer.encode("<turn|>", add_bos=False, parse_special=True) == [1]


@pytest.mark.parametrize("value", [True, "x", [1.5] * 400, [[1]] * 400, ["a"] * 400, [0] * 400])
@pytest.mark.parametrize("name", ["tokens", "token_type", "scores", "merges", "precompiled_charsmap", "bos_token_id"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "t5", "bert", "gemma4"])
def test_metadata_of_wrong_types(kind: str, name: str, value: object) -> None:
    base = METADATA if kind in ("gpt2", "gemma4") else sentencepiece_metadata()
    try:
        tokenizer = Tokenizer.from_metadata({**base, "tokenizer.ggml.model": kind, f"tokenizer.ggml.{name}": value})
        tokenizer.decode(tokenizer.encode("Hello <s>\n", parse_special=True))
    except (FormatError, UnsupportedError) as error:
        assert "tokenizer.ggml" in str(error) or "vocabulary" in str(error)  # noqa: PT017 - many of these are fine


def test_words_without_merges_are_refused() -> None:
    with pytest.raises(FormatError, match=r"tokenizer\.ggml\.merges"):
        Tokenizer.from_metadata(
            METADATA | {"tokenizer.ggml.tokens": [*TOKENS, "word"], "tokenizer.ggml.token_type": [*KINDS, 1]}
        )


def test_ids_that_a_file_leaves_out() -> None:
    metadata = sentencepiece_metadata()
    for name in ("bos", "eos", "unknown"):
        del metadata[f"tokenizer.ggml.{name}_token_id"]
    tokenizer = Tokenizer.from_metadata(metadata | {"tokenizer.ggml.eos_token_id": 1 << 31})
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    assert tokenizer.encode("hello") == _sentencepiece().encode("hello")


def test_tokenizer_json_of_a_folder(tmp_path: Path) -> None:
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    theirs = tokenizers.Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    theirs.train_from_iterator(["hello world, hello there"] * 5, trainer)
    theirs.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(
        '{"bos_token": {"content": "<s>"}, "eos_token": "<|end|>", "add_bos_token": true}'
    )
    ours = Tokenizer.from_hf(tmp_path)
    text = "hello world, 北京 <|end|>"
    assert ours.encode("hello world") == [ours.bos_id, *theirs.encode("hello world").ids]
    assert ours.encode(text, add_bos=False, parse_special=True)[-1] == ours.eos_id
    assert ours.eos_id not in ours.encode(text, add_bos=False)
    assert ours.decode(ours.encode(text, add_bos=False)) == text
    assert ours.end_ids == [ours.eos_id]


def test_tokenizer_model_of_a_folder(tmp_path: Path) -> None:
    import struct

    metadata = sentencepiece_metadata()
    model = b""
    rows = zip(
        metadata["tokenizer.ggml.tokens"],
        metadata["tokenizer.ggml.scores"],
        metadata["tokenizer.ggml.token_type"],
        strict=True,
    )
    for token, score, kind in rows:
        piece = token.encode()
        body = b"\x0a" + bytes([len(piece)]) + piece + b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([kind])
        model += b"\x0a" + bytes([len(body)]) + body
    model += b"\x12\x02\x18\x02"  # trainer_spec.model_type = BPE
    (tmp_path / "tokenizer.model").write_bytes(model)
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    ours, same = Tokenizer.from_hf(tmp_path), _sentencepiece()
    for text in ("hello", " hello  well", "é🦙", ""):
        assert ours.encode(text) == same.encode(text)
    (tmp_path / "tokenizer.model").write_bytes(model[:-200])
    with pytest.raises(FormatError):
        Tokenizer.from_hf(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"")
    with pytest.raises(FormatError, match="no pieces"):
        Tokenizer.from_hf(tmp_path)
