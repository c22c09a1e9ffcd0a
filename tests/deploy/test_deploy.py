"""What the files under deploy/ say is true: flags exist, metrics are exported, sources are where images copy them from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from halfbyte.cli.main import build_parser
from halfbyte.server.config import ServerConfig
from halfbyte.server.metrics import Metrics
from halfbyte.server.models import ModelPool

from ..conftest import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
DOCKERFILES = sorted(DEPLOY.glob("Dockerfile*"))


def pod() -> dict[str, Any]:
    deployment: dict[str, Any] = yaml.safe_load((DEPLOY / "kubernetes" / "deployment.yaml").read_text())
    return deployment["spec"]["template"]["spec"]  # type: ignore[no-any-return]


def commands() -> list[list[str]]:
    """Every command line of halfbyte in the files."""
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["halfbyte"]["command"]
    images = [json.loads(re.findall(r"^CMD (\[.*\])$", file.read_text(), re.M)[-1]) for file in DOCKERFILES]
    return [*images, compose, pod()["containers"][0]["args"]]


@pytest.mark.parametrize("command", commands(), ids=str)
def test_commands_have_flags_that_exist(command: list[str]) -> None:
    arguments = build_parser().parse_args(command)
    assert (arguments.command, arguments.host, arguments.port) == ("serve", "0.0.0.0", 8080)


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_images_copy_what_is_there(file: Path) -> None:
    text = file.read_text()
    sources = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.M)
    names = [name for line in sources for name in line.split()]
    assert names
    for name in names:
        assert (REPOSITORY / name).exists(), name
    # What the build reads must not be held back from it.
    let_in = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {name.split("/")[0] for name in names} <= let_in
    assert "USER 1000" in text


def test_a_pod_has_time_to_finish_its_streams() -> None:
    assert pod()["terminationGracePeriodSeconds"] >= ServerConfig().shutdown_timeout_s + 5
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    grace = int(compose["services"]["halfbyte"]["stop_grace_period"].removesuffix("s"))
    assert grace > ServerConfig().shutdown_timeout_s


def test_kustomization_names_every_file() -> None:
    folder = DEPLOY / "kubernetes"
    named = set(yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"])
    assert named == {file.name for file in folder.glob("*.yaml")} - {"kustomization.yaml"}


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    class NoModels(ModelPool):
        async def acquire(self, name: str | None) -> Any:
            raise NotImplementedError

        def release(self, model: Any) -> None:
            raise NotImplementedError

        def cards(self) -> list[Any]:
            return []

        def loaded(self) -> list[Any]:
            return []

        async def close(self) -> None:
            return None

    exported = set(re.findall(r"^# TYPE (\S+)", Metrics(NoModels()).text().decode(), re.M))
    exported |= {f"{name}_bucket" for name in exported} | {f"{name}_total" for name in exported}
    dashboard = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked = {name for query in queries for name in re.findall(r"\b(?:vllm:|halfbyte_)\w+", query)}
    assert len(asked) > 15
    assert asked <= exported
