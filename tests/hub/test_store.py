"""The store: whole models or none, names, copies, Modelfiles and the commands on them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte import LLM
from halfbyte.cli.main import main
from halfbyte.errors import FormatError, HalfbyteError, InvalidArgumentError, ModelNotFoundError
from halfbyte.hub import (
    Card,
    add_stored,
    copy_stored,
    find_stored,
    get_stored,
    list_stored,
    prune,
    remove_stored,
    stored_files,
)
from halfbyte.hub.modelfile import Modelfile, create_model, open_base, parse_modelfile, write_modelfile
from halfbyte.hub.store import checked_name

MODELFILE = '''# a model of our own
FROM {base}
PARAMETER temperature 0
parameter stop "<end of it>"
PARAMETER stop STOP
PARAMETER num_ctx 64
TEMPLATE """{{{{ if .System }}}}<|im_start|>system
{{{{ .System }}}}<|im_end|>
{{{{ end }}}}{{{{ if .Prompt }}}}<|im_start|>user
{{{{ .Prompt }}}}<|im_end|>
{{{{ end }}}}<|im_start|>assistant
{{{{ .Response }}}}<|im_end|>
"""
SYSTEM "You are
Mario."
MESSAGE user Who?
MESSAGE assistant """It's me,
"Mario"!"""
LICENSE Apache-2.0
'''


@pytest.fixture
def mario(tiny_model: Callable[..., Path], tmp_path: Path) -> Path:
    base = tmp_path / "base.gguf"
    base.write_bytes(tiny_model().read_bytes())
    (tmp_path / "Modelfile").write_text(MODELFILE.format(base="./base.gguf"))
    assert main(["create", "me/mario:1b", "-f", str(tmp_path / "Modelfile")]) == 0
    return base


def test_a_modelfile_decides_how_a_model_runs(mario: Path) -> None:
    mario.unlink()  # the store has its own link
    with LLM("me/mario:1b") as llm:
        assert llm.n_ctx == 64
        assert llm.defaults.temperature == 0
        assert llm.defaults.stop == ["<end of it>", "STOP"]
        text = llm.detokenize(llm.chat_ids([{"role": "user", "content": "And?"}]))
        assert text.replace("<s>", "") == (
            "<|im_start|>system\nYou are\nMario.<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
            'It\'s me,\n"Mario"!<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n'
        )
        own = llm.chat_ids([{"role": "system", "content": "Be Luigi."}, {"role": "user", "content": "And?"}])
        assert "You are" not in llm.detokenize(own)


def test_commands(mario: Path, capsys: pytest.CaptureFixture[str], store: Path) -> None:
    assert main(["cp", "me/mario:1b", "mario"]) == 0
    assert get_stored("mario").path.samefile(get_stored("me/mario:1b").path)
    capsys.readouterr()
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [m["name"] for m in listed] == ["mario", "me/mario:1b"]
    assert main(["show", "mario", "--modelfile"]) == 0
    text = capsys.readouterr().out
    again = parse_modelfile(text)
    assert again.system == "You are\nMario."
    assert again.parameters == {"temperature": 0.0, "stop": ["<end of it>", "STOP"], "num_ctx": 64}
    assert again.messages[1]["content"] == 'It\'s me,\n"Mario"!'
    assert main(["rm", "me/mario:1b"]) == 0
    assert [m.name for m in list_stored()] == ["mario"]
    (store / ".incoming" / "half").mkdir(parents=True)
    (store / "mario" / "x.part").write_bytes(b"")
    (store / "empty").mkdir()
    capsys.readouterr()
    assert main(["prune", "--json"]) == 0
    assert {Path(p).name for p in json.loads(capsys.readouterr().out)} >= {"half", "x.part", "empty"}
    assert [m.name for m in list_stored()] == ["mario"]
    assert main(["cp", "nothing", "x"]) == 1
    assert main(["create", "../x", "-f", str(mario.parent / "Modelfile")]) == 1
    assert main(["create", "x", "-f", "/nowhere/Modelfile"]) == 1


def test_models_from_models(mario: Path) -> None:
    modelfile = parse_modelfile("FROM me/mario:1b\nSYSTEM Be Luigi.\nPARAMETER top_k 3")
    child = create_model("luigi", modelfile, open_base(modelfile, Path()), Path())
    assert child.card.system == "Be Luigi."
    assert child.card.parameters["temperature"] == 0
    assert child.card.parameters["top_k"] == 3
    remove_stored("me/mario:1b")
    assert child.path.exists()
    assert child.digest == copy_stored("luigi", "weegee").digest
    with pytest.raises(ModelNotFoundError, match="ADAPTER"):
        create_model("x", Modelfile(adapters=["nothing.gguf"]), stored_files(child), Path())


def test_a_file_that_someone_put_there_is_a_model(tiny_model: Callable[..., Path], store: Path) -> None:
    (store / "mine").mkdir(parents=True)
    (store / "mine" / "m.gguf").write_bytes(tiny_model().read_bytes())
    assert [m.name for m in list_stored()] == ["mine"]
    (store / "mine" / "model.json").write_text("{")
    with pytest.raises(FormatError, match="damaged"):
        find_stored("mine")
    assert list_stored() == []
    prune()
    assert (store / "mine" / "m.gguf").exists()
    assert all(find_stored(name) is None for name in ("", ".", "..", "/", "a" * 300, "../models", "mine/../mine"))


@pytest.mark.parametrize("name", ["", "a b", "../a", "a/../b", ".a", "a/b/c/d", "a:b:c", "a" * 200, "a\n", "é", "a/"])
def test_names_that_are_none(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="no name"):
        checked_name(name)


DIE = """
import os, signal, sys
from pathlib import Path
from halfbyte.hub import Card, add_stored
calls, limit = 0, int(sys.argv[3])
def dying(function):
    def wrapped(*a, **k):
        global calls
        calls += 1
        if calls > limit:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*a, **k)
    return wrapped
