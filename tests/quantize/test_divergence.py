"""KL divergence from saved logits, and models in parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from halfbyte import LLM, _core
from halfbyte.cli.main import main
from halfbyte.quantize.divergence import Divergence, LogitsReader, LogitsWriter, log_softmax
from halfbyte.quantize.parts import plan_parts, split


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("Call me Ishmael. Some years ago, never mind how long precisely, having little money. " * 3)
    return path


def compare(model: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    capsys.readouterr()
    assert main(["perplexity", "-m", str(model), "--kl-divergence", "--kl-divergence-base", str(base), "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_divergence_from_itself_and_from_others(
    tiny_model: Callable[..., Path], text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, base = tiny_model(n_embd=256, n_ff=512), tmp_path / "base.bin"
    score = ["perplexity", "-m", str(model), "-f", str(text), "-c", "64", "--json"]
    assert main([*score]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert main([*score, "--save-logits", str(base)]) == 0
    saved = json.loads(capsys.readouterr().out)
    assert saved["perplexity"] == pytest.approx(plain["perplexity"], rel=1e-5)
    itself = compare(model, base, capsys)
    assert itself["perplexity"] == pytest.approx(plain["perplexity"], rel=1e-5)
    assert itself["base_perplexity"] == pytest.approx(plain["perplexity"], rel=1e-3)
    assert abs(itself["mean_kl_divergence"]) < 1e-6  # the 16-bit steps of the saved logits
    assert itself["same_top_token"] > 0.99
    divergences = []
    for mix in ("q8_0", "q4_k_s", "q2_k_s"):
        out = tmp_path / f"{mix}.gguf"
        assert main(["quantize", str(model), str(out), mix]) == 0
        divergences.append(compare(out, base, capsys)["mean_kl_divergence"])
    assert 0 < divergences[0] < divergences[1] < divergences[2]


def test_saved_rows_come_back(tmp_path: Path) -> None:
    draw = np.random.default_rng(4)
    logits = draw.normal(0, 4, (3, 101)).astype(np.float32)  # chunks of 8 tokens score 8 - 1 - 4 rows
    with LogitsWriter(tmp_path / "l", list(range(16)), 8, 101, 2) as writer:
        for _ in range(2):
            scored = writer.add(logits, [1, 2, 3])
    reader = LogitsReader(tmp_path / "l")
    assert (reader.n_ctx, reader.n_vocab, reader.n_chunks) == (8, 101, 2)
    assert reader.tokens.tolist() == list(range(16))
    expected = log_softmax(logits)
    near = expected > expected.max(axis=1, keepdims=True) - 15.9
    np.testing.assert_allclose(reader.chunk(1)[near], expected[near], atol=2e-4)
    np.testing.assert_allclose(scored, expected[range(3), [1, 2, 3]])


def test_statistics_are_the_definitions() -> None:
    draw = np.random.default_rng(3)
    p, q = log_softmax(draw.normal(0, 2, (50, 30)).astype(np.float32)), draw.normal(0, 2, (50, 30)).astype(np.float32)
    targets = draw.integers(0, 30, 50).astype(np.int32)
    result = Divergence()
    result.add(p[:40], q[:40], targets[:40])
    result.add(p[40:], q[40:], targets[40:])
    found, log_q = result.summary(), log_softmax(q)
    kl = (np.exp(p) * (p - log_q)).sum(axis=1)
    assert found["mean_kl_divergence"] == pytest.approx(kl.mean(), rel=1e-5)
    assert found["kl_divergence_percentiles"]["90"] == pytest.approx(np.percentile(kl, 90), rel=1e-5)
    assert found["same_top_token"] == pytest.approx((p.argmax(1) == q.argmax(1)).mean())
    assert found["perplexity"] == pytest.approx(np.exp(-log_q[range(50), targets].mean()), rel=1e-5)


def test_the_floor_of_saved_logits_counts_nothing(tmp_path: Path) -> None:
    logits = np.full((3, 50_000), -40, np.float32)  # a few likely tokens among many that are out of the question
    logits[:, :5] = 0
    with LogitsWriter(tmp_path / "l", list(range(8)), 8, 50_000, 1) as writer:
        writer.add(logits, [1, 2, 3])
    result = Divergence()
    result.add(LogitsReader(tmp_path / "l").chunk(0), logits, np.array([1, 2, 3], np.int32))
    assert abs(result.summary()["mean_kl_divergence"]) < 1e-4


def test_bad_bases_are_refused(
    tiny_model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    compare_with = ["perplexity", "-m", str(tiny_model()), "--kl-divergence", "--kl-divergence-base", str(base)]
    for content, expected in [(b"GGUF", "no saved logits"), (b"_logits_" + bytes(12), "its header asks for")]:
        base.write_bytes(content)
        assert main(compare_with) == 1
        assert expected in capsys.readouterr().err
    assert main(["perplexity", "-m", str(tiny_model())]) == 1
    assert "-f TEXT" in capsys.readouterr().err


def test_parts_are_joined_again(
    tiny_model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model()
    assert main(["split", str(model), str(tmp_path / "cut"), "--max-size", "100kB", "--json"]) == 0
    parts = json.loads(capsys.readouterr().out)
    assert len(parts) > 2
    n_tensors = len(_core.GgufFile(str(model)).tensors)
    for number, part in enumerate(parts):
        reader = gguf.GGUFReader(part["path"])
        kinds = {k: reader.fields[k].types[0].name for k in ("split.no", "split.count", "split.tensors.count")}
        assert kinds == {"split.no": "UINT16", "split.count": "UINT16", "split.tensors.count": "INT32"}
        assert reader.fields["split.no"].contents() == number
        assert reader.fields["split.count"].contents() == len(parts)
        assert reader.fields["split.tensors.count"].contents() == n_tensors
    with LLM(model, n_ctx=64) as whole, LLM(parts[0]["path"], n_ctx=64) as cut:
        assert np.array_equal(whole.forward([5, 6, 7]), cut.forward([5, 6, 7]))
    joined = tmp_path / "joined.gguf"
    assert main(["merge", parts[1]["path"], str(joined)]) == 0
    ours, theirs = _core.GgufFile(str(joined)), _core.GgufFile(str(model))
    assert ours.metadata == theirs.metadata
    assert [t.name for t in ours.tensors] == [t.name for t in theirs.tensors]
    assert all(np.array_equal(ours.tensor_data(t.name), theirs.tensor_data(t.name)) for t in theirs.tensors)
    assert main(["merge", str(model), str(tmp_path / "no.gguf")]) == 1


def test_parts_are_never_written_over_themselves(
    tiny_model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = _core.GgufFile(str(tiny_model()))
    paths = split(source, tmp_path / "cut", plan_parts(source, max_tensors=10))
    before = [path.read_bytes() for path in paths]
    for command in (
        ["split", str(paths[0]), str(tmp_path / "cut"), "--max-tensors", "10"],
        ["merge", str(paths[0]), str(paths[1])],
        ["merge", str(paths[0]), str(paths[0])],
        ["quantize", str(paths[0]), str(paths[1]), "q8_0"],
    ):
        assert main(command) == 1, command
        assert "is the input" in capsys.readouterr().err
    assert [path.read_bytes() for path in paths] == before
    assert sorted(tmp_path.iterdir()) == paths


def test_parts_under_wrong_names_are_refused(
    tiny_model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = _core.GgufFile(str(tiny_model()))
    paths = split(source, tmp_path / "cut", plan_parts(source, max_tensors=10))
    assert len(paths) > 2
    paths[1].rename(tmp_path / "second")
    assert main(["merge", str(paths[0]), str(tmp_path / "out.gguf")]) == 1
    assert f"part 2 of {len(paths)} is missing" in capsys.readouterr().err
    paths[2].rename(paths[1])
    (tmp_path / "second").rename(paths[2])
    assert main(["merge", str(paths[0]), str(tmp_path / "out.gguf")]) == 1
    assert "its name says that it is part 2; the file says part 3" in capsys.readouterr().err
    assert not (tmp_path / "out.gguf").exists()


def test_split_models_are_quantized_whole(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    source = _core.GgufFile(str(tiny_model()))
    paths = split(source, tmp_path / "cut", plan_parts(source, max_tensors=5))
    assert main(["quantize", str(paths[0]), str(tmp_path / "q.gguf"), "q8_0"]) == 0
    assert not any(k.startswith("split.") for k in _core.GgufFile(str(tmp_path / "q.gguf")).metadata)
