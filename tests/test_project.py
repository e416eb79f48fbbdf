"""What the project says of itself in several places is the same everywhere."""

import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import lightning_ae

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_the_version_has_a_section_in_the_changelog_and_is_what_is_cited() -> None:
    cited = read(ROOT / "CITATION.cff")
    assert cited["version"] == lightning_ae.__version__
    heading = f"## [{lightning_ae.__version__}] - {cited['date-released']}"
    assert heading in (ROOT / "CHANGELOG.md").read_text().splitlines()
    assert cited["license"] == PYPROJECT["project"]["license"]
    assert cited["authors"] == PYPROJECT["project"]["authors"] == [{"name": "lightning_ae developers"}]


def test_the_address_of_the_repository_is_one_setting() -> None:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.links("") == {}
    assert module.links("https://example.org/a/b/")["Issues"] == "https://example.org/a/b/issues"
    repository = PYPROJECT["tool"]["lightning_ae"]["repository"]
    assert read(ROOT / "CITATION.cff").get("repository-code", "") == repository


def test_versions_of_python_are_the_same_everywhere() -> None:
    project = PYPROJECT["project"]
    said = [
        match[1]
        for each in project["classifiers"]
        if (match := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", each))
    ]
    matrix = read(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["pythons"]["strategy"]["matrix"]
    assert matrix["python-version"] == said
    assert project["requires-python"] == f">={said[0]}"
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py" + said[0].replace(".", "")
    page = (ROOT / "benchmarks" / "pythons.md").read_text()
    assert all(f"\n| {version}" in page for version in said)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_name_what_they_may_do_and_commands_that_exist(path: Path) -> None:
    text, jobs = path.read_text(), read(path)["jobs"]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", text)) <= targets
    assert all((ROOT / script).exists() for script in re.findall(r"python (\S+\.py)", text))
    for job in jobs.values():
        writes = {name for name, level in (job.get("permissions") or {}).items() if level == "write"}
        assert writes <= {"id-token", "attestations", "pages"}  # provenance and pages: nothing else is written


def test_a_release_has_a_provenance() -> None:
    jobs = read(ROOT / ".github" / "workflows" / "release.yml")["jobs"]
    used = [step.get("uses", "") for job in jobs.values() for step in job["steps"]]
    assert any(each.startswith("actions/attest-build-provenance@") for each in used)
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert "secrets." not in (ROOT / ".github" / "workflows" / "release.yml").read_text()


@pytest.mark.parametrize("path", [path for path in FORMS if path.stem != "config"], ids=lambda path: path.stem)
def test_issue_forms_have_what_forms_must_have(path: Path) -> None:
    form = read(path)
    assert {"name", "description", "body"} <= form.keys()
    ids = [each["id"] for each in form["body"]]
    assert len(set(ids)) == len(ids)
    assert all(each["attributes"]["label"] for each in form["body"])
