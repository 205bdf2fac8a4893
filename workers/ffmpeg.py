"""ffmpeg as a child process: find it, ask it what a file holds, run it with its progress, and never leave it behind.

Knows nothing of jobs. A failed run raises `FFmpegError` with the end of what ffmpeg said; a cancelled one ends ffmpeg
first.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import attrs

STDERR_KEPT_BYTES = 4096
"""How much of the end of ffmpeg's stderr an error message carries."""

TERMINATE_GRACE_S = 2.0
"""How long an ffmpeg that was asked to end may take before it is killed."""

_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the worker is gone")
os.nice(5)
os.execv(sys.argv[2], sys.argv[2:])
"""
# A program of its own and not a `preexec_fn`, which may deadlock in a process with threads, and a worker has some.
# 1 is PR_SET_PDEATHSIG. It survives the exec: ffmpeg dies with a worker that is killed.
# If the worker was dead before the prctl, nobody sends the signal, hence the look at the parent.


class FFmpegError(RuntimeError):
    """ffmpeg is missing or failed; the message holds the end of its stderr."""


class NotAVideo(ValueError):
    """The file cannot be read as a video; no attempt will ever do better."""


@attrs.frozen
class Media:
    """What a file holds. `video` and `audio` are numbers of streams; None is a silent film.

    `duration` and `start` are in seconds: where the timeline begins is not always 0.
    `rate` is how many pictures it has a second, 0 if that is not known.
    """

    container: str
    start: float
    duration: float
    video: int
    audio: int | None
    width: int
    height: int
    rate: float


@attrs.frozen
class Report:
    """One progress report: `seconds` of output written so far, in so many `frames`."""

    seconds: float = 0.0
    frames: int = 0


@functools.cache
def executable() -> str:
    """The path of ffmpeg: $FFMPEG, else the one of the package imageio-ffmpeg, else the one on PATH."""
    if named := os.environ.get("FFMPEG"):
        return named
    with contextlib.suppress(ImportError, RuntimeError):
        return str(importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe())
    if found := shutil.which("ffmpeg"):
        return found
    raise FFmpegError("no ffmpeg here: `pip install turnout[demo]`, or put ffmpeg on PATH, or name it in $FFMPEG")


def local(path: Path) -> str:
    """`path` as an argument that can only mean this file, though its name look like an option or a protocol."""
    return f"file:{path.absolute()}"


def source(path: Path) -> tuple[str, ...]:
    """`path` as an input. ffmpeg looks further into it than by default: a picture may begin long after the sound."""
    return ("-analyzeduration", "30M", "-probesize", "50M", "-i", local(path))


OnReport = Callable[[Report], None]


def unheard(report: Report) -> None:
    """Reports that nobody waits for."""


async def run(arguments: Sequence[str], on_report: OnReport = unheard) -> Report:
    """Run ffmpeg to its end and return its last report; `on_report` hears of every one that says more than the last.

    Cancelled or failing, it leaves no process behind. Raises FFmpegError if ffmpeg fails.
    """
    report = Report()
    quiet = ("-hide_banner", "-nostdin", "-loglevel", "error", "-progress", "pipe:1", "-y")
    async with _process((*quiet, *arguments)) as (process, stdout, stderr_tail):
        values: dict[str, str] = {}
        async for line in stdout:
            key, _, value = line.decode(errors="replace").strip().partition("=")
            values[key] = value
            if key == "progress" and (newer := _report(values, report)) != report:
                report = newer
                on_report(report)
        status = await process.wait()
        said = await stderr_tail
    if status:
        raise FFmpegError(f"ffmpeg ended with status {status}: {said or 'it said nothing'}")
    return report


async def probe(path: Path, on_report: OnReport = unheard) -> Media:
    """What `path` holds, in ffmpeg's own words: there is no ffprobe beside the packaged ffmpeg. Raises NotAVideo.

    `on_report` is heard if the whole file has to be read because it does not say how long it is.
    """
    async with _process(("-hide_banner", "-nostdin", *source(path)), keep=1 << 20) as (process, _, stderr):
        await process.wait()
        said = await stderr
    media = parse_probe(said, path.name)
    return media if media.duration else attrs.evolve(media, duration=await _measure(path, media.video, on_report))


async def _measure(path: Path, stream: int, on_report: OnReport) -> float:
    """The length of a stream whose file does not say (a recording that was cut off): reads it, without decoding."""
    try:
        report = await run((*source(path), "-map", f"0:{stream}", "-c", "copy", "-f", "null", "-"), on_report)
    except FFmpegError as error:
        raise NotAVideo(f"{path.name} cannot be read to its end: {error}") from error
    if not report.seconds:
        raise NotAVideo(f"{path.name} has no length: it holds a picture or nothing")
    return report.seconds


_INPUT = re.compile(r"^Input #0, (\S+), from ", re.M)
_DURATION = re.compile(r"^  Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)", re.M)
_START = re.compile(r"^  Duration: .*, start: (-?\d+\.\d+)", re.M)
_STREAM = re.compile(r"^  Stream #0:(\d+)\S*: (Video|Audio): (.*)$", re.M)
_SIZE = re.compile(r"[ ,](\d{1,5})x(\d{1,5})[ ,]")
_RATE = re.compile(r" (\d+(?:\.\d+)?) fps[, ]")
_OPENING = "Error opening input file"
_SPEAKER = re.compile(r"^\[[^]]*\] ")
_STILL = re.compile(r"_pipe$|^image2$|^tty$|^concat$|^hls$")
# What ffmpeg reads as well: pictures, text as "ANSI art", and lists of other files: no payload should reach those.


def parse_probe(said: str, name: str) -> Media:
    """The media that `ffmpeg -i` describes; `duration` is 0 where it does not know or guesses. Raises NotAVideo."""
    found = _INPUT.search(said)
    if not found:
        reasons = [_SPEAKER.sub("", line.strip()) for line in said.splitlines() if _OPENING not in line]
        raise NotAVideo(f"{name} is not a video: {'; '.join(reasons[-2:]) or 'ffmpeg says nothing of it'}")
    container = found[1]
    streams = [(int(number), kind, text) for number, kind, text in _STREAM.findall(said[found.start() :])]
    videos = [(number, text) for number, kind, text in streams if kind == "Video" and "(attached pic)" not in text]
    if not videos or _STILL.search(container):
        raise NotAVideo(f"{name} is not a video: ffmpeg reads it as {container} without a moving picture")
    size, rate = _SIZE.search(f"{videos[0][1]} "), _RATE.search(f"{videos[0][1]} ")
    length = None if "Estimating duration from bitrate" in said else _DURATION.search(said)
    start = _START.search(said)
    return Media(
        container=container,
        start=float(start[1]) if start else 0.0,
        duration=int(length[1]) * 3600 + int(length[2]) * 60 + float(length[3]) if length else 0.0,
        video=videos[0][0],
        audio=next((number for number, kind, _ in streams if kind == "Audio"), None),
        width=int(size[1]) if size else 0,
        height=int(size[2]) if size else 0,
        rate=exact_rate(float(rate[1])) if rate else 0.0,
    )


def exact_rate(shown: float) -> float:
    """The frame rate behind two decimals: 29.97 is 30000/1001, as are its like."""
    ntsc = round(shown * 1.001) * 1000 / 1001
    return ntsc if shown != round(shown) and abs(shown - ntsc) < 0.006 else shown


def _report(values: dict[str, str], last: Report) -> Report:
    """Of one block of `-progress`, never behind the last one.

    ffmpeg says N/A, or a negative time, before the first frame is out, and now and then between two that it knows.
    """

    def number(key: str) -> int:
        text = values.get(key, "")
        return int(text) if text.isdecimal() else 0

    return Report(seconds=max(last.seconds, number("out_time_us") / 1e6), frames=max(last.frames, number("frame")))


Tail = asyncio.Task[str]


@contextlib.asynccontextmanager
async def _process(
    arguments: Sequence[str], keep: int = STDERR_KEPT_BYTES
) -> AsyncIterator[tuple[asyncio.subprocess.Process, asyncio.StreamReader, Tail]]:
    """A running ffmpeg, its stdout and the end of its stderr; it has ended when the block is left, however.

    It leads a session of its own: Ctrl-C in the worker's terminal means the worker, which ends ffmpeg when it sees fit.
    """
    command = [executable(), *arguments]
    if sys.platform == "linux":
        command = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, start_new_session=True
    )
    assert process.stdout and process.stderr
    tail = asyncio.create_task(_tail(process.stderr, keep))
    try:
        yield process, process.stdout, tail
    finally:
        try:
            await _end(process)
        finally:
            tail.cancel()


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the process group, politely and then not, and reap it."""
    try:
        if process.returncode is None:
            _signal(process, signal.SIGTERM)
            async with asyncio.timeout(TERMINATE_GRACE_S):
                await process.wait()
    except TimeoutError:
        pass
    finally:  # also when a second cancellation cuts the grace short
        if process.returncode is None:
            _signal(process, signal.SIGKILL)
            await process.wait()


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


async def _tail(stream: asyncio.StreamReader, keep: int) -> str:
    """The last `keep` bytes of a stream; reads chunks, because a line may be longer than any buffer."""
    kept = b""
    while chunk := await stream.read(65536):
        kept = (kept + chunk)[-keep:]
    return kept.decode(errors="replace").strip()
