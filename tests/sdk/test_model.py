"""Models: from uploads and from the outputs of jobs."""

import filecmp

import pytest
from azure.ai.ml import Output, command
from azure.ai.ml.constants import AssetTypes
from azure.ai.ml.entities import Environment, Model
from azure.core.exceptions import ResourceNotFoundError
from conftest import PLAIN

MLMODEL = """\
flavors:
  python_function:
    loader_module: mlflow.sklearn
    python_version: 3.11.7
model_uuid: 0123456789abcdef0123456789abcdef
"""


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "weights"
    root.mkdir()
    (root / "model.bin").write_bytes(bytes(range(256)) * 1000)
    (root / "MLmodel").write_text(MLMODEL)
    return root


def test_a_custom_model_comes_back_as_it_was(ml, unique, folder, tmp_path):
    name = unique("custom")
    made = ml.models.create_or_update(Model(name=name, path=str(folder), type=AssetTypes.CUSTOM_MODEL, description="d", tags={"a": "b"}))
    assert made.version == "1"
    ml.models.download(name, version="1", download_path=tmp_path / "back")
    back = next((tmp_path / "back").rglob("model.bin"))
    assert filecmp.cmp(folder / "model.bin", back, shallow=False)


def test_an_mlflow_model_tells_its_flavors(ml, unique, folder):
    made = ml.models.create_or_update(Model(name=unique("mlflow"), path=str(folder), type=AssetTypes.MLFLOW_MODEL))
    assert "python_function" in ml.models.get(made.name, version="1").flavors


def test_a_job_s_output_is_registered_and_downloads(ml, cpu, finish, unique, tmp_path):
    job = ml.jobs.create_or_update(
        command(
            command="echo weights > ${{outputs.model}}/w.txt", environment=Environment(image=PLAIN), compute=cpu,
            outputs={"model": Output(type=AssetTypes.CUSTOM_MODEL)},
        )
    )
    assert finish(job).status == "Completed"
    name = unique("trained")
    made = ml.models.create_or_update(Model(name=name, path=f"azureml://jobs/{job.name}/outputs/model", type=AssetTypes.CUSTOM_MODEL))
    assert "/datastores/" in made.path
    assert ml.models.get(name, version="1").job_name == job.name
    ml.models.download(name, version="1", download_path=tmp_path)
    assert [p.read_text() for p in tmp_path.rglob("w.txt")] == ["weights\n"]


def test_versions_archive_and_update(ml, unique, folder):
    name = unique("many")
    for _ in range(2):
        ml.models.create_or_update(Model(name=name, path=str(folder), type=AssetTypes.CUSTOM_MODEL))
    assert sorted(m.version for m in ml.models.list(name)) == ["1", "2"]
    assert ml.models.get(name, label="latest").version == "2"
    ml.models.archive(name, version="1")
    assert [m.version for m in ml.models.list(name)] == ["2"]
    ml.models.restore(name, version="1")
    model = ml.models.get(name, version="2")
    model.tags = {"stage": "test"}
    assert ml.models.create_or_update(model).tags == {"stage": "test"}
    assert name in [m.name for m in ml.models.list()]


def test_what_is_missing_is_named(ml):
    with pytest.raises(ResourceNotFoundError, match="no-such-model"):
        ml.models.get("no-such-model", version="1")
