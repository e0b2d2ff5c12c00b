"""Uploads to and downloads from containers whose names begin other addresses of the server."""
import os
import pathlib

from azure.ai.ml import MLClient
from azure.ai.ml._artifacts._artifact_utilities import download_artifact_from_aml_uri
from azure.ai.ml.entities import AccountKeyConfiguration, AzureBlobDatastore, Data
from azure.identity import DefaultAzureCredential

client = MLClient(
    DefaultAzureCredential(),
    os.environ["AZUREML_ARM_SUBSCRIPTION"],
    os.environ["AZUREML_ARM_RESOURCEGROUP"],
    os.environ["AZUREML_ARM_WORKSPACE_NAME"],
)
table = pathlib.Path("table.csv")
table.write_text("a,b\n1,2\n")
for container in ("data", "api", "models"):
    client.datastores.create_or_update(
        AzureBlobDatastore(
            name="my" + container,
            account_name="account",
            container_name=container,
            credentials=AccountKeyConfiguration(account_key="a2V5"),
        )
    )
    asset = client.data.create_or_update(Data(name="in-" + container, path=str(table), type="uri_file", datastore="my" + container))
    download_artifact_from_aml_uri(asset.path, "from-" + container, client.datastores)
    assert (pathlib.Path("from-" + container) / "table.csv").read_text() == table.read_text()

print("all is well")
