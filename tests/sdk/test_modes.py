"""How data comes to a job and goes from it: every mode gives the same, and what
is mounted to be written is written."""

import functools
import http.server
import threading

import pytest
from azure.ai.ml import Input, Output, command
from azure.ai.ml.constants import AssetTypes
from azure.ai.ml.entities import Data, Environment
from azure.core.exceptions import HttpResponseError
import azure.ai.ml._artifacts._artifact_utilities as artifacts

from conftest import PLAIN, SDK

# Older SDKs cannot send it of an input.
writable = pytest.mark.skipif(SDK < (1, 20), reason="this SDK does not know rw_mount of inputs")
MODES = ["ro_mount", pytest.param("rw_mount", marks=writable), "download"]


@pytest.fixture
def submit(ml):
    def send(line, **settings):
        return ml.jobs.create_or_update(command(command=line, environment=Environment(image=PLAIN), **settings))

    return send


def files(ml, uri, to):
    """What lies at an address: contents by name."""
    artifacts.download_artifact_from_aml_uri(uri=uri, destination=str(to), datastore_operation=ml.datastores)
    return {str(p.relative_to(to)): p.read_text() for p in to.rglob("*") if p.is_file()}


@pytest.fixture
def stored(ml, unique, tmp_path):
    """A folder in the default datastore: its address."""
    root = tmp_path / "stored"
    (root / "deep").mkdir(parents=True)
    (root / "a.txt").write_text("one\n")
    (root / "b.txt").write_text("two\n")
    (root / "deep" / "c.txt").write_text("three\n")
    (root / "mark").write_text(unique("mark"))  # a folder of its own in the store
    return ml.data.create_or_update(Data(name=unique("stored"), path=str(root), type=AssetTypes.URI_FOLDER)).path


@pytest.fixture
def web(tmp_path):
    """The address of a web server with one file."""
    root = tmp_path / "web"
    root.mkdir()
    (root / "iris.csv").write_text("from the web\n")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("mode", MODES)
def test_a_folder_and_a_file_are_read_the_same_in_every_mode(submit, printed, stored, mode):
    job = submit(
        "cat ${{inputs.d}}/a.txt ${{inputs.d}}/deep/c.txt ${{inputs.f}}; basename ${{inputs.f}}",
        inputs={
            "d": Input(type=AssetTypes.URI_FOLDER, path=stored, mode=mode),
            "f": Input(type=AssetTypes.URI_FILE, path=stored.rstrip("/") + "/b.txt", mode=mode),
        },
    )
    assert printed(job).endswith("one\nthree\ntwo\nb.txt\n")


@writable
def test_what_a_job_does_to_a_writable_mount_is_done_to_the_datastore(ml, submit, finish, stored, tmp_path):
    job = submit(
        "cd ${{inputs.d}} && echo more >> a.txt && rm b.txt && mv deep/c.txt deep/d.txt && mkdir new && echo n > new/n.txt && exit 1",
        inputs={"d": Input(type=AssetTypes.URI_FOLDER, path=stored, mode="rw_mount")},
    )
    assert finish(job).status == "Failed"  # what it wrote until then is there all the same
    left = files(ml, stored, tmp_path / "left")
    del left["mark"]
    assert left == {"a.txt": "one\nmore\n", "deep/d.txt": "three\n", "new/n.txt": "n\n"}


@writable
def test_a_file_that_is_mounted_to_be_written_is_replaced(ml, submit, printed, stored, tmp_path):
    address = stored.rstrip("/") + "/a.txt"
    printed(submit("echo after > ${{inputs.f}}", inputs={"f": Input(type=AssetTypes.URI_FILE, path=address, mode="rw_mount")}))
    left = files(ml, stored, tmp_path / "left")
    assert left["a.txt"] == "after\n" and left["b.txt"] == "two\n"


