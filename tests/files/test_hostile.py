"""Whatever a stranger's file holds, every reader gives a result or a HalfbyteError, and takes no more memory than that.

HALFBYTE_EXAMPLES raises how many damaged files each reader is given.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import resource
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from halfbyte import LLM, _core
from halfbyte.chat.template import ChatTemplate
from halfbyte.cli.main import main
from halfbyte.convert.lora import read_adapter
from halfbyte.convert.to_folder import plan_hf
from halfbyte.convert.to_folder import write_folder as write_hf
from halfbyte.errors import FormatError, HalfbyteError, OutOfMemoryError, UnsupportedError
from halfbyte.hub.headers import NeedMoreError, header_end
from halfbyte.hub.modelfile import parse_modelfile
from halfbyte.quantize import Importance
from halfbyte.tokenizer import Tokenizer

from ..convert.folders import write_folder
from ..lora.test_lora import write_peft
from .damage import damaged_bytes, damaged_json

often = settings(
    max_examples=int(os.environ.get("HALFBYTE_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# Of address space, beyond what the process has: small files justify no more.
_ROOM = 1 << 30


@contextmanager
def refusals() -> Iterator[None]:
    """Lets errors of the family through, but for memory, which must not be what stopped a reader."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + _ROOM, before[1]))
    try:
        yield
    except OutOfMemoryError:
        raise
    except HalfbyteError:
        pass
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("hostile") / "model")


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, Any]:
    """What the folder's JSON files hold before they are damaged."""
    return {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}


@pytest.fixture
def written(folder: Path) -> Iterator[Callable[[str, str | bytes], Path]]:
    """written(name, content): a file of the model's folder with other content, until the test is over."""
    before: dict[Path, bytes | None] = {}

    def write(name: str, content: str | bytes) -> Path:
        path = folder / name
        before.setdefault(path, path.read_bytes() if path.exists() else None)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return path

    yield write
    for path, content in before.items():
        path.unlink() if content is None else path.write_bytes(content)


