"""Prints the milliseconds that the first 50 jobs take the SDK to list, ten times."""
import itertools
import os
import time

from azure.ai.ml import MLClient
from azure.identity import DefaultAzureCredential

ml = MLClient(DefaultAzureCredential(), os.environ["AZUREML_ARM_SUBSCRIPTION"], os.environ["AZUREML_ARM_RESOURCEGROUP"], os.environ["AZUREML_ARM_WORKSPACE_NAME"])
for _ in range(11):
    began = time.perf_counter()
    assert len(list(itertools.islice(ml.jobs.list(), 50))) == 50
    print(round(1000 * (time.perf_counter() - began)))
