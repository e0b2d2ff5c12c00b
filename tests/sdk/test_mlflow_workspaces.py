"""MLflow's own workspaces, by the unmodified client, on a server of their own:
they are off until one is made."""

from conftest import python

STORY = """
import mlflow, os, pathlib, tempfile
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

def refused(code, do):
    try:
        do()
    except MlflowException as err:
        assert err.error_code == code, (err.error_code, str(err))
        return
    raise SystemExit("not refused with " + code)

# Off: the client knows, and ordinary calls work.
refused("FEATURE_DISABLED", mlflow.list_workspaces)
mlflow.set_experiment("shared")

assert mlflow.create_workspace("team-a", description="first").name == "team-a"
mlflow.create_workspace("team-b")
assert [w.name for w in mlflow.list_workspaces()] == ["default", "team-a", "team-b"]
assert mlflow.get_workspace("team-a").description == "first"
assert mlflow.update_workspace("team-a", description="other").description == "other"
refused("RESOURCE_ALREADY_EXISTS", lambda: mlflow.create_workspace("team-a"))
refused("RESOURCE_DOES_NOT_EXIST", lambda: mlflow.get_workspace("nobody"))

runs = {}
for name in ["team-a", "team-b"]:
    mlflow.set_workspace(name)
    mlflow.set_experiment("shared")
    with mlflow.start_run() as run:
        mlflow.log_metric("m", 1)
        mlflow.log_text(name, "note.txt")
        runs[name] = run.info.run_id
    assert "/workspaces/" + name + "/" in run.info.artifact_uri, run.info.artifact_uri
    assert mlflow.artifacts.load_text(run.info.artifact_uri + "/note.txt") == name
    client = MlflowClient()
    client.create_registered_model("model")
    version = client.create_model_version("model", "runs:/" + runs[name] + "/note.txt", runs[name])
    assert version.version == "1"
    client.set_registered_model_alias("model", "best", "1")
    assert client.get_model_version_by_alias("model", "best").run_id == runs[name]
    assert [e.name for e in client.search_experiments(filter_string="name = 'shared'")] == ["shared"]

refused("RESOURCE_DOES_NOT_EXIST", lambda: MlflowClient().get_run(runs["team-a"]))
mlflow.set_workspace("default")
refused("RESOURCE_DOES_NOT_EXIST", lambda: MlflowClient().get_run(runs["team-a"]))
assert list(MlflowClient().search_registered_models()) == []
refused("INVALID_STATE", lambda: mlflow.delete_workspace("team-a"))
mlflow.delete_workspace("team-a", mode="CASCADE")
assert [w.name for w in mlflow.list_workspaces()] == ["default", "team-b"]
mlflow.set_workspace("nobody")
refused("RESOURCE_DOES_NOT_EXIST", lambda: MlflowClient().search_experiments())
print("done")
"""


def test_the_client_makes_and_uses_workspaces(server):
    client = python(STORY, server.environ())
    out, _ = client.communicate(timeout=300)
    assert client.returncode == 0 and out.endswith("done\n"), out