for name in ("rename", "replace", "link", "unlink", "rmdir", "mkdir"):
    setattr(os, name, dying(getattr(os, name)))
add_stored("m", Card(model=sys.argv[1], system=sys.argv[2]))
print("done")
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_killed_at_any_step_the_old_model_or_the_new_one_is_there(tmp_path: Path) -> None:
    old, new = tmp_path / "old.gguf", tmp_path / "new.gguf"
    old.write_bytes(b"old")
    new.write_bytes(b"new")
    for limit in range(100):
        add_stored("m", Card(model=str(old), system="old"))
        result = subprocess.run([sys.executable, "-c", DIE, new, "new", str(limit)], capture_output=True, text=True)
        model = find_stored("m")
        assert model is not None
        assert (model.card.system, model.path.read_text()) in (("old", "old"), ("new", "new"))
        if result.returncode == 0:
            assert model.card.system == "new"
            assert limit > 5
            return
        assert result.returncode == -signal.SIGKILL
    pytest.fail("it never came to its end")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SYSTEM x", "no FROM"),
        ("FROM", "line 1: FROM says nothing"),
        ("FROM a\nFRON b", "line 2: FRON is no instruction"),
        ('FROM a\nSYSTEM """x', "line 2: .* is not closed"),
        ('FROM a\nSYSTEM "x" y\n', "is not closed"),
        ("FROM a\nMESSAGE robot x", 'line 2: "robot" is no role'),
        ("FROM a\nPARAMETER temprature 1", "Did you mean temperature"),
        ("FROM a\nPARAMETER top_k many", "top_k is 'many'; a whole number"),
        ("FROM a\nPARAMETER num_ctx 1.5", "whole number"),
        ("FROM a\nPARAMETER use_mmap maybe", "true or false"),
    ],
)
def test_damaged_modelfiles(text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        parse_modelfile(text)


@given(st.text(alphabet='FROMSYTE abc"\n\\#{}0.:é', max_size=80).map(lambda t: "FROM x\n" + t))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_modelfile_or_an_error(text: str) -> None:
    with contextlib.suppress(HalfbyteError):
        parse_modelfile(text)


TEXTS = st.text(alphabet=st.characters(blacklist_categories=["Cs", "Cc"]) | st.just("\n"), min_size=1).filter(
    lambda t: '"""' not in t and not t.startswith('"') and not t.endswith('"') and "\r" not in t
)


@given(TEXTS, TEXTS, st.lists(st.tuples(st.sampled_from(["user", "assistant"]), TEXTS), max_size=3))
@settings(max_examples=200, deadline=None)
def test_what_is_written_is_read_again(system: str, template: str, messages: list[tuple[str, str]]) -> None:
    turns = [{"role": role, "content": content} for role, content in messages]
    card = Card(system=system, template=template, messages=turns, parameters={"top_k": 3, "stop": ["a b", "c"]})
    again = parse_modelfile(write_modelfile(card, "base"))
    assert (again.system, again.template, again.messages) == (system, template, turns)
    assert again.parameters == card.parameters
