"""The chart as a thing: lint, schema, package, image recipe."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from .chart import CHART, EXAMPLES, MINIMAL, ROOT, render

pytestmark = pytest.mark.helm

# Objects of the Kubernetes API that are handed through, and Helm's own `global`.
OPEN = {"global", "nodeAffinity", "podAffinity", "podAntiAffinity"}


@pytest.mark.parametrize("name", [None, *EXAMPLES])
def test_lint_finds_nothing(name):
    import helm_python as helm

    values = MINIMAL if name is None else yaml.safe_load(EXAMPLES[name].read_text())
    report = helm.lint(CHART, values, strict=True, kube_version="1.31.0")
    assert not report["errors"]
    assert not [m for m in report["messages"] if m["severity"] > 1]


def test_lint_would_find_a_broken_template(tmp_path):
    import shutil

    import helm_python as helm

    broken = shutil.copytree(CHART, tmp_path / "demur")
    (broken / "templates" / "service.yaml").write_text("a: {{ .Values.nothing.here }}\n")
    assert helm.lint(broken, MINIMAL, strict=True)["errors"]


def test_a_dry_run_installs():
    import helm_python as helm

    with helm.Config(namespace="prod", storage_driver="memory", kubeconfig_content="") as config:
        assert config.install(CHART, "demo", MINIMAL, dry_run="client")


def test_old_kubernetes_is_refused():
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"] == ">=1.29.0-0"


def test_the_package_holds_the_chart_and_nothing_else(tmp_path):
    import helm_python as helm

    archive = helm.package(CHART, destination=tmp_path)
    with tarfile.open(archive) as tar:
        names = {n.removeprefix("demur/") for n in tar.getnames()}
    kept = {str(p.relative_to(CHART)) for p in CHART.rglob("*") if p.is_file() and not p.name.startswith(".")}
    assert names == kept | ({".helmignore"} & names)
    with helm.Chart.load(archive) as packed:
        assert "demur/templates/deployment.yaml" in packed.render(MINIMAL)


def objects(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield path, schema
        for key, value in schema.items():
            yield from objects(value, f"{path}/{key}")


def test_every_object_of_the_schema_is_closed():
    schema = json.loads((CHART / "values.schema.json").read_text())
    found = dict(objects(schema))
    assert len(found) > 40
    opened = {
        path.rsplit("/", 1)[1] for path, s in found.items() if path and s.get("additionalProperties", True) is True
    }
    assert opened == OPEN
    assert schema["additionalProperties"] is False


def test_every_value_is_in_the_schema_and_has_a_default():
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert schema["properties"].keys() - {"global"} == values.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_configuration_is_the_golden_one(name):
    """`test_configuration.py` feeds these files to the service's own model, which this environment does not have."""
    golden = ROOT / "tests" / "helm" / "golden" / f"{name}.yaml"
    release = render(yaml.safe_load(EXAMPLES[name].read_text()))
    assert release.one("ConfigMap")["data"]["demur.yaml"] == golden.read_text()


def test_image_recipe_is_pinned_unprivileged_and_complete():
    recipe = (ROOT / "helm" / "image" / "Dockerfile").read_text()
    text = recipe.replace("\\\n", " ")
    installs = re.findall(r"pip install[^&\n]*", text)
    assert len(installs) == 3
    assert all("--require-hashes" in i or "--no-deps" in i for i in installs)
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE)[-1] == "65532:65532"
    assert 'ENTRYPOINT ["demur"]' in text
    assert not re.search(r"^ADD |curl|wget|(?i:password|token|secret)", text, re.MULTILINE)
    allowed = (ROOT / "helm" / "image" / "Dockerfile.dockerignore").read_text().split()
    for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in allowed, source
