"""Real videos, made once."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from workers import ffmpeg

SOUND = ("-f", "lavfi", "-i", "sine=frequency=440:duration=12")
CODECS = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac", "-movflags", "+faststart"]

MakeClip = Callable[..., Path]


@pytest.fixture
def make_clip() -> MakeClip:
    """Makes a video with ffmpeg: `make_clip(path, *arguments)`."""
    return write_clip


def write_clip(path: Path, *arguments: str) -> Path:
    command = [ffmpeg.executable(), "-hide_banner", "-loglevel", "error", "-nostdin", "-y", *arguments, str(path)]
    subprocess.run(command, check=True, timeout=60)
    return path


@pytest.fixture(scope="session")
def made_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    picture = ("-f", "lavfi", "-i", "testsrc=size=160x120:rate=25:duration=12")
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", *picture, *SOUND, *CODECS)


@pytest.fixture
def clip(made_clip: Path, tmp_path: Path) -> Path:
    """A film of 12 s with sound, 25 pictures a second, in a directory of its own."""
    copy = tmp_path / "clip.mp4"
    copy.write_bytes(made_clip.read_bytes())
    return copy
