#!/usr/bin/env python3
"""Records scripts/demo.scene, played by thruway, as docs/demo.cast (asciicast v2), and its film as docs/demo.svg.

    scripts/record-demo.py [THRUWAY]

THRUWAY is the program, target/release/thruway unless told otherwise. It runs on a terminal of 100 by 30 (a pty), as root where a
container of runc is to be in it. What it prints is kept to the byte; when it is shown is laid out here and is the same each time:
commands are typed, lines follow each other, and what is to be read stands for a while. `asciinema play docs/demo.cast` plays
it. A test of crates/thruway holds both files to what the program prints now.
"""

import fcntl
import json
import os
import pty
import re
import struct
import sys
import termios
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WIDTH, HEIGHT = 100, 30
# seconds
KEY, LINE, READ, LONGEST = 0.03, 0.012, 0.03, 58.0

# a dark terminal, by SGR code; as crates/thruway/examples/picture.rs
STYLES = {
    "1": "font-weight:bold;fill:#f0f0f0",
    "2": "fill:#8b949e",
    "32": "fill:#7ee787",
    "1;31": "font-weight:bold;fill:#ff7b72",
    "33": "fill:#e3b341",
    "36": "fill:#79c0ff",
}
PLAIN = "fill:#c9d1d9"
PROMPT = re.compile(r"^\x1b\[2m(host|guest|container)\$ \x1b\[0m")


def played(program):
    """All that it prints to the terminal, as text."""
    child, master = pty.fork()
    if child == 0:
        # progress is told beside the report and would be of this machine's speed
        os.dup2(os.open("/dev/null", os.O_WRONLY), 2)
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
        environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        os.execve(program, [program, "demo", "--script", str(ROOT / "scripts/demo.scene")], environment)
    parts = []
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # EIO: the other end is closed
            break
        if not part:
            break
        parts.append(part)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    text = b"".join(parts).decode()
    if status != 0:
        sys.exit(f"the scene ended with {status}:\n{text[-2000:]}")
    return text


def events(text):
    """(seconds, text) in rising order."""
    now, shown, out = 0.5, 0, []
    for line in text.splitlines(keepends=True):
        typed = PROMPT.match(line)
        if typed or line.startswith("\x1b[1m"):  # a command, or a heading: what stands is read first
            now += min(0.4 + shown * READ, 3.0)
            shown = 0
        if typed:
            out.append((now, typed.group()))
            now += 0.3
            rest = line[typed.end() :]
            colour, command = rest[:5], rest[5:].split("\x1b")[0]
            out.append((now, colour))
            for key in command:
                out.append((now, key))
                now += KEY
            now += 0.3
            out.append((now, rest[5 + len(command) :]))
        else:
            now += LINE
            shown += 1
            out.append((now, line))
    scale = min(1.0, LONGEST / now)
    return [(round(when * scale, 3), data) for when, data in out]


def picture(text):
    """The film's part of it, as SVG."""
    lines = text.replace("\r", "").split("\n")
    start = next(at for at, line in enumerate(lines) if "A film plays" in line)
    end = next(at for at, line in enumerate(lines) if "And back again" in line)
    while not lines[end - 1]:
        end -= 1
    width, height, margin = 8.4, 18.0, 16.0
    body, columns, style = [], 0, PLAIN
    for row, line in enumerate(lines[start:end]):
        column = 0
        for n, piece in enumerate(line.split("\x1b[")):
            if n:
                code, piece = piece.split("m", 1)
                style = STYLES.get(code, PLAIN)
            if piece:
                body.append(
                    f'<text x="{margin + width * column:.1f}" y="{margin + height * (row + 0.8):.1f}" '
                    f'textLength="{width * len(piece):.1f}" style="{style}" xml:space="preserve">{escape(piece, quote=False)}</text>\n'
                )
                column += len(piece)
        columns = max(columns, column)
    size = (columns * width + 2 * margin, (end - start) * height + 2 * margin)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]:.0f} {size[1]:.0f}" width="{size[0]:.0f}" '
        'font-family="ui-monospace,DejaVu Sans Mono,Menlo,monospace" font-size="14">\n'
        f'<rect width="100%" height="100%" rx="8" fill="#0d1117"/>\n{"".join(body)}</svg>\n'
    )


def main():
    program = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/release/thruway")
    text = played(program)
    recorded = events(text)
    header = {"version": 2, "width": WIDTH, "height": HEIGHT, "title": "thruway: a GPU from the slot to the app, on simulated machines"}
    rows = [json.dumps(header)] + [json.dumps([when, "o", data], ensure_ascii=False) for when, data in recorded]
    (ROOT / "docs/demo.cast").write_text("\n".join(rows) + "\n")
    (ROOT / "docs/demo.svg").write_text(picture(text))
    print(f"docs/demo.cast: {recorded[-1][0]:.1f} s, {len(recorded)} events; docs/demo.svg")


main()
