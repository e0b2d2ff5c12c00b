"""The group: the parent of all processes that score for one generation of a
deployment.

It listens for its orders on control.sock, keeps the instances up that it was
told to, and watches the deadlines of what they work on. An instance is a
listening socket and as many worker processes as it works on requests at once;
each worker serves one connection at a time.

Workers are forked from this process, which has imported what the script
imports and never runs a line of the user's: a fork is there in milliseconds.
This process has one thread, so a fork takes no lock with it.
"""

import errno
import gc
import json
import mmap
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import warnings

import lapis_azure  # noqa: F401  each worker finds it imported
import lapis_cage
import lapis_collect
import lapis_frame as frame
import lapis_settings
import lapis_warm
import lapis_worker

TICK = 0.02  # seconds between two looks at the deadlines while there is work
GRACE = 10_000_000  # ns past its deadline in which a reply may still come
AWAKE = 50  # ticks without work before the group sleeps
STEADY = 60.0  # seconds of readiness after which restarts are forgotten
LIVED = 1.0  # seconds of readiness after which a worker that ends is replaced at once
LONGEST_PAUSE = 30.0  # seconds between two starts of what keeps failing
MAX_INSTANCES = 1000
MAX_WORKERS = 1000  # of an instance
MAX_ORDER = 1 << 20  # bytes of a frame with an order
MAX_UNREAD = 16 << 20  # bytes of answers that nobody reads
MAX_ERROR = 8 << 10  # bytes of an error that are told

# The board is memory that parent and workers share. Its first byte says that
# the group sleeps and wants to be told of work; then each worker has a place:
# when the request that it works on must end (monotonic ns, 0: it works on
# none), how many it has begun, and the number of the connection it serves.
PLACE = struct.Struct("<QQQ")
PLACE_SIZE = 32
FIRST_PLACE = 64
WORKER = "worker"  # argument of a process that is spawned to be one
NO_DEADLINE = (1 << 64) - 1


def say(text):
    """One line into the log, of the group itself."""
    try:
        os.write(2, ("lapis: %s\n" % text).encode("utf-8", "replace"))
    except OSError:
        pass


def now():
    t = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(t)) + ".%03dZ" % (t % 1 * 1000)


class Place(object):
    """A worker of an instance: the place stays, the process in it changes."""

    __slots__ = ("instance", "offset", "pid", "channel", "peer", "peer_number", "gone", "ready", "told", "reason", "failures", "start_at", "ready_since")

    def __init__(self, instance, offset):
        self.instance = instance
        self.offset = offset  # on the board
        self.pid = 0
        self.channel = None
        self.peer = None  # its connection, to see it close
        self.peer_number = 0
        self.gone = False  # the peer closed; the worker has not said so yet
        self.ready = False
        self.told = False  # why it fails
        self.reason = ""  # why the group killed it
        self.failures = 0  # in a row
        self.start_at = 0.0  # monotonic s; 0: not waiting to be started
        self.ready_since = 0.0


class Instance(object):
    def __init__(self, number, path, listener, cage):
        self.number = number
        self.cage = cage
        self.killed = ""  # why it was killed for the memory it used
        self.killed_at = ""
        self.path = path
        self.listener = listener
        self.places = []
        self.state = "Starting"
        self.since = now()
        self.restarts = 0
        self.error = ""
        self.fatal = False
        self.kill_at = 0.0  # of one that stops

    def enter(self, state):
        if self.state != state:
            self.state, self.since = state, now()

    def describe(self):
        pids = [p.pid for p in self.places if p.pid]
        d = {
            "number": self.number,
            "network": "unix",
            "address": self.path,
            "state": self.state,
            "pid": pids[0] if pids else 0,
            "since": self.since,
            "restarts": self.restarts,
        }
        if self.killed:
            d["killed"], d["killedAt"] = self.killed, self.killed_at
        if self.error:
            d["error"] = self.error
        if self.fatal:
            d["fatal"] = True
        return d


class Order(object):
    """A connection to control.sock."""

    def __init__(self, conn):
        self.conn = conn
        self.unread = bytearray()
        self.unsent = bytearray()


