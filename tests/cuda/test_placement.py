"""Where layers and experts lie: experts kept on the CPU, layers dealt out to two devices, plans that tell so."""

from __future__ import annotations

import ctypes
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfbyte import LLM, SamplingParams, _core
from halfbyte._core import testing
from halfbyte.cli.main import main
from halfbyte.errors import InvalidArgumentError, OutOfMemoryError
from halfbyte.machine import estimate_memory

from ..conftest import write_tiny_llama

PROMPT = list(range(40, 64))
GREEDY = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True)


def with_shared_expert(source: Path, out: Path) -> Path:
    """The model as a qwen2moe: biases of q, k and v, and a shared expert that a gate weighs."""
    file, draw = _core.GgufFile(str(source)), np.random.default_rng(3)
    metadata = {k.replace("llama.", "qwen2moe."): v for k, v in file.metadata.items()}
    metadata["general.architecture"] = "qwen2moe"
    tensors: list[Any] = [(t.name, t.format, list(t.shape), file.tensor_data(t.name).tobytes()) for t in file.tensors]

    def more(name: str, *shape: int) -> None:
        tensors.append((name, "F32", list(shape), draw.normal(0, 0.1, shape).astype(np.float32).tobytes()))

    for i in range(2):
        for name, n in (("attn_q", 64), ("attn_k", 32), ("attn_v", 32)):
            more(f"blk.{i}.{name}.bias", n)
        more(f"blk.{i}.ffn_gate_inp_shexp.weight", 64)
        more(f"blk.{i}.ffn_gate_shexp.weight", 64, 96)
        more(f"blk.{i}.ffn_up_shexp.weight", 64, 96)
        more(f"blk.{i}.ffn_down_shexp.weight", 96, 64)
    _core.write_gguf(str(out), metadata, tensors)
    return out


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("experts")
    # Plain weights: the CPU rounds activations for Q8_0 a little better than devices do, and experts that are nearly tied
    # would be others.
    plain = write_tiny_llama(folder / "llama.gguf", n_experts=8, format_name="F32")
    return {"llama": plain, "qwen2moe": with_shared_expert(plain, folder / "qwen2moe.gguf")}


def same(found: np.ndarray, expected: np.ndarray, most: float) -> bool:
    return bool(np.mean((found - expected) ** 2) < most * np.mean(expected**2))


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("family", ["llama", "qwen2moe"])
@pytest.mark.parametrize(
    ("n_gpu_layers", "cpu_moe", "n_kept"), [(2, False, 0), (2, True, 2), (2, 1, 1), (1, True, 2), (1, 1, 1)]
)
def test_experts_on_either_side_give_the_logits_of_the_cpu(
    models: dict[str, Path], family: str, n_gpu_layers: int, cpu_moe: bool | int, n_kept: int
) -> None:
    with LLM(models[family], n_gpu_layers=0, n_ctx=64) as llm:
        expected = llm.forward(PROMPT)
    with LLM(models[family], n_gpu_layers=n_gpu_layers, cpu_moe=cpu_moe, n_ctx=64, n_batch=16) as llm:
        assert llm._weights.n_gpu_layers == n_gpu_layers
        assert llm._weights.n_cpu_moe == n_kept
        assert same(llm.forward(PROMPT), expected, 1e-6)
        # Steps that decode repeat, which those with experts elsewhere must not be recorded for.
        together = [o.token_ids for o in llm.generate([PROMPT, PROMPT[:9]], GREEDY)]
        assert together == [llm.generate(p, GREEDY).token_ids for p in (PROMPT, PROMPT[:9])]


def test_a_count_of_layers_is_expected(models: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidArgumentError, match="cpu_moe is -1"):
        LLM(models["llama"], cpu_moe=-1)
    assert main(["run", "-m", str(models["llama"]), "--n-cpu-moe", "-2", "-p", "x"]) == 2
    assert "--n-cpu-moe" in capsys.readouterr().err


