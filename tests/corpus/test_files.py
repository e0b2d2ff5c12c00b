"""Every file of the corpus that describes a workspace, a compute, a store or an
asset is made on a real server, shown and listed.

Each is made under a name of its own, since several files share one.
"""

import json
import os
import pathlib
import shutil

import pytest
from conftest import lapis
from test_jobs import corpus

NOUNS = {
    "amlCompute": "compute", "computeInstance": "compute", "datastore": "datastore", "data": "data", "environment": "environment",
    "model": "model", "commandComponent": "component", "connection": "connection", "registry": "registry", "workspace": "workspace",
}
VERSIONED = {"data", "environment", "model", "component"}


def documents():
    """(path, noun, golden) of what the SDK itself sends."""
    if not corpus():
        return []
    found = []
    for path in sorted((corpus() / "golden").rglob("*.json")):
        golden = json.loads(path.read_text())
        noun = NOUNS.get(golden["kind"].split(":")[0])
        if noun and "requests" in golden and not golden.get("error") and not golden.get("after", {}).get("substitutions"):
            found.append((path.relative_to(corpus() / "golden").as_posix().removesuffix(".json"), noun, golden))
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("files")
    shutil.copytree(corpus() / "azureml-examples" / "cli", root / "cli")
    for folder, _, names in os.walk(root):
        os.chmod(folder, 0o755)
    for path, _, golden in documents():
        uploads = [u for list_ in golden.get("placeholders", {}).values() for u in (list_ if isinstance(list_, list) else [list_])]
        missing = [u["uploaded"] for u in uploads if isinstance(u, dict) and u.get("uploaded")] + golden.get("after", {}).get("missing_files", [])
        for name in missing:
            stand_in(root, pathlib.Path(os.path.normpath(root / path / ".." / name)))
    for name in ("component_src", "common_src"):
        stand_in(root, root / "cli" / "assets" / "component" / name)
    # What some of them refer to.
    lapis("environment", "create", "-n", "xgboost-sklearn-py38", "--version", "1", "--image", "library/python:latest")
    return root


def stand_in(root, there):
    """Make a file or folder where the corpus has none, of any content."""
    if there.exists() or root not in there.parents:
        return
    if there.suffix:
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_text("x")
    else:
        there.mkdir(parents=True)
        (there / "there.txt").write_text("x")
        (there / "MLTable").write_text("paths:\n  - file: ./there.txt\n")


ALL = documents() or [pytest.param("", "", {}, marks=pytest.mark.skip(reason="the corpus is not beside the repository"))]


@pytest.mark.parametrize("path, noun, golden", ALL, ids=[d[0] for d in ALL] if documents() else None)
def test_the_file_is_made_shown_and_listed(path, noun, golden, files, unique):
    name = unique("x").replace("-", "_" if noun in ("component", "datastore") else "-")
    change = [word for field in golden.get("after", {}).get("params_override") or [] for key, value in field.items() for word in ("--set", f"{key}={value}")]
    if "<VERSION>" in (files / path).read_text():
        change += ["--version", "1"]  # a script of theirs would put it in
    made = json.loads(lapis(noun, "create", "-f", str(files / path), *change, "-n", name).stdout)
    assert made["name"] == name
    version = ["--version", str(made["version"])] if noun in VERSIONED else []
    shown = json.loads(lapis(noun, "show", "-n", name, *version).stdout)
    assert shown["name"] == name
    listed = json.loads(lapis(noun, "list").stdout)
    assert name in [item["name"] for item in listed]
    if noun in {"compute", "workspace", "registry"}:
        lapis(noun, "delete", "-n", name, "--yes")
