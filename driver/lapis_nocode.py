"""MLflow models without code of the user's: lapis_mlflow knows them, and here
is how they look to a worker."""

import os
import traceback

import lapis_azure
import lapis_collect
import lapis_headers
import lapis_log
import lapis_worker


class Application(object):
    def start(self):
        lapis_log.start()
        import lapis_mlflow

        try:
            self.model = lapis_mlflow.load(os.environ.get("LAPIS_GROUP_MODEL", ""))
        except BaseException as e:
            text = traceback.format_exc()
            lapis_log.logger("azmlinfsrv").error(text)
            raise lapis_worker.Failure("%s\n%s" % (lapis_azure.first_line(e, []), text))
        self.clock = lapis_log.Requests()

    def answer(self, method, target, headers, body):
        started = self.clock.now()
        fields = lapis_headers.fields(headers)
        try:
            status, pairs, reply = self.model.handle(method.decode("latin-1"), target.decode("latin-1"), fields, body)
        except BaseException:
            lapis_log.logger("azmlinfsrv").error(traceback.format_exc())
            status, pairs = 500, [("Content-Type", "application/json")]
            reply = b'{"message": "An unexpected internal error occurred. Check the logs for more info."}'
        head = lapis_headers.lines(pairs) + lapis_azure.trace_headers(headers)
        return status, head, bytes(reply), (started, method, target, status, len(reply), headers)

    def sent(self, log):
        self.clock.write(log)

    def stop(self):
        lapis_collect.stop()
