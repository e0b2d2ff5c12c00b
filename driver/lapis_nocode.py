"""MLflow models without code of the user's: lapis_mlflow knows them, and here
is how they look to a worker, with what the Azure inference server puts around
each reply."""

import logging
import os
import sys
import time
import traceback

import lapis_azure
import lapis_headers
import lapis_log
import lapis_settings
from lapis_failure import Failure

logger = logging.getLogger("azmlinfsrv")


class Application(lapis_azure.Application):
    def start(self):
        lapis_log.start()
        logging.getLogger("gunicorn.error").info("Booting worker with pid: %d", os.getpid())
        print("Initializing logger")
        sys.stdout.flush()
        lapis_log.take_print()
        self.settings = lapis_settings.Settings()
        self.origins = [o.strip() for o in (self.settings.cors_origins or "").split(",") if o.strip()]
        import lapis_mlflow

        platform = os.environ.get("LAPIS_PLATFORM_PACKAGES")
        if platform:
            sys.path.append(platform)
        folder = os.environ.get("LAPIS_GROUP_MODEL", "")
        logger.info("Loading the MLflow model in %s", folder)
        try:
            self.model = lapis_mlflow.load(folder)
        except BaseException as e:
            text = traceback.format_exc()
            logger.error(text)
            raise Failure("%s\n%s" % (lapis_azure.first_line(e, []), text))
        self.read_version()
        self.log = lapis_log.Requests()
        logger.info("Worker with pid %d ready for serving traffic", os.getpid())

    def answer(self, method, target, headers, body):
        started = time.perf_counter()
        trace = self.trace(headers)
        if type(trace) is tuple:
            trace, message = trace
            status, head, reply = lapis_azure.error(431, message)
        else:
            fields = lapis_headers.fields(headers)
            try:
                status, pairs, reply = self.model.handle(
                    method.decode("latin-1"), target.decode("latin-1"), fields, body
                )
                head, reply = lapis_headers.lines(pairs), bytes(reply)
            except BaseException:
                logger.error("Encountered Exception: %s", traceback.format_exc())
                status, head, reply = lapis_azure.error(500, lapis_azure.INTERNAL)
        if self.origins:
            head += self.cors(method, headers)
        size = len(reply)
        if method == b"HEAD":
            reply = b""
        took = time.perf_counter() - started
        return status, head + trace, reply, (took, method, target, status, size, headers)
