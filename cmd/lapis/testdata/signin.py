"""Signs in as scripts in the wild do, with nothing but the environment."""
import os
import ssl
import urllib.request

import requests
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import ClientSecretCredential, DefaultAzureCredential, ManagedIdentityCredential

base = os.environ["ARM_CLOUD_METADATA_URL"].split("/metadata/")[0]
path = "/subscriptions?api-version=2022-12-01"

credential = DefaultAzureCredential()
for scope in (base, base + "/", "https://ml.azure.com", "https://management.azure.com", "https://ml.azure.lapis.localhost"):
    token = credential.get_token(scope + "/.default").token
    reply = requests.get(base + path, headers={"Authorization": "Bearer " + token})
    assert reply.status_code == 200, (scope, reply.text)
    assert os.environ["AZUREML_ARM_SUBSCRIPTION"] in reply.text, reply.text

# plain HTTP on loopback, with the long-lived token
reply = requests.get(os.environ["MLFLOW_TRACKING_URI"] + path, headers={"Authorization": "Bearer " + os.environ["MLFLOW_TRACKING_TOKEN"]})
assert reply.status_code == 200, reply.text

# the strictest check of certificates that Python has
context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
for host in ("localhost", "127.0.0.1"):
    url = base.replace("localhost", host) + "/healthz"
    assert urllib.request.urlopen(url, context=context).status == 200

try:
    ClientSecretCredential(os.environ["AZURE_TENANT_ID"], os.environ["AZURE_CLIENT_ID"], "wrong").get_token(base + "/.default")
    raise AssertionError("a wrong secret was taken")
except ClientAuthenticationError as e:
    assert "AADSTS7000215" in str(e), e

# as code in a job does
os.environ["IDENTITY_ENDPOINT"] = base + "/msi/token"
os.environ["IDENTITY_HEADER"] = os.environ["MLFLOW_TRACKING_TOKEN"]
token = ManagedIdentityCredential().get_token(base + "/.default").token
assert requests.get(base + path, headers={"Authorization": "Bearer " + token}).status_code == 200

from azure.ai.ml import MLClient  # noqa: E402  after the cheap checks: it takes seconds to load
from azure.core.exceptions import ResourceNotFoundError  # noqa: E402

client = MLClient(credential, os.environ["AZUREML_ARM_SUBSCRIPTION"], os.environ["AZUREML_ARM_RESOURCEGROUP"], "no-such-workspace")
try:
    client.workspaces.get("no-such-workspace")
    raise AssertionError("a workspace that is not there was found")
except ResourceNotFoundError:
    pass  # asked us, and nobody else

print("all is well")
