"""What people write themselves: Flask under gunicorn."""

import os

import flask
import joblib

app = flask.Flask(__name__)
model = joblib.load(os.environ["MODEL"])


@app.post("/noop")
def noop():
    return flask.jsonify([])


@app.post("/score")
def score():
    return flask.jsonify(model.predict(flask.request.get_json()["data"]).tolist())
