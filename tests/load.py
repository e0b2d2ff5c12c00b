"""Requests to an endpoint, as many callers send them, until the test has seen enough."""

import collections
import threading
import time

import requests


class Load:
    """Requests, one after the other on each of some connections, until the end.

    post sends one on the session it is given. What the deployments say in their
    answers is counted in said, the statuses in replies; the others are in failed.
    """

    def __init__(self, post, clients):
        self.post, self.stop, self.failed = post, threading.Event(), []
        self.replies, self.said = collections.Counter(), collections.Counter()
        self.threads = [threading.Thread(target=self.run) for _ in range(clients)]

    def run(self):
        with requests.Session() as session:
            session.trust_env = False
            while not self.stop.is_set():
                try:
                    reply = self.post(session)
                    self.replies[reply.status_code] += 1
                    if reply.status_code == 200:
                        self.said[reply.json()["says"]] += 1
                    else:
                        self.failed.append(f"{reply.status_code} {reply.headers.get('x-aml-reason')} {reply.text[:200]}")
                except requests.RequestException as e:
                    self.failed.append(repr(e))
                time.sleep(0.005)

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for t in self.threads:
            t.join()

    def more(self, says, n=50):
        """Waits for that many more answers that say so."""
        want, deadline = self.said[says] + n, time.monotonic() + 60
        while self.said[says] < want:
            assert time.monotonic() < deadline, (self.said, self.failed[:3])
            time.sleep(0.02)
