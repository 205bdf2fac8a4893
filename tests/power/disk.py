"""A disk whose power can be cut: a file system in an image file, mounted through a loop device.

What a program has written but not synced is in the kernel's page cache and not in the image. A copy of the image is
therefore the disk as it would be after a power cut at that moment.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SIZE = "256M"
_OPTIONS = "loop,commit=300"
"""The file system's journal is not to be written by the clock: ext4 would do so every five seconds, data included."""


class Disk:
    """Mounted at `path`, with `image` beneath. RuntimeError where the machine does not permit that."""

    def __init__(self, image: Path, path: Path) -> None:
        self.image = image
        self.path = path

    @classmethod
    def made(cls, directory: Path, name: str = "disk") -> Disk:
        """An empty one, mounted."""
        image = directory / f"{name}.img"
        _run("truncate", "-s", SIZE, str(image))
        _run("mkfs.ext4", "-q", "-F", str(image))
        return cls(image, directory / name).mounted()

    def mounted(self) -> Disk:
        self.path.mkdir()
        _run("mount", "-o", _OPTIONS, str(self.image), str(self.path))
        return self

    def after_a_power_cut(self, name: str) -> Disk:
        """What is left of it, mounted beside it. Nothing may be writing meanwhile: freeze it before."""
        copy = self.image.with_name(f"{name}.img")
        _run("cp", "--sparse=always", str(self.image), str(copy))
        return Disk(copy, self.path.with_name(name)).mounted()

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.path)], check=False, capture_output=True)


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise RuntimeError(str(error)) from error
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def disk_or_skip(directory: Path) -> Disk:
    """A disk, or a skip that says what is not proved; TURNOUT_POWER=require makes it a failure."""
    try:
        return Disk.made(directory)
    except RuntimeError as error:
        reason = f"NOT PROVED HERE: power cuts need the right to mount a loop device: {error}"
        if os.environ.get("TURNOUT_POWER") == "require":
            pytest.fail(reason)
        pytest.skip(reason)
