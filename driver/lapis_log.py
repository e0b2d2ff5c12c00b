"""The log of a worker, line by line as the Azure inference server writes it."""

import builtins
import functools
import json
import logging
import logging.config
import os
import sys
import time

import lapis_headers

FORMAT = "%(asctime)s %(levelname).1s [%(process)d] %(name)s - %(message)s"
logger = logging.getLogger
_print = builtins.print


class Formatter(logging.Formatter):
    converter = time.gmtime

    def __init__(self, fmt=FORMAT, datefmt=None, style="%"):
        super(Formatter, self).__init__(fmt, datefmt, style)


def handler(stream):
    h = logging.StreamHandler(stream)
    h.setLevel(logging.INFO)
    h.setFormatter(Formatter())
    return h


class NoProbes(logging.Filter):
    def filter(self, record):
        return "GET / HTTP/1.1" not in record.getMessage()


def start():
    """Sets the server's loggers up. The root logger is as one of the libraries
    of the real server leaves it: to standard error, warnings and worse, and
    a basicConfig() of the script changes nothing."""
    logging.basicConfig()
    out = handler(sys.stdout)
    own = logger("azmlinfsrv")
    own.setLevel(logging.INFO)
    own.handlers[:] = [out]
    own.propagate = False
    access = logger("gunicorn.access")
    access.setLevel(logging.INFO)
    access.handlers[:] = [out]
    access.propagate = False
    access.filters[:] = [NoProbes()]
    errors = logger("gunicorn.error")
    errors.setLevel(logging.INFO)
    errors.handlers[:] = [handler(sys.stderr)]
    errors.propagate = False


def load(folder):
    """Takes the set-up of loggers from logging.json in a folder, if it is there."""
    path = os.path.join(folder, "logging.json") if folder else ""
    if not os.path.isfile(path):
        return False
    with open(path) as f:
        logging.config.dictConfig(json.load(f))
    logger("azmlinfsrv").info("Loaded logging config from %s", path)
    return True


def take_print():
    """print() without a file, or to standard output, becomes a line of the log."""
    log = logger("azmlinfsrv.print")

    @functools.wraps(_print)
    def to_log(*objects, sep=" ", end="\n", file=None, flush=False):
        file = file or sys.stdout
        if file is sys.stdout:
            log.info(sep.join(map(str, objects)))
        else:
            _print(*objects, sep=sep, end=end, file=file, flush=flush)

    builtins.print = to_log


class Requests(object):
    """Writes the two lines of each request: the server's and the access log's.

    Both go out in one write, past the logging module, as long as nobody has
    changed the loggers they belong to."""

    def __init__(self):
        self.own = logger("azmlinfsrv")
        self.access = logger("gunicorn.access")
        self.own_handlers = list(self.own.handlers)
        self.access_handlers = list(self.access.handlers)
        self.pid = os.getpid()
        self.second = -1
        self.stamp = self.day = ""
        h = self.own_handlers[0] if len(self.own_handlers) == 1 else None
        self.plain = (
            h is not None
            and isinstance(h.formatter, Formatter)
            and self.access_handlers == self.own_handlers
            and getattr(h, "stream", None) is sys.stdout
        )

    def write(self, log):
        """log is (seconds, method, target, status, size, headers); size is None
        for a reply in pieces, seconds None when only the access line is due,
        headers None when the request failed outside of the application."""
        took, method, target, status, size, headers = log
        method = method.decode("latin-1")
        target = target.decode("latin-1")
        told = "N/A" if size is None else size
        agent = headers and lapis_headers.find(headers, b"User-Agent")
        agent = agent.decode("latin-1") if agent else "-"
        referer = headers and lapis_headers.find(headers, b"Referer")
        referer = referer.decode("latin-1") if referer else "-"
        sent = "-" if size is None else 0 if method == "HEAD" else size
        t = time.time()
        second = int(t)
        if second != self.second:
            self.second = second
            g = time.gmtime(second)
            self.stamp = time.strftime("%Y-%m-%d %H:%M:%S", g)
            self.day = time.strftime("%d/%b/%Y:%H:%M:%S +0000", g)
        own, access = self.own, self.access
        probe = target == "/" and method == "GET"
        if (
            self.plain
            and own.level == 20
            and access.level == 20
            and own.handlers == self.own_handlers
            and access.handlers == self.access_handlers
            and not logging.root.manager.disable
        ):
            head = "%s,%03d I [%d] " % (self.stamp, (t - second) * 1000, self.pid)
            text = ""
            if took is not None:
                text = "%sazmlinfsrv - %s %s %d %.3fms %s\n" % (head, method, target, status, took * 1e3, told)
            if not probe:
                text += '%sgunicorn.access - 127.0.0.1 - - [%s] "%s %s HTTP/1.1" %d %s "%s" "%s"\n' % (
                    head, self.day, method, target, status, sent, referer, agent,
                )  # fmt: skip
            if text:
                try:
                    sys.stdout.write(text)
                    sys.stdout.flush()
                except (OSError, ValueError):
                    pass
            return
        if took is not None:
            own.info("%s %s %d %.3fms %s", method, target, status, took * 1e3, told)
        access.info(
            '127.0.0.1 - - [%s] "%s %s HTTP/1.1" %d %s "%s" "%s"',
            self.day, method, target, status, sent, referer, agent,
        )  # fmt: skip
