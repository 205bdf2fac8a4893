"""workers.ffmpeg with the real ffmpeg: what it understands, and that it leaves no process behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import gone, one
from workers import ffmpeg

ffmpeg.executable()  # looks for it once, and not while a test counts processes
ENDLESS = ("-re", "-f", "lavfi", "-i", "testsrc=size=64x48:rate=10", "-f", "null", "-")
QUICK = ("-deadline", "realtime", "-cpu-used", "8")


async def test_probe_says_what_a_file_holds(clip: Path) -> None:
    """A film's container, length, size and streams are read from it."""
    media = await ffmpeg.probe(clip)
    assert media.container.startswith("mov,mp4")
    assert media.duration == pytest.approx(12, abs=0.1)
    assert (media.video, media.audio, media.width, media.height) == (0, 1, 160, 120)


async def test_probe_measures_what_does_not_say_how_long_it_is(clip: Path, tmp_path: Path) -> None:
    """A recording that was written to a pipe has no length in its header; it is read through."""
    live = tmp_path / "live.webm"
    to_pipe = ("-an", "-c:v", "libvpx", *QUICK, "-f", "webm", "-")
    command = [ffmpeg.executable(), "-loglevel", "error", "-i", str(clip), *to_pipe]
    with live.open("wb") as file, subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        file.write(process.stdout.read())
    heard: list[ffmpeg.Report] = []
    media = await ffmpeg.probe(live, heard.append)
    assert media.duration == pytest.approx(12, abs=0.1)
    assert media.audio is None
    assert heard, "whoever waits hears that it goes on"


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("empty.mp4", b"", "Invalid data"),
        ("noise.mp4", bytes(range(256)) * 400, "is not a video"),
        ("text.mp4", b"not a video at all\n" * 100, "is not a video"),
        ("list.mp4", b"ffconcat version 1.0\nfile clip.mp4\n", "ffmpeg reads it as concat"),
        ("list.m3u8", b"#EXTM3U\n#EXTINF:12,\nclip.mp4\n#EXT-X-ENDLIST\n", "is not a video"),
    ],
)
async def test_probe_refuses_what_is_not_a_video(clip: Path, name: str, content: bytes, complaint: str) -> None:
    """Noise, text and lists of other files are refused, with the reason in one line."""
    path = clip.with_name(name)
    path.write_bytes(content)
    with pytest.raises(ffmpeg.NotAVideo, match=complaint) as caught:
        await ffmpeg.probe(path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("picture.png", ("-f", "lavfi", "-i", "testsrc=size=64x48", "-frames:v", "1")),
        ("tone.mp3", ("-f", "lavfi", "-i", "sine=duration=1")),
    ],
)
async def test_probe_refuses_pictures_and_sound(name: str, arguments: tuple[str, ...], tmp_path: Path) -> None:
    """What ffmpeg can read but does not move is not a video."""
    subprocess.run([ffmpeg.executable(), "-loglevel", "error", *arguments, str(tmp_path / name)], check=True)
    with pytest.raises(ffmpeg.NotAVideo, match="without a moving picture"):
        await ffmpeg.probe(tmp_path / name)


async def test_run_reports_progress_that_only_grows() -> None:
    """Reports come from ffmpeg itself, never go back, and the last one is the whole."""
    reports: list[ffmpeg.Report] = []
    source = ("-stats_period", "0.05", "-f", "lavfi", "-i", "testsrc=size=160x120:rate=25:duration=12")
    last = await ffmpeg.run((*source, "-c:v", "libvpx", *QUICK, "-f", "null", "-"), reports.append)
    seconds = [report.seconds for report in reports]
    assert len(seconds) >= 2
    assert seconds == sorted(seconds)
    assert last == reports[-1]
    assert last.frames == 300
    assert last.seconds == pytest.approx(12, abs=0.1)


async def test_a_report_without_a_time_does_not_go_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Busy, ffmpeg may not know the time between two reports that do; this one says so for certain."""
    blocks = [("1", "40000"), ("2", "N/A"), ("1", "-7"), ("3", "120000")]
    said = "".join(f"frame={frame}\nout_time_us={time}\nprogress=continue\n" for frame, time in blocks)
    forgetful = tmp_path / "ffmpeg"
    forgetful.write_text(f"#!/bin/sh\ncat <<END\n{said}END\n")
    forgetful.chmod(0o755)
    ffmpeg.executable.cache_clear()
    monkeypatch.setenv("FFMPEG", str(forgetful))
    reports: list[ffmpeg.Report] = []
    try:
        await ffmpeg.run((), reports.append)
    finally:
        ffmpeg.executable.cache_clear()
    assert [(report.seconds, report.frames) for report in reports] == [(0.04, 1), (0.04, 2), (0.12, 3)]


async def test_a_failure_carries_what_ffmpeg_said(clip: Path, tmp_path: Path) -> None:
    """The error of a failed run ends with ffmpeg's own words."""
    with pytest.raises(ffmpeg.FFmpegError, match="No such file or directory"):
        await ffmpeg.run(("-i", ffmpeg.local(clip), "-f", "webm", ffmpeg.local(tmp_path / "nowhere" / "a.webm")))


async def test_a_name_is_never_an_option(clip: Path, tmp_path: Path) -> None:
    """A file whose name looks like options or a protocol is still that file."""
    odd = clip.rename(tmp_path / "-f concat:a'b %d.mp4")
    assert (await ffmpeg.probe(odd)).width == 160


def reaped(pid: int) -> bool:
    """Whether a child of this process has ended and was waited for: the system knows of no such child any more."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return True
    return False


async def started() -> tuple[asyncio.Task[ffmpeg.Report], int]:
    """A run that has no end, and its process: it reports, so nothing of its start is left to be cancelled."""
    reported = asyncio.Event()
    running = asyncio.create_task(ffmpeg.run(ENDLESS, lambda _: reported.set()))
    await reported.wait()
    return running, await one("ffmpeg")


@pytest.mark.parametrize("frozen", [False, True], ids=["running", "frozen"])
async def test_a_cancelled_run_leaves_no_process(frozen: bool) -> None:
    """When a cancelled run returns, its ffmpeg has ended and was reaped, even one that cannot react to signals."""
    running, pid = await started()
    if frozen:
        os.kill(pid, signal.SIGSTOP)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert reaped(pid)


async def test_an_impatient_cancel_leaves_no_process_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second cancel cuts the grace short: ffmpeg is killed, and reaped all the same."""
    monkeypatch.setattr(ffmpeg, "TERMINATE_GRACE_S", 60.0)
    running, pid = await started()
    os.kill(pid, signal.SIGSTOP)
    running.cancel()
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, timeout=30)
    assert reaped(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process's life to its parent's")
async def test_ffmpeg_dies_with_a_worker_that_is_killed() -> None:
    """SIGKILL to the worker takes its ffmpeg along: there is nobody left who would end it."""
    program = f"import asyncio; from workers import ffmpeg; asyncio.run(ffmpeg.run({ENDLESS!r}))"
    settled = {**os.environ, "FFMPEG": ffmpeg.executable()}  # looking for one would run it once
    worker = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[2], env=settled)
    try:
        pid = await one("ffmpeg", worker.pid)
    finally:
        worker.kill()
        worker.wait()
    await gone(pid)
