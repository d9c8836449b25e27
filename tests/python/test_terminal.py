"""What a terminal shows: pictures where it can, colours unless they are not wanted."""

import base64
import io
import os
import pty
import re

import pytest
from conftest import POMONA
from PIL import Image


def in_terminal(*args, **variables):
    """What the program writes to a terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(POMONA, ["pomona", *map(str, args)], {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **variables})
    seen = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            break
        if not piece:
            break
        seen += piece
    os.waitpid(pid, 0)
    os.close(terminal)
    return seen.decode(errors="replace")


@pytest.fixture
def search(demo):
    return ["search", demo.folder, "--like", "Lemon/1_100.jpg", "-n", 12]


def test_iterm2_gets_strips_of_pictures(search):
    seen = in_terminal(*search, TERM="xterm-256color", TERM_PROGRAM="iTerm.app")
    files = re.findall(r"\x1b\]1337;File=inline=1;size=\d+;width=(\d+);height=4;preserveAspectRatio=1:([A-Za-z0-9+/=]+)\x07", seen)
    pictures = [Image.open(io.BytesIO(base64.b64decode(file))) for _, file in files]
    # A terminal of this test has 80 columns or does not say.
    assert sum(picture.width for picture in pictures) == 12 * 96 and all(picture.height == 96 for picture in pictures)
    assert "Lemon/" in seen


@pytest.mark.parametrize("variables", [{"TERM": "xterm-256color"}, {"TERM": "xterm-kitty", "TMUX": "/tmp/tmux-0/default"}])
def test_other_terminals_get_text_only(search, variables):
    seen = in_terminal(*search, **variables)
    assert "\x1b_G" not in seen and "\x1bP" not in seen and "1337" not in seen and "Lemon/" in seen


def test_kitty_gets_pieces_of_a_picture(search):
    seen = in_terminal(*search, TERM="xterm-kitty")
    pieces = re.findall(r"\x1b_G([^;]*);([A-Za-z0-9+/=]*)\x1b\\", seen)
    assert pieces[0][0].startswith("a=T,f=100,") and all(len(piece) <= 4096 for _, piece in pieces)
    first = "".join(piece for _, piece in pieces[: next(i for i, (head, _) in enumerate(pieces) if "m=0" in head) + 1])
    assert Image.open(io.BytesIO(base64.b64decode(first))).height == 96


def test_colours_follow_no_color(tmp_path):
    plain = in_terminal("show", tmp_path / "nothing", TERM="xterm", NO_COLOR="1")
    styled = in_terminal("show", tmp_path / "nothing", TERM="xterm")
    assert "\x1b[1;31merror[" in styled and "\x1b" not in plain
    assert "\x1b" not in in_terminal("show", tmp_path / "nothing", TERM="dumb")