def use(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("Hello <s> é\n", parse_special=True) + tokenizer.encode("Hello </s>")
    tokenizer.decode(ids)
    assert len(tokenizer.output_bytes) == tokenizer.n_vocab


@often
@given(data=st.data())
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_tokenizer_json(
    name: str, folder: Path, whole: dict[str, Any], written: Callable[..., Path], data: st.DataObject
) -> None:
    document = {
        "generation_config.json": {"eos_token_id": [257, 259], "bos_token_id": 256, "temperature": 0.5, "top_k": 5},
        "tokenizer_config.json": {
            "bos_token": {"content": "<s>", "special": True},
            "eos_token": "</s>",
            "unk_token": None,
            "add_bos_token": True,
            "chat_template": [{"name": "default", "template": "{{ messages }}"}, {"name": "rag", "template": "x"}],
        },
    }.get(name) or whole[name]
    text = data.draw(damaged_json(document))
    if data.draw(st.integers(0, 3)) == 0:
        text = data.draw(damaged_bytes(text.encode())).decode("utf-8", "replace")
    written(name, text)
    with refusals():
        use(Tokenizer.from_hf(folder))


def sentencepiece() -> bytes:
    model = b""
    for piece, score, kind in [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("▁he", -1.0, 1), ("l", -2.0, 1)]:
        text = piece.encode()
        body = b"\x0a" + bytes([len(text)]) + text + b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([kind])
        model += b"\x0a" + bytes([len(body)]) + body
    return model + b"\x12\x02\x18\x01" + b"\x1a\x0c\x0a\x04nmt_\x12\x00\x18\x01\x20\x00"


@often
@given(content=damaged_bytes(sentencepiece()))
def test_tokenizer_model(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("spm")
    (place / "tokenizer.model").write_bytes(content)
    with refusals():
        use(Tokenizer.from_hf(place))


def test_a_table_that_claims_more_than_it_has(
    folder: Path, whole: dict[str, Any], written: Callable[..., Path]
) -> None:
    """The library would end the process."""
    table = struct.pack("<I", 0xFFFFFFF0) + b"abcd"
    normalizer = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(table).decode()}
    text = json.dumps(whole["tokenizer.json"] | {"normalizer": None})
    damaged = text[:-1] + f', "normalizer": {json.dumps(normalizer)}' + ', "normalizer": null}'
    written("tokenizer.json", damaged)
    with pytest.raises(FormatError, match="precompiled_charsmap"):
        Tokenizer.from_hf(folder)
    written("tokenizer.json", "{}").unlink()
    model = sentencepiece().replace(b"\x12\x00\x18\x01", b"\x12\x08" + table)
    written("tokenizer.model", model.replace(b"\x1a\x0c", b"\x1a\x12"))
    with pytest.raises(FormatError, match="precompiled_charsmap"):
        Tokenizer.from_hf(folder)


@often
@given(data=st.data())
def test_config_json(folder: Path, whole: dict[str, Any], written: Callable[..., Path], data: st.DataObject) -> None:
    more = {
        "rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 256},
        "head_dim": 16,
    }
    document = whole["config.json"] | data.draw(st.sampled_from([{}, more]))
    written("config.json", data.draw(damaged_json(document)))
    with refusals(), LLM(folder, n_threads=1, n_ctx=64) as llm:
        llm.generate("x", max_tokens=1)


@often
@given(data=st.data())
@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_adapters(name: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    place = write_peft(tmp_path_factory.mktemp("peft") / "adapter", 1)
    content = (place / name).read_bytes()
    if name.endswith("json"):
        (place / name).write_text(data.draw(damaged_json(json.loads(content))))
    else:
        head = data.draw(damaged_bytes(content[:2000]))
        (place / name).write_bytes(head + content[2000:])
    metadata = {"general.architecture": "llama", "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2}
    with refusals():
        read_adapter(place, metadata)


ADAPTER = {
    "general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 4.0,
}  # fmt: skip


def write_adapter(path: Path, parts: dict[str, np.ndarray], **about: Any) -> Path:
    """A GGUF adapter of parts under their whole names; `about` says more, or other."""
    rows = [(name, "F32", list(p.shape[::-1]), np.ascontiguousarray(p, np.float32)) for name, p in parts.items()]
    _core.write_gguf(str(path), ADAPTER | about, rows)
    return path


def pair(rows: int = 64, columns: int = 64, rank: int = 2, name: str = "blk.1.attn_q") -> dict[str, np.ndarray]:
    draw = np.random.default_rng(4)
    return {
        f"{name}.weight.lora_a": draw.normal(0, 0.1, (rank, columns)),
        f"{name}.weight.lora_b": draw.normal(0, 0.1, (rows, rank)),
    }


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    with LLM(folder, n_threads=1, n_ctx=64) as llm:
        yield llm


@often
@given(data=st.data())
def test_gguf_adapters(llm: LLM, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = write_adapter(tmp_path_factory.mktemp("adapter") / "a.gguf", pair() | pair(96, name="blk.0.ffn_up"))
    content = path.read_bytes()
    path.write_bytes(data.draw(damaged_bytes(content[:1200])) + content[1200:])
    with refusals():
        llm.adapters.load(path, "damaged")
        llm.generate("x", max_tokens=1, lora="damaged")


@pytest.mark.parametrize(
    ("parts", "about", "says"),
    [
        (pair(rows=128), {}, "128 x 64; the model's matrix is 64 x 64"),
        (pair(columns=32), {}, "64 x 32; the model's matrix is 64 x 64"),
        (pair(name="blk.9.attn_q"), {}, r"changes blk\.9\.attn_q, which"),
        (pair(name="blk.-1.attn_q"), {}, "which"),
        (pair(name="blk.0.attn_norm"), {}, "which no request can switch"),
        (pair(name="blk.18446744073709551616.attn_q"), {}, "which"),
        (pair() | {"blk.1.attn_q.weight.lora_b": np.zeros((64, 3))}, {}, "which is no product"),
        (pair() | {"blk.1.attn_q.weight.lora_a": np.zeros(64)}, {}, "which is no product"),
        (pair() | {"blk.1.attn_q.weight.lora_a": np.zeros((2, 2, 64))}, {}, "which is no product"),
        (pair() | {"blk.1.attn_q.weight.lora_a": np.full((2, 64), np.nan)}, {}, "blk.1.attn_q.* no numbers"),
        (pair() | {"blk.1.attn_q.weight.lora_b": np.full((64, 2), -np.inf)}, {}, "blk.1.attn_q.* no numbers"),
        (pair() | {"blk.1.attn_q.weight.lora_b": np.full((64, 2), 3e38)}, {"adapter.lora.alpha": 900.0}, "no numbers"),
        ({"blk.1.attn_q.weight.lora_a": np.zeros((2, 64))}, {}, "lacks its b matrix"),
        ({"blk.1.attn_q.weight": np.zeros((64, 64))}, {}, "no low-rank change"),
        ({}, {}, "holds no adapter"),
        (pair(), {"adapter.lora.alpha": float("nan")}, "alpha is nan"),
        (pair(), {"adapter.lora.alpha": float("inf")}, "alpha is inf"),
        (pair(), {"adapter.lora.alpha": "four"}, "alpha is 'four'"),
        (pair(), {"general.architecture": "qwen2"}, "adapter for qwen2 models"),
        (pair(), {"general.type": "model"}, "is a model"),
    ],
)
def test_gguf_adapters_that_do_not_fit(
    llm: LLM, folder: Path, tmp_path: Path, parts: dict[str, np.ndarray], about: dict[str, Any], says: str
) -> None:
    path = write_adapter(tmp_path / "a.gguf", parts, **about)
    with pytest.raises((FormatError, UnsupportedError), match=says):
        llm.adapters.load(path)
    assert "a" not in llm.adapters.names
    assert main(["merge", str(folder), str(tmp_path / "merged.gguf"), "--lora", str(path)]) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.gguf"]


def test_a_gguf_adapter_of_a_damaged_name_or_that_ends_too_soon(llm: LLM, tmp_path: Path) -> None:
    content = write_adapter(tmp_path / "a.gguf", pair()).read_bytes()
    (tmp_path / "odd.gguf").write_bytes(
        content.replace(b"blk.1.attn_q.weight.lora_a", b"\xe2lk.1.attn_q.weight.lora_a")
    )
    with pytest.raises(FormatError, match="printable ASCII"):
        llm.adapters.load(tmp_path / "odd.gguf")
    for size in (*range(0, 400, 13), len(content) - 1):
        (tmp_path / "cut.gguf").write_bytes(content[:size])
        with pytest.raises(FormatError):
            llm.adapters.load(tmp_path / "cut.gguf")


#: Values of a model's metadata that no model has.
ODD = st.sampled_from(
    [0, -1, 1, 3, 1 << 31, 1 << 40, 0.0, -2.5, float("inf"), float("nan"), "", "x", True, [], [1, 2], ["a"], [0.5] * 3]
)


@pytest.fixture(scope="module")
def file(folder: Path) -> Any:
    out = folder.parent / "model.gguf"
    assert main(["convert", str(folder), str(out)]) == 0
    return _core.GgufFile(str(out))


@often
@given(data=st.data())
def test_files_on_their_way_into_folders(
    file: Any, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    metadata = dict(file.metadata)
    rows = [[t.name, t.format, list(t.shape), file.tensor_data(t.name)] for t in file.tensors]
    for _ in range(data.draw(st.integers(1, 3))):
        key = data.draw(st.sampled_from([k for k in metadata if "tokens" not in k]))
        row = data.draw(st.sampled_from(rows))
        match data.draw(st.sampled_from(["replace", "replace", "remove", "lose", "rename", "turn", "flatten"])):
            case "replace":
                metadata[key] = data.draw(ODD)
            case "remove" if len(metadata) > 1:
                del metadata[key]
            case "lose" if len(rows) > 1:
                rows.remove(row)
            case "rename":
                row[0] = row[0].replace("attn_q", data.draw(st.sampled_from(["attn_qkv", "x", "attn_q.attn_q"])))
            case "turn":
                row[2] = row[2][::-1]
            case "flatten":
                row[2] = [int(np.prod(row[2]))]
    place = tmp_path_factory.mktemp("odd")
    with refusals():
        _core.write_gguf(str(place / "odd.gguf"), metadata, [tuple(row) for row in rows])
        write_hf(plan_hf(place / "odd.gguf"), place / "out")
        assert (place / "out" / "config.json").is_file()
        with LLM(place / "out", n_threads=1, n_ctx=64) as llm:
            llm.generate("x", max_tokens=1)


@often
@given(data=st.data())
@pytest.mark.parametrize("form", ["gguf", "binary"])
def test_importance_matrices(form: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("imatrix") / "im"
    if form == "gguf":
        one = np.ones((1, 32), np.float32)
        Importance({"blk.0.attn_q.weight": one}, {"blk.0.attn_q.weight": one[:, 0]}, ["text"], 3).save(path)
        content = path.read_bytes()
    else:
        name = b"blk.0.attn_q.weight"
        content = struct.pack("<ii", 1, len(name)) + name + struct.pack("<ii32f", 3, 32, *[1.0] * 32)
        content += struct.pack("<ii4s", 3, 4, b"text")
    path.write_bytes(data.draw(damaged_bytes(content)))
    with refusals():
        assert Importance.load(path).means is not None


MODELFILE = b'''FROM ./in.gguf
# a comment
PARAMETER temperature 0.5
PARAMETER stop "<|im_end|>"
SYSTEM """You are
brief."""
TEMPLATE "{{ .Prompt }}"
MESSAGE user Hi
LICENSE MIT
ADAPTER a.gguf
'''


@often
@given(content=damaged_bytes(MODELFILE))
def test_modelfiles(content: bytes) -> None:
    with refusals():
        parse_modelfile(content.decode("utf-8", "replace"))


TEMPLATES = [
    b"{%- set ns = namespace(found=false) -%}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}"
    b"{% if m.tool_calls %}{{ m.tool_calls[0].function | tojson(indent=2) }}{% endif %}<|im_end|>{% endfor %}",
    b"{% macro f(x) %}{{ x ~ '%s' % x }}{% endmacro %}{{ f(messages[0]['content'][:5]) | upper }}{{ range(3) | list }}"
    b"{% if tools is defined and tools %}{{ tools | map(attribute='name') | join(', ') }}{% endif %}",
]


@often
@given(data=st.data())
@pytest.mark.parametrize("source", TEMPLATES)
def test_chat_templates(source: bytes, data: st.DataObject) -> None:
    messages: list[dict[str, Any]] = [{"role": "system", "content": "s"}, {"role": "user", "content": "Hello"}]
    with refusals():
        ChatTemplate(data.draw(damaged_bytes(source)).decode("utf-8", "replace")).render(messages)


@often
@given(data=st.data())
def test_headers_on_a_server(data: st.DataObject, tiny_model: Callable[..., Path]) -> None:
    content = tiny_model().read_bytes()[:3000]
    with refusals():
        damaged = data.draw(damaged_bytes(content))
        with contextlib.suppress(NeedMoreError):
            header_end(damaged)
