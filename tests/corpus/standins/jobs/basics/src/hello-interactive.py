import pathlib

import tensorflow as tf

logs = pathlib.Path("outputs/tblogs")
logs.mkdir(parents=True, exist_ok=True)
with tf.summary.create_file_writer(str(logs)).as_default():
    for step in range(5):
        tf.summary.scalar("loss", 1 / (step + 1), step=step)
print("ready", flush=True)
