"""LoRA adapters: merged weights are the measure; requests choose, mix and share without disturbing one another."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from halfbyte import LLM, _core
from halfbyte.adapters import parse_lora
from halfbyte.cli.main import main
from halfbyte.errors import FormatError, HalfbyteError, InvalidArgumentError, ModelNotFoundError, UnsupportedError

from ..convert.folders import CONFIG, llama_weights, write_folder

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
IDS = [3, 200, 17, 99, 42, 5, 77, 31, 8, 120, 64, 2, 9, 211, 55, 6, 18, 90]


def write_peft(folder: Path, seed: int, *, targets: tuple[str, ...] = LINEAR, rank: int = 4, **changes: Any) -> Path:
    """A PEFT adapter for the tiny llama, strong enough to be seen."""
    draw, tensors = np.random.default_rng(seed), {}
    for name, w in llama_weights().items():
        stem = name.removesuffix(".weight")
        if stem.endswith(targets):
            a = draw.normal(0, 0.3, (rank, w.shape[1])).astype(np.float32)
            b = draw.normal(0, 0.3, (w.shape[0], rank)).astype(np.float32)
            tensors |= {f"base_model.model.{stem}.lora_A.weight": a, f"base_model.model.{stem}.lora_B.weight": b}
    folder.mkdir()
    safetensors.numpy.save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 4, "target_modules": list(targets), **changes}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def merged_folder(path: Path, adapters: dict[Path, float], scaling: float = 1.0) -> Path:
    """The tiny llama with adapters added by hand."""
    weights = {n: w.astype(np.float64) for n, w in llama_weights().items()}
    for adapter, strength in adapters.items():
        t = safetensors.numpy.load_file(adapter / "adapter_model.safetensors")
        for name in weights:
            stem = "base_model.model." + name.removesuffix(".weight")
            if f"{stem}.lora_A.weight" in t:
                weights[name] += strength * scaling * (t[f"{stem}.lora_B.weight"] @ t[f"{stem}.lora_A.weight"])
    return write_folder(path, {n: w.astype(np.float32) for n, w in weights.items()})


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("lora")
    return {
        "base": base,
        "model": write_folder(base / "model"),
        "one": write_peft(base / "one", 1),
        "two": write_peft(base / "two", 2, targets=("q_proj", "down_proj")),
    }


@pytest.fixture(scope="module")
def llm(places: dict[str, Path]) -> Any:
    with LLM(places["model"], n_ctx=128, kv_type="f32") as model:
        for name in ("one", "two"):
            assert model.adapters.load(places[name]) == name
        yield model


def logits(path: Path) -> np.ndarray:
    with LLM(path, n_ctx=128, kv_type="f32") as model:
        return model.forward(IDS)


def near(found: np.ndarray, expected: np.ndarray, bound: float = 1e-4) -> bool:
    return bool(np.max(np.abs(found - expected)) <= bound * np.max(np.abs(expected)))


@pytest.mark.parametrize("choice", [{"one": 1.0}, {"two": 1.0}, {"one": 0.5, "two": -0.25}])
def test_an_adapter_gives_what_merged_weights_give(
    llm: Any, places: dict[str, Path], tmp_path: Path, choice: dict[str, float]
) -> None:
    expected = logits(merged_folder(tmp_path / "merged", {places[n]: s for n, s in choice.items()}))
    assert near(llm.forward(IDS, lora=choice), expected)
    assert not near(llm.forward(IDS), expected, 0.05)


def test_merge_writes_the_same_model(
    places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapters = {places["one"]: 0.5, places["two"]: 1.0}
    flags = [f"--lora={path}={strength}" for path, strength in adapters.items()]
    assert main(["merge", str(places["model"]), str(tmp_path / "a.gguf"), *flags]) == 0
    expected = logits(merged_folder(tmp_path / "merged", adapters))
    assert near(logits(tmp_path / "a.gguf"), expected)
    assert main(["convert", str(places["model"]), str(tmp_path / "plain.gguf"), "--type", "q8_0"]) == 0
    assert main(["merge", str(tmp_path / "plain.gguf"), str(tmp_path / "b.gguf"), *flags]) == 0
    assert "rounded to Q8_0 again" in capsys.readouterr().err
    # Rounded twice to Q8_0: the largest of so many errors says little, their mean square does.
    rest = logits(tmp_path / "b.gguf") - expected
    assert np.sqrt(np.mean(rest**2)) <= 0.08 * np.sqrt(np.mean(expected**2))
    assert main(["merge", str(places["model"]), str(tmp_path / "a.gguf"), *flags]) == 1


def test_a_gguf_adapter_is_the_same_adapter(llm: Any, places: dict[str, Path], tmp_path: Path) -> None:
    from halfbyte.convert.lora import read_adapter

    changes = read_adapter(places["one"], llm.metadata)
    tensors = []
    for c in changes:
        tensors.append((f"{c.name}.weight.lora_a", "F32", list(c.a.shape[::-1]), c.a))
        tensors.append((f"{c.name}.weight.lora_b", "F32", list(c.b.shape[::-1]), c.b))
    about = {
        "general.architecture": "llama",
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 2.0,
    }
    _core.write_gguf(str(tmp_path / "half.gguf"), about, tensors)
    llm.adapters.load(tmp_path / "half.gguf")
    assert near(llm.forward(IDS, lora={"half": 1.0}), llm.forward(IDS, lora={"one": 0.5}))


def answers(llm: Any, choices: list[Any]) -> list[list[int]]:
    out: list[Any] = [None] * len(choices)

    def ask(i: int) -> None:
        out[i] = llm.generate([*IDS, i % 3], temperature=0, max_tokens=12, lora=choices[i], ignore_eos=True).token_ids

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(choices))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return out


def test_requests_with_different_adapters_share_steps_and_change_no_bit(llm: Any, places: dict[str, Path]) -> None:
    choices: list[Any] = [{}, "one", {"two": 1.0}, {"one": 0.5, "two": 1.0}, None, {"one": 1.0}, {}, "two", "one"]
    alone = []
    for i, choice in enumerate(choices):
        with LLM(places["model"], n_ctx=128, kv_type="f32", prefix_cache=False) as single:
            for name in ("one", "two"):
                single.adapters.load(places[name])
            alone.append(
                single.generate([*IDS, i % 3], temperature=0, max_tokens=12, lora=choice, ignore_eos=True).token_ids
            )
    assert answers(llm, choices) == alone
    assert answers(llm, choices) == alone  # now from the prefix cache
    assert len({tuple(a) for a in alone}) > 3


def test_prefixes_are_kept_apart(llm: Any) -> None:
    prompt = [7 + i % 40 for i in range(64)]
    llm.generate(prompt, temperature=0, max_tokens=1, lora={})
    assert llm.generate(prompt, temperature=0, max_tokens=1, lora={}).usage.cached_tokens >= 48
    assert llm.generate(prompt, temperature=0, max_tokens=1, lora="one").usage.cached_tokens == 0
    assert llm.generate(prompt, temperature=0, max_tokens=1, lora={"one": 1.0}).usage.cached_tokens >= 48
    assert llm.generate(prompt, temperature=0, max_tokens=1, lora={"one": 0.9}).usage.cached_tokens == 0


def test_adapters_of_the_start_are_the_default(llm: Any, places: dict[str, Path]) -> None:
    with LLM(places["model"], n_ctx=128, kv_type="f32", lora={str(places["one"]): 0.5}) as model:
        assert model.adapters.names == ["one"]
        assert np.array_equal(model.forward(IDS), llm.forward(IDS, lora={"one": 0.5}))
        assert np.array_equal(model.forward(IDS, lora={}), llm.forward(IDS))


@pytest.mark.parametrize(
    ("changes", "scaling"),
    [
        ({"lora_alpha": 8}, 2.0),
        ({"lora_alpha": 8, "use_rslora": True}, 4.0),
        ({"lora_alpha": 8, "alpha_pattern": {".*_proj": 2}}, 0.5),
        ({"r": 8, "rank_pattern": {"self_attn.*|mlp.*": 4}}, 1.0),
    ],
)
def test_scaling(places: dict[str, Path], tmp_path: Path, llm: Any, changes: dict[str, Any], scaling: float) -> None:
    adapter = write_peft(tmp_path / "scaled", 1, **changes)
    llm.adapters.load(adapter)
    assert near(llm.forward(IDS, lora="scaled"), llm.forward(IDS, lora={"one": scaling}), 1e-5)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"use_dora": True}, UnsupportedError, "DoRA"),
        ({"bias": "all"}, UnsupportedError, "biases"),
        ({"modules_to_save": ["lm_head"]}, UnsupportedError, "whole modules"),
        ({"peft_type": "IA3"}, UnsupportedError, "IA3"),
        ({"r": "four"}, FormatError, "r is 'four'"),
        ({"alpha_pattern": ["q_proj"]}, FormatError, "alpha_pattern is no object"),
        ({"alpha_pattern": {"(": 1}}, FormatError, "alpha_pattern has the pattern"),
        ({"rank_pattern": {"(.*.*)*!": 1}}, FormatError, "repeats too much"),
        ({"rank_pattern": {".*" * 20 + "!": 1}}, FormatError, "repeats too much"),
    ],
)
def test_adapters_that_are_refused(
    llm: Any, tmp_path: Path, change: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        llm.adapters.load(write_peft(tmp_path / "bad", 1, **change))


def test_adapters_that_do_not_fit(llm: Any, places: dict[str, Path], tmp_path: Path) -> None:
    def tensors(change: dict[str, np.ndarray]) -> Path:
        folder = write_peft(tmp_path / f"n{len(list(tmp_path.iterdir()))}", 1, targets=("q_proj",))
        safetensors.numpy.save_file(change, folder / "adapter_model.safetensors")
        return folder

    stem = "base_model.model.model.layers.0.self_attn.q_proj"
    a, b = np.zeros((4, 64), np.float32), np.zeros((64, 4), np.float32)
    for change, says in (
        ({f"{stem}.lora_A.weight": a}, "lacks its b"),
        ({f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b[:, :2]}, "no product"),
        ({f"{stem}.lora_A.weight": a[:, :32], f"{stem}.lora_B.weight": b}, "is 64 x 32; the model's matrix is 64 x 64"),
        ({f"{stem}.magnitude": a}, "no low-rank change"),
        ({"base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight": a,
          "base_model.model.model.layers.9.self_attn.q_proj.lora_B.weight": b}, "no request can switch"),
        ({"base_model.model.lm_head.lora_A.weight": a, "base_model.model.lm_head.lora_B.weight": np.zeros((264, 4), np.float32)}, "no request can switch"),
        ({"base_model.model.model.magic.lora_A.weight": a}, "no part of a llama"),
    ):  # fmt: skip
        with pytest.raises(HalfbyteError, match=says):
            llm.adapters.load(tensors(change))
    with pytest.raises(ModelNotFoundError, match="no such adapter"):
        llm.adapters.load(tmp_path / "nothing")
    with pytest.raises(InvalidArgumentError, match='no adapter "three"'):
        llm.generate(IDS, lora="three")
    with LLM(places["model"], n_ctx=64) as other, pytest.raises(InvalidArgumentError, match="another model"):
        other.engine.forward(IDS, adapters=llm.adapters.chosen("one"))


def test_the_flag_takes_a_strength() -> None:
    assert parse_lora(["a/b", "c=0.5", "d=e=-2"]) == {"a/b": 1.0, "c": 0.5, "d=e": -2.0}
    with pytest.raises(InvalidArgumentError, match="no strength"):
        parse_lora(["a=b"])
    assert CONFIG["num_hidden_layers"] == 2