class Group(object):
    def __init__(self, env):
        self.folder = env["LAPIS_GROUP_DIR"]
        self.name = env.get("LAPIS_GROUP", "")
        self.workers = min(MAX_WORKERS, max(1, int(env.get("LAPIS_GROUP_WORKERS") or 1)))
        self.grace = max(0, int(env.get("LAPIS_GROUP_GRACE_MS") or 10000)) / 1000.0
        self.wanted = min(MAX_INSTANCES, max(0, int(env.get("LAPIS_GROUP_COUNT") or 1)))
        self.cages = lapis_cage.groups(env)
        self.memory = env.pop("LAPIS_GROUP_MEMORY", "") or "The instance used more memory than it may, and was killed"
        self.instances = {}
        self.warm = False  # what workers will need is imported
        self.forks = True  # else each worker is a process that imports by itself
        self.stopping = False
        self.board_fd = shared(FIRST_PLACE + PLACE_SIZE * MAX_INSTANCES * self.workers)
        self.board = mmap.mmap(self.board_fd, 0)
        self.offsets = []
        self.next_offset = FIRST_PLACE
        self.poll = select.poll()
        self.watched = {}  # fd → (what it is, whose)
        self.idle_ticks = 0
        self.counts = {}  # place's offset → requests begun at the last tick
        self.pids = {}

    # -- life

    def run(self):
        self.wake_r, self.wake_w = os.pipe()
        for fd in (self.wake_r, self.wake_w):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self.wake_w, warn_on_full_buffer=False)
        for s in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
            signal.signal(s, lambda *_: None)
        self.watch(self.wake_r, select.POLLIN, "signal", None)
        self.control = self.listen(os.path.join(self.folder, "control.sock"))
        self.watch(self.control.fileno(), select.POLLIN, "control", None)

        # Orders are taken between two imports; nothing is forked before the last.
        self.scale()
        for _ in lapis_warm.imports():
            self.events(0)
        gc.collect()
        gc.freeze()
        self.warm = True
        self.forks = lapis_warm.forks_well()
        for i in list(self.instances.values()):
            for p in i.places:
                self.launch(p)
        while not (self.stopping and not self.instances):
            self.step()
        self.control.close()
        unlink(os.path.join(self.folder, "control.sock"))

    def step(self):
        self.events(self.pause())
        self.reap()
        self.tick()

    def events(self, wait):
        for fd, event in self.poll.poll(wait):
            what, whose = self.watched.get(fd, (None, None))
            if what == "signal":
                self.signalled()
            elif what == "control":
                self.accept()
            elif what == "order":
                self.serve(whose, event)
            elif what == "channel":
                self.hear(whose)
            elif what == "peer":
                self.peer_closed(whose)

    def pause(self):
        """Milliseconds until the group must look again; None: until something
        happens."""
        if not self.board[0]:
            return TICK * 1000
        soonest = None
        for i in self.instances.values():
            for at in [i.kill_at] + [p.start_at for p in i.places]:
                if at and (soonest is None or at < soonest):
                    soonest = at
        if soonest is None:
            return None
        return max(1, int((soonest - time.monotonic()) * 1000) + 1)

    def signalled(self):
        try:
            numbers = os.read(self.wake_r, 4096)
        except OSError:
            return
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            self.stopping = True
            self.wanted = 0
            self.scale()

    def watch(self, fd, events, what, whose):
        self.watched[fd] = (what, whose)
        self.poll.register(fd, events)

    def unwatch(self, fd):
        if self.watched.pop(fd, None):
            self.poll.unregister(fd)

    def listen(self, path):
        unlink(path)
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            s.bind(path)
        except OSError as e:
            sys.exit("lapis: listen on %s: %s" % (path, e))
        os.chmod(path, 0o600)
        s.listen(1024)
        s.setblocking(False)
        return s

    # -- instances

    def scale(self):
        """Starts and stops instances until as many are there as wanted."""
        alive = [i for i in self.instances.values() if i.state != "Stopping"]
        for i in sorted(alive, key=lambda i: -i.number)[: max(0, len(alive) - self.wanted)]:
            self.stop(i)
        missing = self.wanted - len(alive)
        number = 1
        while missing > 0:
            if number not in self.instances:
                self.start(number)
                missing -= 1
            number += 1

    def start(self, number):
        path = os.path.join(self.folder, "%d.sock" % number)
        i = Instance(number, path, self.listen(path), lapis_cage.Cage(self.cages, number))
        for why in i.cage.problems:
            say("instance %d is not held to all its limits of memory and CPU: %s" % (number, why))
        i.listener.setblocking(True)
        self.instances[number] = i
        for _ in range(self.workers):
            if self.offsets:
                offset = self.offsets.pop()
            else:
                offset = self.next_offset
                self.next_offset += PLACE_SIZE
            p = Place(i, offset)
            i.places.append(p)
            if self.warm:
                self.launch(p)

    def stop(self, i):
        i.enter("Stopping")
        i.kill_at = time.monotonic() + self.grace
        for p in i.places:
            p.start_at = 0.0
            if p.pid:
                kill(p.pid, signal.SIGTERM)
        self.ended(i)

    def ended(self, i):
        """Forgets an instance that stops once the last of its workers is gone."""
        if i.state != "Stopping" or any(p.pid for p in i.places):
            return
        i.listener.close()
        unlink(i.path)
        i.cage.close()
        for p in i.places:
            self.offsets.append(p.offset)
        del self.instances[i.number]

    def launch(self, p):
        p.start_at = 0.0
        p.ready = p.gone = p.told = False
        p.reason = ""
        PLACE.pack_into(self.board, p.offset, 0, 0, 0)
        self.counts.pop(p.offset, None)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # A worker is told to end by TERM: one that comes before it can take it
        # waits, and so does the group's own until the worker is known.
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            pid = self.fork(p, ours, theirs) if self.forks else self.spawn(p, theirs)
            p.pid = pid
        except OSError as e:
            ours.close()
            theirs.close()
            say("instance %d: no new process: %s" % (p.instance.number, e.strerror))
            self.failed(p, "no new process: %s" % e.strerror, False)
            p.failures += 1
            p.start_at = time.monotonic() + min(LONGEST_PAUSE, 2.0 ** min(p.failures, 6))
            self.settle(p.instance)
            return
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        theirs.close()
        self.pids[pid] = p
        p.channel = ours
        self.watch(ours.fileno(), select.POLLIN, "channel", p)
        self.settle(p.instance)

    def fork(self, p, ours, theirs):
        """Forks a worker and returns its pid."""
        parent = os.getpid()
        with warnings.catch_warnings():
            # Newer versions warn of threads, also of those that libraries of
            # numbers have ready and that survive a fork well.
            warnings.simplefilter("ignore")
            pid = os.fork()
        if pid:
            return pid
        code = 70
        try:
            p.instance.cage.enter()
            signal.set_wakeup_fd(-1)
            for fd in list(self.watched):
                os.close(fd)
            os.close(self.wake_w)
            os.close(self.board_fd)
            ours.close()
            for i in self.instances.values():
                if i is not p.instance:
                    i.listener.close()
            code = lapis_worker.main(self.instance_id(p), p.instance.listener, theirs, self.board, p.offset, parent)
        finally:
            os._exit(code)

    def spawn(self, p, theirs):
        """Starts a worker that is no copy of this process and returns its pid."""
        fds = (p.instance.listener.fileno(), theirs.fileno(), self.board_fd)
        numbers = [str(n) for n in fds + (p.offset, os.getpid())]
        process = subprocess.Popen(
            [sys.executable, "-u", os.path.abspath(__file__), WORKER, self.instance_id(p)] + numbers,
            pass_fds=fds,
            preexec_fn=p.instance.cage.enter,
        )
        process.returncode = 0  # it is waited for here, and not by its object
        return process.pid

    def instance_id(self, p):
        return "%s/%d" % (self.name, p.instance.number)

    def release(self, p):
        if p.peer is not None:
            try:
                # Processes that the script began may hold the connection too.
                p.peer.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for s in (p.channel, p.peer):
            if s is not None:
                self.unwatch(s.fileno())
                s.close()
        p.channel = p.peer = None

    def hear(self, p):
        """What a worker tells: that it is ready or has failed (JSON), that it
        serves a connection (and here it is), that it has work."""
        if p.channel is None:
            return
        try:
            data, fds = receive(p.channel)
        except OSError:
            data, fds = b"", []
        if not data:
            self.unwatch(p.channel.fileno())
            return
        if data[:1] == b"c" and fds:
            if p.peer is not None:
                self.unwatch(p.peer.fileno())
                p.peer.close()
            p.peer = socket.socket(fileno=fds.pop(0))
            (p.peer_number,) = struct.unpack("<Q", data[1:9])
            p.gone = False
            self.watch(p.peer.fileno(), 0, "peer", p)
        elif data[:1] == b"w":
            self.board[0] = 0
            self.idle_ticks = 0
        elif data[:1] == b"{":
            told = json.loads(data.decode())
            if told.get("ready"):
                self.became_ready(p)
            else:
                self.failed(p, told.get("error", ""), told.get("fatal", False))
        for fd in fds:
            os.close(fd)

    def became_ready(self, p):
        p.ready = True
        p.ready_since = time.monotonic()
        self.settle(p.instance)

    def failed(self, p, error, fatal):
        i = p.instance
        p.told = True
        if i.state != "Stopping":
            i.error, i.fatal = error[:MAX_ERROR], fatal

    def settle(self, i):
        """Says of an instance what its workers make it: Ready from when all of
        them have had their start until none is left."""
        if i.state == "Stopping":
            return
        ready = sum(p.ready for p in i.places)
        loading = any(p.pid and not p.ready for p in i.places)
        if ready == len(i.places):
            i.error, i.fatal = "", False
        if ready:
            if not loading:
                i.enter("Ready")
        else:
            i.enter("Starting" if loading else "Failed")

    def peer_closed(self, p):
        """The other side of a worker's connection is gone: what it works on is
        for nobody."""
        if p.peer is None:
            return
        self.unwatch(p.peer.fileno())
        p.peer.close()
        p.peer = None
        p.gone = True
        self.board[0] = 0
        self.idle_ticks = 0

    def reap(self):
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            p = self.pids.pop(pid, None)
            if p is not None:
                self.died(p, status)

    def died(self, p, status):
        # Its last words may still wait in the channel.
        while p.channel is not None and p.channel.fileno() in self.watched:
            if not select.select([p.channel], [], [], 0)[0]:
                break
            self.hear(p)
        self.release(p)
        i, pid, p.pid = p.instance, p.pid, 0
        was_ready, p.ready = p.ready, False
        PLACE.pack_into(self.board, p.offset, 0, 0, 0)
        if i.state == "Stopping":
            self.ended(i)
            return
        why = ended_with(status)
        i.restarts += 1
        if p.reason:
            say("worker %d of instance %d was stopped: %s" % (pid, i.number, p.reason))
            p.failures = 0
            self.launch(p)
            return
        say("worker %d of instance %d ended: %s" % (pid, i.number, why))
        if i.fatal and not was_ready:
            say("Worker failed to boot.")
        killed = i.cage.killed()
        if killed:
            why = self.memory
            i.killed, i.killed_at = why, now()
            say("instance %d: %s" % (i.number, why))
        lived = time.monotonic() - p.ready_since if was_ready else 0.0
        if lived > STEADY:
            i.restarts = 1
        if lived > LIVED:
            p.failures = 0
        if killed:
            # One that was not even ready will need as much the next time.
            i.error, i.fatal = why, not was_ready
        elif was_ready:
            i.error = "the process ended: %s" % why
        elif not p.told:
            i.error, i.fatal = "the process ended before it was ready: %s" % why, False
        p.failures += 1
        if p.failures == 1 and was_ready:
            self.launch(p)
        else:
            p.start_at = time.monotonic() + min(LONGEST_PAUSE, 2.0 ** max(0, p.failures - 1 - was_ready))
            self.settle(i)

    def tick(self):
        t = time.monotonic()
        busy = False
        for i in list(self.instances.values()):
            if i.kill_at and t >= i.kill_at:
                i.kill_at = t + 1
                for p in i.places:
                    if p.pid:
                        kill(p.pid, signal.SIGKILL)
            for p in i.places:
                if p.start_at and t >= p.start_at:
                    self.launch(p)
        if self.board[0]:
            return
        ns = time.monotonic_ns()
        for i in self.instances.values():
            for p in i.places:
                if not p.pid:
                    continue
                deadline, count, connection = PLACE.unpack_from(self.board, p.offset)
                if deadline or p.gone or count != self.counts.get(p.offset, 0):
                    busy = True
                self.counts[p.offset] = count
                if p.reason:
                    continue
                if p.gone and connection != p.peer_number:
                    p.gone = False
                elif p.gone and deadline:
                    p.reason = "the caller has gone"
                    kill(p.pid, signal.SIGKILL)
                elif deadline and deadline != NO_DEADLINE and ns > deadline + GRACE:
                    p.reason = "its request ran past its deadline"
                    kill(p.pid, signal.SIGKILL)
        if busy:
            self.idle_ticks = 0
            return
        self.idle_ticks += 1
        if self.idle_ticks > AWAKE:
            # The flag first, then one more look: a worker writes its place
            # first and then reads the flag, so one of the two sees the other.
            self.board[0] = 1
            for offset, count in self.counts.items():
                deadline, begun, _ = PLACE.unpack_from(self.board, offset)
                if deadline or begun != count:
                    self.board[0] = 0
                    self.idle_ticks = 0

    # -- orders

    def accept(self):
        try:
            conn, _ = self.control.accept()
        except OSError:
            return
        conn.setblocking(False)
        o = Order(conn)
        self.watch(conn.fileno(), select.POLLIN, "order", o)
        self.send(o, frame.hello(self.name, os.getpid()))

    def send(self, o, data):
        o.unsent += data
        if len(o.unsent) > MAX_UNREAD:
            self.hang_up(o)
            return
        try:
            n = o.conn.send(o.unsent)
            del o.unsent[:n]
        except BlockingIOError:
            pass
        except OSError:
            self.hang_up(o)
            return
        self.poll.modify(o.conn.fileno(), select.POLLIN | (select.POLLOUT if o.unsent else 0))

    def hang_up(self, o):
        self.unwatch(o.conn.fileno())
        o.conn.close()

    def serve(self, o, event):
        if event & select.POLLOUT:
            self.send(o, b"")
        if o.conn.fileno() < 0 or not event & ~select.POLLOUT:
            return
        try:
            data = o.conn.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.hang_up(o)
            return
        o.unread += data
        try:
            while o.conn.fileno() >= 0:
                if len(o.unread) >= 4 and struct.unpack_from("<I", o.unread)[0] > MAX_ORDER:
                    raise frame.Malformed("an order of that size")
                f = frame.split(o.unread)
                if f is None:
                    return
                kind, payload, size = f
                del o.unread[:size]
                if kind != frame.REQUEST:
                    raise frame.Malformed("kind %d where a request belongs" % kind)
                _, method, target, _, body = frame.parse_request(payload)
                status, answer = self.obey(method, target, body)
                body = json.dumps(answer).encode()
                head = b"Content-Type: application/json\r\n"
                self.send(o, frame.reply_head(frame.REPLY, status, head, len(body)) + body)
        except frame.Malformed as e:
            self.send(o, frame.frame(frame.BROKEN, str(e).encode()))
            if o.conn.fileno() >= 0:
                self.hang_up(o)

    def obey(self, method, target, body):
        path = target.split(b"?", 1)[0]
        if path != b"/instances":
            return 404, problem("NotFound", "there is only /instances here")
        if method == b"PUT":
            try:
                count = json.loads(body.decode())["count"]
                if type(count) is not int or not 0 <= count <= MAX_INSTANCES:
                    raise ValueError
            except (ValueError, KeyError, TypeError, RecursionError):
                return 400, problem("BadArgument", 'the body is {"count": n} with n from 0 to %d' % MAX_INSTANCES)
            if self.stopping:
                return 409, problem("Conflict", "the group is ending")
            self.wanted = count
            self.scale()
        elif method != b"GET":
            return 405, problem("MethodNotAllowed", "GET or PUT")
        ordered = sorted(self.instances.values(), key=lambda i: i.number)
        return 200, {"instances": [i.describe() for i in ordered]}


