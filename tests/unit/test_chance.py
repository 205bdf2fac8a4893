"""Nonces are the system's randomness, drawn in advance: nobody is given what somebody else was."""

from __future__ import annotations

import subprocess
import sys
import threading

from turnout.store.chance import Chance


def test_no_nonce_comes_twice() -> None:
    """However long they are, and wherever what was drawn in advance is used up."""
    chance = Chance()
    drawn = [chance.nonce(size) for size in (8, 12, 5000) for _ in range(500)]
    assert len(set(drawn)) == len(drawn)
    assert {len(each) for each in drawn} == {16, 24, 10_000}


def test_threads_draw_each_their_own() -> None:
    """What one has taken no other is given."""
    drawn: list[str] = []

    def draw() -> None:
        drawn.extend(Chance().nonce() for _ in range(1000))

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(set(drawn)) == 4000


FORKING = """
import os
from turnout.store.chance import Chance

Chance().nonce()  # now there is some drawn
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    os.write(writer, Chance().nonce().encode())
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(os.read(reader, 16).decode(), Chance().nonce())
"""


def test_a_forked_process_does_not_draw_what_its_parent_does() -> None:
    """What the parent has drawn in advance is no randomness in the child."""
    said = subprocess.run([sys.executable, "-c", FORKING], check=True, capture_output=True, text=True).stdout
    theirs, ours = said.split()
    assert len(theirs) == len(ours) == 16
    assert theirs != ours
