"""Data assets: what is uploaded comes back as it was."""

import filecmp
import os

import pytest
from azure.ai.ml.constants import AssetTypes
from azure.ai.ml.entities import Data
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
import azure.ai.ml._artifacts._artifact_utilities as artifacts


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "numbers"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "a.txt").write_text("one\n")
    (root / "ü b.txt").write_text("zwei\n")
    (root / "empty.bin").write_bytes(b"")
    (root / "deep" / "er" / "c.bin").write_bytes(os.urandom(300_000))
    return root


def download(ml, uri, to):
    artifacts.download_artifact_from_aml_uri(uri=uri, destination=str(to), datastore_operation=ml.datastores)


def same(left, right):
    names = sorted(str(p.relative_to(left)) for p in left.rglob("*") if p.is_file())
    assert names == sorted(str(p.relative_to(right)) for p in right.rglob("*") if p.is_file())
    assert filecmp.cmpfiles(left, right, names, shallow=False) == (names, [], [])


def test_a_folder_comes_back_as_it_was(ml, unique, folder, tmp_path):
    asset = ml.data.create_or_update(Data(name=unique("folder"), version="1", path=str(folder), type=AssetTypes.URI_FOLDER))
    assert asset.path.startswith("azureml://") and asset.type == "uri_folder"
    download(ml, asset.path, tmp_path / "back")
    same(folder, tmp_path / "back")


def test_a_file_comes_back_as_it_was(ml, unique, folder, tmp_path):
    asset = ml.data.create_or_update(Data(name=unique("file"), path=str(folder / "ü b.txt"), type=AssetTypes.URI_FILE))
    download(ml, asset.path, tmp_path / "back")
    assert (tmp_path / "back" / "ü b.txt").read_text() == "zwei\n"


def test_a_file_of_many_blocks_comes_back_as_it_was(ml, unique, tmp_path):
    big = tmp_path / "big.bin"
    big.write_bytes(os.urandom(1 << 20) * 110)  # the client cuts at 100 MiB
    asset = ml.data.create_or_update(Data(name=unique("big"), path=str(big), type=AssetTypes.URI_FILE))
    download(ml, asset.path, tmp_path / "back")
    assert filecmp.cmp(big, tmp_path / "back" / "big.bin", shallow=False)


def test_the_same_bytes_are_uploaded_once(ml, unique, folder, traffic):
    ml.data.create_or_update(Data(name=unique("first"), path=str(folder), type=AssetTypes.URI_FOLDER))
    assert [u for m, u in traffic if m == "PUT" and "LocalUpload" in u]
    traffic.clear()
    ml.data.create_or_update(Data(name=unique("second"), path=str(folder), type=AssetTypes.URI_FOLDER))
    assert [u for m, u in traffic if m == "PUT" and "LocalUpload" in u] == []


def test_versions_count_up_and_latest_is_the_last(ml, unique, folder):
    name = unique("versions")
    for n in (1, 2, 3):
        (folder / "a.txt").write_text(f"{n}\n")
        assert ml.data.create_or_update(Data(name=name, path=str(folder), type=AssetTypes.URI_FOLDER)).version == str(n)
    assert ml.data.get(name, label="latest").version == "3"
    assert sorted(d.version for d in ml.data.list(name)) == ["1", "2", "3"]
    assert name in [d.name for d in ml.data.list()]


def test_an_archived_version_leaves_the_list_and_comes_back(ml, unique, folder):
    name = unique("archived")
    for version in ("1", "2"):
        ml.data.create_or_update(Data(name=name, version=version, path=str(folder), type=AssetTypes.URI_FOLDER))
    ml.data.archive(name, version="1")
    assert [d.version for d in ml.data.list(name)] == ["2"]
    ml.data.restore(name, version="1")
    assert sorted(d.version for d in ml.data.list(name)) == ["1", "2"]


def test_a_version_keeps_its_path(ml, unique, folder):
    name = unique("kept")
    first = ml.data.create_or_update(Data(name=name, version="1", path=str(folder), type=AssetTypes.URI_FOLDER))
    (folder / "a.txt").write_text("other\n")
    with pytest.raises(Exception, match="(?i)version|exist|immutable|changed"):
        ml.data.create_or_update(Data(name=name, version="1", path=str(folder), type=AssetTypes.URI_FOLDER))
    assert ml.data.get(name, "1").path == first.path


def test_a_place_on_a_datastore_needs_no_upload(ml, unique, traffic):
    asset = ml.data.create_or_update(Data(name=unique("place"), path="azureml://datastores/workspaceblobstore/paths/some/where/", type=AssetTypes.URI_FOLDER))
    assert asset.path.endswith("/datastores/workspaceblobstore/paths/some/where/")


def test_what_is_missing_is_named(ml, unique):
    with pytest.raises(ResourceNotFoundError, match="no-such-data"):
        ml.data.get("no-such-data", version="1")


def test_a_datastore_that_is_missing_is_named(ml, unique):
    with pytest.raises(HttpResponseError, match="nostore") as refused:
        ml.data.create_or_update(Data(name=unique("lost"), version="1", path="azureml://datastores/nostore/paths/x/", type=AssetTypes.URI_FOLDER))
    assert 400 <= refused.value.status_code < 500
