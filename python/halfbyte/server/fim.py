"""Fill in the middle: prompts from what stands before and after a gap."""

from __future__ import annotations

from collections.abc import Sequence

from halfbyte.errors import UnsupportedError
from halfbyte.tokenizer import Tokenizer

# GGUF's name -> how families spell it.
_SPELLINGS = {
    "fim_pre": ("<|fim_prefix|>", "<fim_prefix>", "<fim-prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "[PREFIX]"),
    "fim_suf": ("<|fim_suffix|>", "<fim_suffix>", "<fim-suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "[SUFFIX]"),
    "fim_mid": ("<|fim_middle|>", "<fim_middle>", "<fim-middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "[MIDDLE]"),
    "fim_rep": ("<|repo_name|>", "<repo_name>", "<reponame>"),
    "fim_sep": ("<|file_sep|>", "<file_sep>", "<filename>"),
}


def _id_of(tokenizer: Tokenizer, name: str) -> int | None:
    found = tokenizer.special_id(name)
    if found is None:
        found = next((i for piece in _SPELLINGS[name] if (i := tokenizer.id_of(piece)) is not None), None)
    return found


def infill_ids(
    tokenizer: Tokenizer,
    before: str,
    after: str,
    *,
    started: str = "",
    files: Sequence[tuple[str, str]] = (),
) -> list[int]:
    """Ids of a prompt whose answer stands between two texts.

    started: how the middle begins. files: (name, text) of other files that give context. Raises UnsupportedError when
    the model has no tokens for it.
    """
    prefix, suffix, middle = (_id_of(tokenizer, name) for name in ("fim_pre", "fim_suf", "fim_mid"))
    if prefix is None or suffix is None or middle is None:
        raise UnsupportedError("This model has no tokens for filling in the middle.", hint="Use one trained for code.")

    def text_ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_bos=False)

    ids = [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []
    repository, separator = _id_of(tokenizer, "fim_rep"), _id_of(tokenizer, "fim_sep")
    if files:
        if repository is not None and separator is not None:
            ids += [repository, *text_ids("project\n")]
        for name, text in files:
            ids += [separator, *text_ids(f"{name}\n")] if separator is not None else []
            ids += text_ids(text)
        if separator is not None:
            ids += [separator, *text_ids("filename\n")]
    return [*ids, prefix, *text_ids(before), suffix, *text_ids(after), middle, *text_ids(started)]
