"""A worker: one process that scores, one request at a time.

It loads what it serves (an application), then accepts connections one after
the other and answers the frames that come. An application has

    start()                  loads; raises Failure with what to tell
    answer(method, target, headers, body) → (status, headers, body, log)
    sent(log)                after the reply has left; may be slow
    stop()                   before the process ends

where method and target are bytes, headers the bytes of header lines, body a
bytes; the status is a number, the headers lines again, and the body bytes or,
for a reply in pieces, an iterator of bytes.
"""

import atexit
import ctypes
import gc
import json
import os
import random
import signal
import socket
import struct
import sys
import threading
import time
import traceback

import lapis_frame as frame
from lapis_failure import Failure

PLACE_FRONT = struct.Struct("<QQ")
NUMBER = struct.Struct("<Q")
NO_DEADLINE = (1 << 64) - 1
BUFFER = 64 << 10  # bytes that are kept for requests
WHOLE = 32 << 10  # bytes of a body that are copied to leave in one piece with its head
PR_SET_PDEATHSIG = 1


class Ended(BaseException):
    """The worker was told to end while it waited for a connection."""


def main(instance, listener, channel, board, offset, parent):
    """Runs a worker in a process just forked and returns its exit code."""
    die_with(parent)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    become_own()
    w = Worker(instance, listener, channel, board, offset)
    signal.signal(signal.SIGTERM, w.told_to_end)
    os.register_at_fork(before=w.forks, after_in_parent=w.has_forked, after_in_child=w.forked)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # the group holds it while it forks
        app = application()
        app.start()
    except Failure as e:
        w.tell({"error": str(e), "fatal": e.fatal})
        return e.code
    except BaseException as e:
        traceback.print_exc()
        w.tell({"error": "%s: %s\n%s" % (type(e).__name__, e, traceback.format_exc()), "fatal": True})
        return 3
    gc.collect()
    w.loaded = True
    w.tell({"ready": True})
    try:
        w.serve(app)
    except Ended:
        pass
    except BaseException:
        traceback.print_exc()
        return 70
    finally:
        end(app)
    return 0


def become_own():
    """Ends what a fork shares with the others: the state of random numbers, and
    the main module, which is of no use to processes that the script spawns."""
    random.seed()
    numbers = sys.modules.get("numpy.random")
    if numbers is not None:
        numbers.seed()
    sys.modules["__main__"].__dict__.pop("__file__", None)


def application():
    if os.environ.get("LAPIS_GROUP_FLAVOR") == "mlflow":
        import lapis_nocode

        return lapis_nocode.Application()
    import lapis_azure

    return lapis_azure.Application()


def die_with(parent):
    """The worker ends when the group does, however that ends."""
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        pass
    if os.getppid() != parent:
        os._exit(0)


def end(app):
    """What an interpreter does at its end: what is registered runs, what is
    buffered is written."""
    for work in (app.stop, atexit._run_exitfuncs, sys.stdout.flush, sys.stderr.flush):
        try:
            work()
        except BaseException:
            pass


