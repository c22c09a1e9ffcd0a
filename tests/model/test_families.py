"""Every architecture against transformers: logits and greedy ids of a tiny random model at F32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from halfbyte import _core

from .families import FAMILIES, make_model, write_gguf

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def greedy(engine: object, prompt: list[int], n: int) -> list[int]:
    mailbox = _core.Mailbox()
    engine.submit(prompt, _core.SamplingParams(temperature=0), mailbox, max_tokens=n)
    ids: list[int] = []
    while True:
        for event in mailbox.take(10):
            ids += [s["token"] for s in event["samples"]]
            if event["finish"]:
                return ids


@pytest.mark.parametrize("name", list(FAMILIES))
def test_logits_and_greedy_text(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'halfbyte[parity]'")
    family = FAMILIES[name]
    model = make_model(family)
    path = tmp_path / f"{name}.gguf"
    write_gguf(model, family, path)
    engine = _core.Engine(_core.Model.load(str(path)), n_ctx=120, k_type="f32", v_type="f32", n_batch=64)
    ids = np.random.default_rng(5).integers(3, 160, 50).tolist()
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    found = engine.forward(ids)
    assert np.max(np.abs(found - expected)) <= 1e-4 * np.max(np.abs(expected))
    with torch.no_grad():
        tokens = torch.tensor([ids[:40]])
        for _ in range(64):
            logits = model(tokens).logits[:, -1]
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=1)
    assert greedy(engine, ids[:40], 64) == tokens[0, 40:].tolist()
    # A prompt in parts: of the first two, the last layer gives nothing but keys and values.
    in_parts = _core.Engine(_core.Model.load(str(path)), n_ctx=120, k_type="f32", v_type="f32", n_batch=16)
    assert greedy(in_parts, ids[:40], 8) == tokens[0, 40:48].tolist()


def test_every_architecture_is_tried() -> None:
    assert {f.arch for f in FAMILIES.values()} == set(_core.ARCHITECTURES)
