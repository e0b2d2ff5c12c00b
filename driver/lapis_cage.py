"""The control groups that hold each instance to its limits of memory and CPU.

Who started the group has made groups for the whole of it and tells of them in
LAPIS_CAGE; each instance gets one below each of them, which its workers enter
before they do anything else.
"""

import json
import os


def groups(env):
    """What the variable says; it is nobody else's affair."""
    return json.loads(env.pop("LAPIS_CAGE", "") or "[]")


class Cage(object):
    """What one instance is held in. Problems are what could not be limited."""

    def __init__(self, groups, number):
        self.dirs = []
        self.kills_file = ""
        self.problems = []
        for g in groups:
            folder = os.path.join(g["dir"], str(number))
            try:
                os.makedirs(folder, exist_ok=True)
                self.dirs.append(folder)
                for limit in g["limits"]:
                    with open(os.path.join(folder, limit["file"]), "w") as f:
                        f.write(limit["value"])
            except OSError as e:
                self.problems.append("%s: %s" % (folder, e.strerror))
            if g.get("kills"):
                self.kills_file = os.path.join(folder, g["kills"])
        self.seen = self.kills()

    def enter(self):
        """Puts this process into the cage."""
        for folder in self.dirs:
            try:
                with open(os.path.join(folder, "cgroup.procs"), "w") as f:
                    f.write("0")
            except OSError:
                pass  # as said when the cage was made

    def kills(self):
        """How many processes were killed because the instance used more memory
        than it may."""
        if self.kills_file:
            try:
                with open(self.kills_file) as f:
                    for line in f:
                        if line.startswith("oom_kill "):
                            return int(line.split()[1])
            except (OSError, ValueError):
                pass
        return 0

    def killed(self):
        """Whether one was killed since this was last asked."""
        before, self.seen = self.seen, self.kills()
        return self.seen > before

    def close(self):
        for folder in self.dirs:
            try:
                os.rmdir(folder)
            except OSError:
                pass  # what is busy goes with the group