@pytest.fixture
def devices(
    emulated_library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[ctypes.CDLL]:
    """Emulated devices, (how many, KiB of each): a copy of the library, which looks at them when it is opened."""
    n_devices, n_kibibytes = request.param
    monkeypatch.setenv("EMULATED_DEVICES", str(n_devices))
    monkeypatch.setenv("EMULATED_KIB", str(n_kibibytes))
    path = str(shutil.copy(emulated_library, tmp_path / "libhalfbyte_cuda.so"))
    testing.open_gpu_library(path)
    yield ctypes.CDLL(path)
    testing.open_gpu_library("")


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four layers of about 360 KiB each."""
    path = tmp_path_factory.mktemp("models") / "larger.gguf"
    return write_tiny_llama(path, format_name="Q8_0", n_layers=4, n_embd=128, n_ff=768, n_ctx=64)


@pytest.mark.parametrize("devices", [(2, 65536)], indirect=True)
@pytest.mark.usefixtures("devices")
def test_one_device_is_enough_for_a_model_that_fits_it(larger: Path) -> None:
    assert len(_core.gpu_info()["others"]) == 1
    with LLM(larger, n_ctx=64) as llm:
        assert (llm._weights.n_gpu_layers, llm._weights.n_gpus) == (4, 1)


@pytest.mark.parametrize("devices", [(2, 1600)], indirect=True)
@pytest.mark.usefixtures("devices")
@pytest.mark.parametrize(("n_gpu_layers", "n_found"), [("auto", 4), (3, 3)])
def test_layers_are_dealt_out_to_two_devices(larger: Path, n_gpu_layers: int | str, n_found: int) -> None:
    """The emulation keeps the devices' memories apart: a kernel that reads the other one's ends the process."""
    with LLM(larger, n_gpu_layers=0, n_ctx=64) as llm:
        expected = llm.forward(PROMPT[:12])
    with LLM(larger, n_gpu_layers=n_gpu_layers, n_ctx=64, n_batch=16) as llm:
        assert (llm._weights.n_gpu_layers, llm._weights.n_gpus) == (n_found, 2)
        assert same(llm.forward(PROMPT[:12]), expected, 1e-3)
        alone = [llm.generate(p, GREEDY).token_ids for p in (PROMPT[:4], PROMPT[:6])]
        for _ in range(2):  # recorded on both devices, then replayed
            assert [o.token_ids for o in llm.generate([PROMPT[:4], PROMPT[:6]], GREEDY)] == alone


@pytest.mark.parametrize("devices", [(1, 1600)], indirect=True)
@pytest.mark.usefixtures("devices")
def test_as_many_layers_as_fit(larger: Path) -> None:
    with LLM(larger, n_ctx=64, n_batch=16) as llm:
        assert 1 <= llm._weights.n_gpu_layers < 4
        assert llm.generate(PROMPT[:6], GREEDY).token_ids


@pytest.mark.parametrize("devices", [(1, 3072)], indirect=True)
@pytest.mark.usefixtures("devices")
def test_kept_experts_count_for_nothing_on_the_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_tiny_llama(tmp_path / "experts.gguf", format_name="Q8_0", n_experts=32, n_ff=192, n_ctx=64)
    with LLM(path, n_ctx=64, n_batch=16) as llm:
        assert llm._weights.n_gpu_layers < 2
    plan = estimate_memory(path, n_batch=16)["gpu"]
    assert plan["n_gpu_layers"] < 2
    assert plan["n_cpu_moe"] in (1, 2)
    for cpu_moe in (True, plan["n_cpu_moe"]):
        with LLM(path, n_ctx=64, n_batch=16, cpu_moe=cpu_moe) as llm:
            assert llm._weights.n_gpu_layers == 2
    assert main(["fit", str(path), "-b", "16"]) == 0
    assert f"--n-cpu-moe {plan['n_cpu_moe']}" in capsys.readouterr().out


@pytest.mark.parametrize("devices", [(1, 16384)], indirect=True)
def test_weights_cache_and_work_take_their_share_of_the_memory(devices: ctypes.CDLL, larger: Path) -> None:
    devices.bytes_taken.restype = ctypes.c_int64
    blocks = []
    for share in (0.5, 0.8):
        many = 1024  # sequences, which would have use for more than there is
        with LLM(larger, n_ctx=64, n_batch=16, max_sequences=many, gpu_memory_utilization=share) as llm:
            assert llm._weights.n_gpu_layers == 4
            assert llm.generate(PROMPT[:4], GREEDY).token_ids
            blocks.append(llm.stats()["n_blocks"])
            allowed, taken = share * 16384 * 1024, devices.bytes_taken()
            row = 16 * 4 * 2 * 2 * 32 * 2  # tokens, layers, keys and values, heads, dims, bytes
            recordings = 16384 * 1024 // 128  # room for them, of which a few take little
            assert allowed - 3 * row - recordings < taken <= allowed
    assert blocks[0] < blocks[1]
    assert devices.bytes_taken() == 0


def answers_side_by_side(llm: LLM, prompts: list[list[int]], params: SamplingParams) -> list[list[int]]:
    """The engine is held until all prompts are there: it reads them in one step."""
    begun, go_on = threading.Event(), threading.Event()

    def hold(generated: np.ndarray, logits: np.ndarray) -> None:
        begun.set()
        assert go_on.wait(120)

    (held,) = llm.submit(PROMPT[:2], SamplingParams(max_tokens=1, logits_processors=[hold]))
    assert begun.wait(120)
    answers = [llm.submit(prompt, params)[0] for prompt in prompts]
    go_on.set()
    held.wait()
    return [answer.wait().token_ids for answer in answers]


@pytest.mark.parametrize("devices", [(1, 65536)], indirect=True)
def test_batches_of_many_sizes_share_recorded_steps(devices: ctypes.CDLL, larger: Path) -> None:
    devices.graphs.restype = ctypes.c_int64
    prompts = [PROMPT[i : i + 4] for i in range(8)]
    params = GREEDY.replace(max_tokens=4)
    with LLM(larger, n_ctx=64, n_batch=32, max_sequences=8, prompt_lookup=False) as llm:
        alone = [llm.generate(p, params).token_ids for p in prompts]
        assert devices.graphs() == 1
        for n in (5, 8, 7, 6):
            assert answers_side_by_side(llm, prompts[:n], params) == alone[:n]
            assert devices.graphs() == 2  # steps of one row, and of up to eight
    assert devices.graphs() == 0


@pytest.mark.parametrize("devices", [(1, 1280)], indirect=True)
def test_recorded_steps_make_room_for_others(devices: ctypes.CDLL, tmp_path: Path) -> None:
    """A 128th of the memory is theirs: 10 KiB, of which each takes about 1.5."""
    devices.graphs.restype = ctypes.c_int64
    path = write_tiny_llama(tmp_path / "tiny.gguf", format_name="Q8_0", n_ctx=64)
    # Greedy steps ask for one likely token, others for more or for all logits; each kind by two numbers of rows.
    kinds = [
        GREEDY,
        GREEDY.replace(temperature=0.5, seed=1),
        GREEDY.replace(top_k=200, temperature=0.5),
        GREEDY.replace(logprobs=1),
    ]
    kinds = [k.replace(max_tokens=4, seed=1) for k in kinds]
    with LLM(path, n_gpu_layers=2, n_ctx=64, n_batch=16, max_sequences=4, prompt_lookup=False) as llm:
        for prompts in ([PROMPT[:4]], [PROMPT[:4], PROMPT[2:8]], [PROMPT[:4], PROMPT[2:8], PROMPT[1:5]]) * 2:
            for params in kinds:
                alone = [llm.generate(p, params).token_ids for p in prompts]
                assert [o.token_ids for o in llm.generate(prompts, params)] == alone
        assert 1 < devices.graphs() < 9


@pytest.mark.parametrize("devices", [(1, 65536)], indirect=True)
@pytest.mark.usefixtures("devices")
def test_as_many_blocks_as_running_sequences_can_use_are_enough(larger: Path) -> None:
    with LLM(larger, n_ctx=64, n_batch=16, max_sequences=3) as llm:
        llm.generate(PROMPT[:4], GREEDY)
        assert llm.stats()["n_blocks"] == 3 * 64 / 16 + 1


@pytest.mark.parametrize("devices", [(1, 4096)], indirect=True)
@pytest.mark.usefixtures("devices")
def test_layers_obey_the_share(larger: Path) -> None:
    counts = []
    for share in (0.9, 0.35, 0.02):
        with LLM(larger, n_ctx=64, n_batch=16, max_sequences=4, gpu_memory_utilization=share) as llm:
            counts.append(llm._weights.n_gpu_layers)
        plan = estimate_memory(larger, n_ctx=64, n_batch=16, gpu_memory_utilization=share)["gpu"]
        assert plan["n_gpu_layers"] == counts[-1]
    assert counts[0] == 4 > counts[1] > counts[2] == 0


@pytest.mark.parametrize("devices", [(1, 6144)], indirect=True)
def test_a_draft_model_takes_its_part_of_the_share(devices: ctypes.CDLL, larger: Path, tmp_path: Path) -> None:
    devices.bytes_taken.restype = ctypes.c_int64
    draft = write_tiny_llama(tmp_path / "draft.gguf", format_name="Q4_0", n_layers=3, n_embd=128, n_ff=768, n_ctx=64)
    counts = []
    for share in (0.9, 0.45):
        options: dict[str, Any] = {"n_ctx": 64, "n_batch": 16, "max_sequences": 4, "gpu_memory_utilization": share}
        with LLM(larger, **options) as llm:
            assert llm._weights.n_gpu_layers == 4
            expected = llm.generate(PROMPT[:6], GREEDY).token_ids
        with LLM(larger, draft_model=draft, **options) as llm:
            counts.append(llm._weights.n_gpu_layers)
            assert llm.generate(PROMPT[:6], GREEDY).token_ids == expected
            assert devices.bytes_taken() <= share * 6144 * 1024
    assert counts[0] == 4 > counts[1]
    with LLM(larger, draft_model=draft, n_gpu_layers=0, n_ctx=64) as llm:
        assert devices.bytes_taken() == 0
        assert llm.generate(PROMPT[:6], GREEDY).token_ids


@pytest.mark.parametrize("devices", [(1, 4096)], indirect=True)
@pytest.mark.usefixtures("devices")
def test_a_cache_beyond_the_share_is_refused_with_the_flags(larger: Path) -> None:
    weights = _core.Model.load(str(larger), n_gpu_layers=4, gpu_budget=_core.GpuBudget(n_ctx=64, n_batch=16))
    with pytest.raises(OutOfMemoryError, match=r"KV cache for 4000 tokens .* gpu_memory_utilization is 0.90") as caught:
        _core.Engine(weights, n_ctx=4000, n_batch=16)
    for flag in ("-ngl", "--gpu-memory-utilization", "--kv-type"):
        assert flag in str(caught.value)


@pytest.mark.parametrize("share", [0.0, -1.0, 1.1, float("nan")])
def test_shares_that_are_none_are_refused(larger: Path, capsys: pytest.CaptureFixture[str], share: float) -> None:
    with pytest.raises(InvalidArgumentError, match="gpu_memory_utilization"):
        LLM(larger, gpu_memory_utilization=share)
    assert main(["run", "-m", str(larger), f"--gpu-memory-utilization={share}", "-p", "x"]) == 2
    assert "--gpu-memory-utilization" in capsys.readouterr().err


@pytest.mark.parametrize("devices", [(1, 1024)], indirect=True)
@pytest.mark.usefixtures("devices")
def test_what_does_not_fit_says_how_much_and_which_flags(larger: Path) -> None:
    with pytest.raises(
        OutOfMemoryError, match=r"4 layers need [\d.]+ MiB of GPU memory .* of 1.0 MiB, [\d.]+ MiB are free"
    ) as caught:
        LLM(larger, n_gpu_layers=4, n_ctx=64)
    assert "-ngl" in str(caught.value)
    assert "--cpu-moe" in str(caught.value)
    assert "--gpu-memory-utilization" in str(caught.value)
