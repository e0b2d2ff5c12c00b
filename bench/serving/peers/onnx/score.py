import json
import os

import numpy as np
import onnxruntime


def init():
    global session
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(os.path.join(os.environ["AZUREML_MODEL_DIR"], "forest.onnx"), options)


def run(data):
    rows = np.asarray(json.loads(data)["data"], dtype=np.float32)
    return session.run(None, {session.get_inputs()[0].name: rows})[0].tolist()
