"""Folders that transformers writes: the same logits from the folder, and from the GGUF file made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from halfbyte import _core
from halfbyte.convert import plan_folder

from ..model.families import FAMILIES, make_model

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.mark.parametrize("name", list(FAMILIES))
def test_folder_and_gguf_give_the_logits_of_transformers(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'halfbyte[parity]'")
    model = make_model(FAMILIES[name])
    model.save_pretrained(tmp_path)
    plan = plan_folder(tmp_path)
    assert plan.family.arch == FAMILIES[name].arch
    rows = [tensor.as_row() for tensor in plan.tensors]
    ids = np.random.default_rng(5).integers(3, 160, 50).tolist()
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    _core.write_gguf(str(tmp_path / "out.gguf"), plan.metadata, rows)
    models = (
        _core.Model.assemble(str(tmp_path), plan.metadata, rows),
        _core.Model.load(str(tmp_path / "out.gguf")),
    )
    for loaded in models:
        found = _core.Engine(loaded, n_ctx=120, k_type="f32", v_type="f32", n_batch=64).forward(ids)
        assert np.max(np.abs(found - expected)) <= 1e-4 * np.max(np.abs(expected))
