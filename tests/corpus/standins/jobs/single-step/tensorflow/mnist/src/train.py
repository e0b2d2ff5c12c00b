import numpy
import tensorflow as tf

images = numpy.random.default_rng(0).random((64, 28, 28), dtype="float32")
digits = numpy.arange(64) % 10
model = tf.keras.Sequential([tf.keras.layers.Flatten(), tf.keras.layers.Dense(10)])
model.compile("sgd", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(images, digits, epochs=1, verbose=2)
