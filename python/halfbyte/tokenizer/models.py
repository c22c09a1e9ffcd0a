"""Builds the `tokenizers` pipeline of each vocabulary kind: BPE, SentencePiece-BPE, Unigram, WordPiece."""

from __future__ import annotations

import base64
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from halfbyte import _core
from halfbyte.errors import FormatError, UnsupportedError
from halfbyte.tokenizer.charsmap import check_charsmap
from halfbyte.tokenizer.pretokenizers import PreTokenizer, find_pretokenizer, pretokenizer_names
from halfbyte.tokenizer.vocabulary import BYTE, CONTROL, NORMAL, UNUSED, USER_DEFINED, Vocabulary

SPACE = "▁"


def pretokenizer_of(vocabulary: Vocabulary) -> PreTokenizer:
    """The BPE vocabulary's pre-tokenizer; an unknown name is refused."""
    found = find_pretokenizer("gemma4" if vocabulary.model == "gemma4" else vocabulary.pre)
    if found is None:
        raise UnsupportedError(
            f'Pre-tokenizer "{vocabulary.pre}" (tokenizer.ggml.pre) is not known.',
            hint=f"Known are {', '.join(pretokenizer_names())}.",
        )
    return found


def build_bpe(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """Byte-level BPE (GPT-2 and its heirs)."""
    pre = pretokenizer_of(vocabulary)
    merges = []
    for merge in vocabulary.merges:
        left, _, right = merge[1:].partition(" ") if merge else ("", "", "")
        left = merge[:1] + left  # a merge may begin with a space itself
        if left in vocabulary.ids and right in vocabulary.ids and left + right in vocabulary.ids:
            merges.append((left, right))
    if not merges and any(
        kind == NORMAL and len(token) > 1 for token, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=False)
    ):
        raise FormatError(
            "The vocabulary has words but no merges that make them (tokenizer.ggml.merges).",
            hint="Convert the model again, with the merges of its tokenizer.json.",
        )
    model = models.BPE(
        vocab=vocabulary.ids, merges=merges, ignore_merges=pre.ignore_merges, byte_fallback=not pre.byte_level
    )
    tokenizer = tokenizers.Tokenizer(model)
    if not pre.byte_level:
        tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    cuts: list[Any] = [pre_tokenizers.Split(Regex(p), "isolated") for p in pre.patterns]
    if pre.byte_level:
        cuts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    return tokenizer


def _merges_by_score(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """SentencePiece merges two neighbours when their union is a piece, best score first: so many BPE merges."""
    n = len(vocabulary.tokens)
    mergeable = [kind in (NORMAL, USER_DEFINED, UNUSED) for kind in vocabulary.kinds[:n]]
    return _core.merges_by_score(vocabulary.tokens, vocabulary.scores[:n], mergeable)


def build_sentencepiece_bpe(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """SentencePiece's BPE (Llama 1 and 2, Mistral, Gemma): scores instead of merges, bytes for unknown characters."""
    unknown = vocabulary.special("unknown")
    has_bytes = any(kind == BYTE for kind in vocabulary.kinds)
    model = models.BPE(
        vocab=vocabulary.ids,
        merges=_merges_by_score(vocabulary),
        byte_fallback=has_bytes,
        fuse_unk=True,
        unk_token=vocabulary.tokens[unknown if unknown is not None else 0],
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    return tokenizer


def build_unigram(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """SentencePiece's unigram model (T5): the most likely segmentation (Kudo 2018)."""
    unknown = vocabulary.special("unknown")
    pieces = [
        (token, score if kind in (NORMAL, USER_DEFINED, UNUSED) else -1e9)
        for token, score, kind in zip(vocabulary.tokens, vocabulary.scores, vocabulary.kinds, strict=False)
    ]
    has_bytes = any(kind == BYTE for kind in vocabulary.kinds)
    tokenizer = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=unknown or 0, byte_fallback=has_bytes))
    steps: list[Any] = []
    charsmap = vocabulary.metadata.get("tokenizer.ggml.precompiled_charsmap")
    if charsmap:
        try:
            table = base64.b64decode(charsmap) if isinstance(charsmap, str) else bytes(v % 256 for v in charsmap)
            steps.append(normalizers.Precompiled(check_charsmap(table)))
        except FormatError:
            raise
        except Exception as error:  # the library raises plain exceptions
            raise FormatError(f"tokenizer.ggml.precompiled_charsmap is damaged: {error}.") from None
    if vocabulary.flag("remove_extra_whitespaces", True):
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if vocabulary.flag("add_space_prefix", True):
        steps.append(normalizers.Prepend(SPACE))
    steps.append(normalizers.Replace(" ", SPACE))
    tokenizer.normalizer = normalizers.Sequence(steps)
    return tokenizer


def build_wordpiece(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """WordPiece (BERT). Files mark word starts with "▁" where BERT marks continuations with "##"."""
    ids: dict[str, int] = {}
    for i, token in enumerate(vocabulary.tokens):
        if token.startswith(SPACE):
            name = token[len(SPACE) :]
        elif vocabulary.kinds[i] == CONTROL or (token.startswith("[") and token.endswith("]") and len(token) > 2):
            name = token
        else:
            name = "##" + token
        ids.setdefault(name, i)
    unknown = vocabulary.special("unknown")
    unk_token = vocabulary.tokens[unknown] if unknown is not None else "[UNK]"
    ids.setdefault(unk_token, unknown or 0)
    tokenizer = tokenizers.Tokenizer(models.WordPiece(ids, unk_token=unk_token, max_input_chars_per_word=1 << 30))
    # Accents are decomposed and dropped, case is folded; every CJK character and punctuation mark is a word.
    lowercase = vocabulary.flag("normalizer.lowercase", True)
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=True,
        strip_accents=vocabulary.flag("normalizer.strip_accents", lowercase),
        lowercase=lowercase,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


BUILDERS = {
    "gpt2": build_bpe,
    "gemma4": build_bpe,
    "llama": build_sentencepiece_bpe,
    "t5": build_unigram,
    "bert": build_wordpiece,
}


def build(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """The pipeline of a vocabulary; UnsupportedError names a model kind that is not known."""
    builder = BUILDERS.get(vocabulary.model)
    if builder is None:
        raise UnsupportedError(
            f'Tokenizer model "{vocabulary.model}" is not supported.', hint=f"Supported are {', '.join(BUILDERS)}."
        )
    return builder(vocabulary)
