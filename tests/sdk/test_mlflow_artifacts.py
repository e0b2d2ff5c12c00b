"""Large artefacts in parts, and folders as zip files: what the client does with
files of 500 MB and more, with smaller ones here."""

import io
import os
import zipfile

import mlflow
import pytest
import requests

MB = 1 << 20


@pytest.fixture
def run():
    with mlflow.start_run() as active:
        pass
    return active.info.run_id


@pytest.fixture
def large(tmp_path):
    """A file that the client sends in three parts."""
    path = tmp_path / "large one.bin"
    path.write_bytes(os.urandom(11 * MB + 5))
    return path


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", str(5 * MB))
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE", str(5 * MB))
    monkeypatch.setenv("MLFLOW_MULTIPART_DOWNLOAD_CHUNK_SIZE", str(5 * MB))
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


def test_a_large_file_is_sent_in_parts(run, large, parts, traffic, tmp_path):
    client = mlflow.MlflowClient()
    client.log_artifact(run, str(large), "models")
    assert sum(method == "PUT" and "comp=block" in url for method, url in traffic) == 3
    back = client.download_artifacts(run, "models/large one.bin", str(tmp_path))
    assert open(back, "rb").read() == large.read_bytes()
    assert [(f.path, f.file_size) for f in client.list_artifacts(run, "models")] == [("models/large one.bin", 11 * MB + 5)]


def test_a_large_file_is_read_in_ranges_by_who_insists(run, large, monkeypatch, parts, traffic, tmp_path):
    client = mlflow.MlflowClient()
    client.log_artifact(run, str(large))
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "true")
    back = client.download_artifacts(run, "large one.bin", str(tmp_path))
    assert open(back, "rb").read() == large.read_bytes()
    assert sum(method == "GET" and "sig=" in url for method, url in traffic) == 3


def test_an_upload_that_fails_leaves_no_artefact(run, large, monkeypatch, parts):
    from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository

    def fail(credential, local_file, size, start_byte):
        raise OSError("the network is gone")

    monkeypatch.setattr(HttpArtifactRepository, "_upload_part", staticmethod(fail))
    client = mlflow.MlflowClient()
    with pytest.raises(Exception, match="network is gone"):
        client.log_artifact(run, str(large))
    assert client.list_artifacts(run) == []


def test_a_folder_comes_as_a_zip_file(run):
    client = mlflow.MlflowClient()
    for name in ("a.txt", "sub/b.txt"):
        client.log_text(run, "text of " + name, "folder/" + name)
    reply = requests.get(
        os.environ["MLFLOW_TRACKING_URI"] + "/api/lapis/artifacts/zip",
        params={"run_id": run, "path": "folder"},
        headers={"Authorization": "Bearer " + os.environ["MLFLOW_TRACKING_TOKEN"]},
    )
    reply.raise_for_status()
    archive = zipfile.ZipFile(io.BytesIO(reply.content))
    assert {n: archive.read(n).decode() for n in archive.namelist()} == {"a.txt": "text of a.txt", "sub/b.txt": "text of sub/b.txt"}