class Worker(object):
    def __init__(self, instance, listener, channel, board, offset):
        self.instance = instance
        self.listener = listener
        self.channel = channel
        self.board = board
        self.offset = offset
        self.conn = None
        self.connections = 0
        self.ending = False
        self.loaded = False
        self.accepting = False
        self.held = threading.local()

    def told_to_end(self, *_):
        if not self.loaded:
            os._exit(0)
        self.ending = True
        if self.accepting:
            raise Ended
        conn = self.conn
        if conn is not None:
            try:
                conn.shutdown(socket.SHUT_RD)  # what waits in it is still read
            except OSError:
                pass

    def forks(self):
        """Before the script forks: Python forgets signals that come to the new
        process before it knows that it is one, so they have to wait."""
        self.held.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def has_forked(self):
        signal.pthread_sigmask(signal.SIG_SETMASK, self.held.mask)

    def forked(self):
        """In a process that the script forks: what ends it does not end this one."""
        if signal.getsignal(signal.SIGTERM) == self.told_to_end:
            try:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
            except ValueError:
                pass  # not the main thread
        self.has_forked()

    def tell(self, what):
        try:
            self.channel.send(json.dumps(what).encode()[:60000])
        except OSError:
            pass

    def introduce(self, conn):
        """Gives the group the connection too, so that it sees it close while
        this process works."""
        self.connections += 1
        NUMBER.pack_into(self.board, self.offset + 16, self.connections)
        fds = struct.pack("i", conn.fileno())
        self.channel.sendmsg([b"c" + NUMBER.pack(self.connections)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])

    def serve(self, app):
        hello = frame.hello(self.instance, os.getpid())
        while not self.ending:
            self.accepting = True
            conn, _ = self.listener.accept()
            self.accepting = False
            self.conn = conn
            try:
                if self.ending:  # told so between the two lines before
                    conn.shutdown(socket.SHUT_RD)
                self.introduce(conn)
                conn.sendall(hello)
                self.converse(conn, app)
            except frame.Malformed as e:
                try:
                    conn.sendall(frame.frame(frame.BROKEN, str(e).encode()))
                except OSError:
                    pass
            except OSError:
                pass
            finally:
                self.conn = None
                NUMBER.pack_into(self.board, self.offset + 16, 0)
                PLACE_FRONT.pack_into(self.board, self.offset, 0, self.begun)
                try:
                    conn.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                conn.close()

    begun = 0  # requests

    def converse(self, conn, app):
        board, offset = self.board, self.offset
        place = PLACE_FRONT.pack_into
        clock = time.monotonic_ns
        parse = frame.parse_request
        kept = bytearray(BUFFER)
        view = memoryview(kept)
        recv_into = conn.recv_into
        have = 0
        while True:
            # A frame, into the buffer that is kept if it fits.
            while have < 5:
                n = recv_into(view[have:])
                if not n:
                    return
                have += n
            size = int.from_bytes(kept[:4], "little") + 4
            if size < 5 or size > frame.MAX_SIZE:
                raise frame.Malformed("a frame of %d bytes" % (size - 4))
            if size <= BUFFER:
                while have < size:
                    n = recv_into(view[have:])
                    if not n:
                        return
                    have += n
                payload = bytes(view[5:size])
                left = have - size
            else:
                payload = read_large(conn, view[5:have], size - 5)
                if payload is None:
                    return
                left = 0
            if kept[4] != 113:
                raise frame.Malformed("kind %d where a request belongs" % kept[4])
            timeout, method, target, headers, body = parse(payload)
            payload = None

            self.begun += 1
            place(board, offset, clock() + timeout * 1000000 if timeout else NO_DEADLINE, self.begun)
            if board[0]:
                self.channel.send(b"w")
            status, headers, body, log = app.answer(method, target, headers, body)
            if type(body) is bytes:
                # First it is free, then the reply leaves: who has read the
                # reply may hang up, and that is no reason to end this process.
                place(board, offset, 0, self.begun)
                n = len(body)
                if n <= WHOLE:
                    conn.sendall(frame.reply_head(115, status, headers, n) + body)
                else:
                    send_parts(conn, frame.reply_head(115, status, headers, n), body)
            else:
                self.stream(conn, status, headers, body)
                place(board, offset, 0, self.begun)
                conn.sendall(frame.frame(frame.END))
            body = None
            app.sent(log)
            if left:
                view[:left] = bytes(view[size:have])
            have = left
            if self.ending and not have:
                return

    def stream(self, conn, status, headers, pieces):
        """A reply in pieces, each sent as soon as it is there; without its end."""
        conn.sendall(frame.reply_head(frame.BEGIN, status, headers, 0))
        try:
            try:
                for piece in pieces:
                    if piece:
                        send_parts(conn, frame.frame_head(frame.DATA, len(piece)), piece)
            finally:
                close = getattr(pieces, "close", None)
                if close is not None:
                    close()
        except OSError:
            raise
        except Exception as e:
            traceback.print_exc()
            conn.sendall(frame.frame(frame.BROKEN, ("%s: %s" % (type(e).__name__, e)).encode("utf-8", "replace")))
            raise OSError("the reply broke off")


def send_parts(conn, head, body):
    sent = conn.sendmsg([head, body])
    if sent < len(head):
        conn.sendall(head[sent:])
        sent = len(head)
    rest = sent - len(head)
    if rest < len(body):
        conn.sendall(memoryview(body)[rest:])


def read_large(conn, have, size):
    """A payload of size bytes of which some are there already; None when the
    stream ends before. Memory grows with what arrives, not with what is
    promised."""
    parts, got = [bytes(have)], len(have)
    while got < size:
        part = bytearray(min(size - got, max(1 << 20, got)))
        view, n = memoryview(part), 0
        while n < len(part):
            m = conn.recv_into(view[n:])
            if not m:
                return None
            n += m
        got += n
        parts.append(part)
    return b"".join(parts)