def problem(code, message):
    return {"error": {"code": code, "message": message}}


def receive(channel):
    """A message of a worker and the descriptors that came with it."""
    data, ancillary, _, _ = channel.recvmsg(65536, socket.CMSG_SPACE(4), getattr(socket, "MSG_CMSG_CLOEXEC", 0))
    fds = []
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.extend(struct.unpack("%di" % (len(content) // 4), content[: len(content) // 4 * 4]))
    return data, fds


def ended_with(status):
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = "signal %d" % number
        if number == signal.SIGKILL:
            name += " (killed from outside, or the machine is out of memory)"
        return name
    return "exit code %d" % os.WEXITSTATUS(status)


def kill(pid, number):
    try:
        os.kill(pid, number)
    except OSError as e:
        if e.errno != errno.ESRCH:
            raise


def unlink(path):
    try:
        os.unlink(path)
    except OSError:
        pass


def shared(size):
    """The descriptor of memory that processes share."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("lapis-board")
    else:
        with tempfile.TemporaryFile() as f:
            fd = os.dup(f.fileno())
    os.ftruncate(fd, size)
    return fd


def worker(instance, listener, channel, board, offset, parent):
    """Runs a worker that was spawned, with the descriptors that it was given."""
    lapis_collect.install(os.environ)
    listener, channel = socket.socket(fileno=int(listener)), socket.socket(fileno=int(channel))
    for s in (listener, channel):
        os.set_inheritable(s.fileno(), False)
    memory = mmap.mmap(int(board), 0)
    os.close(int(board))
    return lapis_worker.main(instance, listener, channel, memory, int(offset), int(parent))


def main():
    if sys.argv[1:2] == [WORKER]:
        os._exit(worker(*sys.argv[2:]))
    if not os.environ.get("LAPIS_GROUP_DIR"):
        sys.exit("lapis: LAPIS_GROUP_DIR is not set: this program is started by the server")
    lapis_settings.complete(os.environ)
    lapis_collect.install(os.environ)
    os.write(1, ("\nAzure ML Inferencing HTTP server v%s\n\n" % lapis_settings.VERSION).encode())
    Group(os.environ).run()


if __name__ == "__main__":
    main()