@pytest.mark.parametrize("mode", ["ro_mount", "download"])
def test_what_a_job_does_to_other_inputs_stays_in_the_job(ml, submit, printed, stored, tmp_path, mode):
    printed(submit("cd ${{inputs.d}}; chmod -R u+w .; rm -f a.txt; echo x > x.txt; true", inputs={"d": Input(type=AssetTypes.URI_FOLDER, path=stored, mode=mode)}))
    assert sorted(files(ml, stored, tmp_path / "left")) == ["a.txt", "b.txt", "deep/c.txt", "mark"]


@writable
def test_a_writable_mount_may_be_of_a_folder_that_is_not_there_yet(ml, submit, printed, unique, tmp_path):
    address = f"azureml://datastores/workspaceblobstore/paths/{unique('fresh')}/"
    printed(submit("echo first > ${{inputs.d}}/first.txt", inputs={"d": Input(type=AssetTypes.URI_FOLDER, path=address, mode="rw_mount")}))
    assert files(ml, address, tmp_path / "left") == {"first.txt": "first\n"}


@pytest.mark.parametrize("mode", ["ro_mount", "download", "direct"])
def test_a_file_on_the_web_is_read(submit, printed, web, mode):
    line = "echo ${{inputs.f}}" if mode == "direct" else "cat ${{inputs.f}}; basename ${{inputs.f}}"
    job = submit(line, inputs={"f": Input(type=AssetTypes.URI_FILE, path=f"{web}/iris.csv", mode=mode)})
    assert printed(job).endswith(f"{web}/iris.csv\n" if mode == "direct" else "from the web\niris.csv\n")


def test_a_web_address_as_a_folder_holds_that_file(submit, printed, web):
    job = submit("cd ${{inputs.d}}; ls; cat iris.csv", inputs={"d": Input(type=AssetTypes.URI_FOLDER, path=f"{web}/iris.csv")})
    assert printed(job).endswith("iris.csv\nfrom the web\n")


@pytest.mark.parametrize(
    "kind, path, mode, words",
    [
        pytest.param(AssetTypes.URI_FILE, "{web}/iris.csv", "rw_mount", "ReadWriteMount", marks=writable),
        (AssetTypes.URI_FOLDER, "{web}/", "ro_mount", "one file"),
    ],
)
def test_what_the_web_cannot_give_is_refused(submit, web, kind, path, mode, words):
    with pytest.raises(HttpResponseError, match=words):
        submit("true", inputs={"x": Input(type=kind, path=path.format(web=web), mode=mode)})


@pytest.mark.parametrize("form", ["wasbs://{c}@{a}.blob.core.windows.net/{p}", "abfss://{c}@{a}.dfs.core.windows.net/{p}", "wasbs://{c}@{a}.blob.core.lapis/{p}"])
def test_the_default_store_is_reached_by_its_account(ml, submit, printed, stored, unique, form):
    store = ml.datastores.get("workspaceblobstore")
    path = stored.split("/paths/")[1]
    address = form.format(c=store.container_name, a=store.account_name, p=path)
    ml.data.create_or_update(Data(name=(name := unique("account")), version="1", path=address, type=AssetTypes.URI_FOLDER))
    job = submit(
        "cat ${{inputs.d}}/a.txt ${{inputs.e}}/b.txt",
        inputs={"d": Input(type=AssetTypes.URI_FOLDER, path=address), "e": Input(type=AssetTypes.URI_FOLDER, path=f"azureml:{name}:1")},
    )
    assert printed(job).endswith("one\ntwo\n")


@pytest.mark.parametrize("mode", ["rw_mount", "upload"])
@pytest.mark.parametrize("kind", [AssetTypes.URI_FOLDER, AssetTypes.URI_FILE])
def test_an_output_arrives_the_same_in_every_mode(ml, submit, printed, unique, tmp_path, kind, mode):
    folder = kind == AssetTypes.URI_FOLDER
    address = f"azureml://datastores/workspaceblobstore/paths/{unique('out')}/" + ("" if folder else "o.txt")
    printed(submit("echo made > ${{outputs.o}}" + ("/o.txt" if folder else ""), outputs={"o": Output(type=kind, path=address, mode=mode)}))
    assert files(ml, address.rsplit("/", 1)[0] + "/", tmp_path / "left") == {"o.txt": "made\n"}
