"""Draw what a command shows on a terminal: picture.py OUT.svg COMMAND...

The command runs on a terminal of its own; what stands on the screen at its end
is drawn with its colours. Needs pyte and rich, see `make picture`.
"""

import fcntl
import io
import itertools
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pyte
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import MONOKAI
from rich.text import Text

COLUMNS, ROWS = 112, 200


def screen_of(command):
    """The screen at the command's end."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)},
    )
    os.close(slave)
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:  # the terminal was closed by the last that held it
            break
        if not data:
            break
        stream.feed(data)
    if process.wait() != 0:
        sys.exit("\n".join(line.rstrip() for line in screen.display if line.strip()))
    return screen


def color(name):
    if name == "default":
        return None
    return f"#{name}" if len(name) == 6 and all(c in "0123456789abcdef" for c in name) else name.replace("brown", "yellow").replace("bright", "bright_")


def text_of(screen):
    lines = []
    for row in range(ROWS):
        line = Text()
        cells = [screen.buffer[row][column] for column in range(COLUMNS)]
        for (fg, bold), run in itertools.groupby(cells, lambda cell: (cell.fg, cell.bold)):
            line.append("".join(cell.data for cell in run), Style(color=color(fg), bold=bold))
        line.rstrip()
        lines.append(line)
    while lines and not lines[-1].plain:
        lines.pop()
    while lines and not lines[0].plain:
        lines.pop(0)
    return Text("\n").join(lines)


def main(out, command):
    text = text_of(screen_of(command))
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(text, no_wrap=True, crop=True)
    # Fonts of the reader's own machine: a picture fetches nothing.
    form = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.S)
    form = form.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace")
    console.save_svg(out, title="make demo", theme=MONOKAI, code_format=form)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
