"""workers.media with the real ffmpeg: what it makes of videos, and what attempts leave to each other."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import named
from tests.support.waiting import until
from tests.workers.conftest import SOUND, MakeClip
from turnout import Client, Fatal, InvalidArguments, InvalidValue, JobCancelled, JobFaulted
from turnout.testing import ActivityEnvironment
from workers import ffmpeg
from workers.media import Converted, Format, convert_video

FRAMES = 300
SLOW: dict[str, Any] = {"segment_seconds": 2.0, "max_speed": 4.0}
"""Six segments of half a second each: time enough to stop in the middle."""

FfmpegRuns = Callable[[], list[str]]


@pytest.fixture
def ffmpeg_runs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[FfmpegRuns]:
    """The arguments of every run of ffmpeg, which a script before it writes down."""
    place = tmp_path_factory.mktemp("ffmpeg")
    script, log = place / "ffmpeg", place / "log"
    log.touch()
    script.write_text(f'#!/bin/sh\necho "$*" >> {log}\nexec {ffmpeg.executable()} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("FFMPEG", str(script))
    ffmpeg.executable.cache_clear()
    yield lambda: log.read_text().splitlines()
    ffmpeg.executable.cache_clear()


def segment_runs(runs: FfmpegRuns) -> int:
    return sum(" -ss " in run for run in runs())


def times(path: Path) -> list[float]:
    """When each picture of a file is shown, in seconds, by decoding them all."""
    begin = [ffmpeg.executable(), "-hide_banner", "-loglevel", "error", "-copyts", "-i", str(path)]
    exactly = ["-map", "0:v", "-fps_mode", "passthrough", "-enc_time_base", "1:90000", "-f", "framemd5", "-"]
    said = subprocess.run([*begin, *exactly], check=True, capture_output=True, text=True, timeout=60).stdout
    return [int(line.split(",")[2]) / 90_000 for line in said.splitlines() if not line.startswith("#")]


def left_over(clip: Path) -> list[str]:
    """What is in the clip's directory beside it."""
    return sorted(path.name for path in clip.parent.iterdir() if path != clip)


async def stop_after(env: ActivityEnvironment, pieces: int, clip: Path, reason: str, **options: Any) -> None:
    """Run a conversion until so many pieces (the sound is the first) are finished, then stop it."""
    running = asyncio.create_task(env.run(convert_video, path=str(clip), **options))

    async def far_enough() -> bool:
        return running.done() or len(env.checkpoints) >= pieces

    await until(far_enough)
    env.cancel(reason)
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not named("ffmpeg")


@pytest.mark.parametrize("format", ["webm", pytest.param("mp4", marks=pytest.mark.breadth)])
async def test_a_video_is_converted_whole(clip: Path, format: Format) -> None:
    """The result has the input's length, every picture of it and its sound, and nothing else is left behind."""
    result = await ActivityEnvironment().run(convert_video, path=str(clip), format=format, segment_seconds=2.5)
    output = Path(result.path)
    media = await ffmpeg.probe(output)
    assert format in media.container
    assert media.audio is not None
    assert media.duration == pytest.approx(12, abs=0.1)
    assert len(times(output)) == FRAMES
    assert result == Converted(
        path=str(output), duration=media.duration, size=output.stat().st_size, segments=5, restored=0
    )
    assert left_over(clip) == [output.name]


async def test_progress_only_grows_and_ends_at_the_whole(clip: Path) -> None:
    """Progress is in seconds of the film, never goes back, and each segment shows up by its number."""
    env = ActivityEnvironment()
    await env.run(convert_video, path=str(clip), segment_seconds=4)
    done = [report.done for report in env.progress]
    assert done == sorted(done)
    assert {report.total for report in env.progress} == {12.0}
    assert (done[-1], env.progress[-1].message) == (12.0, "done")
    assert {f"segment {number} of 3" for number in (1, 2, 3)} <= {report.message for report in env.progress}


async def test_the_pace_is_limited(clip: Path) -> None:
    """With `max_speed` 6 the 12 s of film take no less than 2 s, less the half second that ffmpeg reads at once."""
    begun = time.monotonic()
    await ActivityEnvironment().run(convert_video, path=str(clip), max_speed=6.0, segment_seconds=12)
    assert time.monotonic() - begun >= 1.5


@pytest.mark.parametrize(
    "reason",
    ["lease_lost", *(pytest.param(each, marks=pytest.mark.breadth) for each in ("node_stopping", "timed_out"))],
)
async def test_the_next_attempt_does_no_segment_again(clip: Path, ffmpeg_runs: FfmpegRuns, reason: str) -> None:
    """Segments that an attempt has finished are taken over; ffmpeg converts the others, and these alone."""
    first = ActivityEnvironment()
    await stop_after(first, 4, clip, reason, **SLOW)
    finished = [name for name in first.checkpoints[-1]["pieces"] if not name.startswith("audio")]
    kept = {path.name for path in clip.parent.glob("*.parts/*")}
    assert kept == {"audio.webm", *finished}, "an unfinished piece has no name of its own"

    before = segment_runs(ffmpeg_runs)
    second = ActivityEnvironment(attempt=2, checkpoint=first.checkpoints[-1])
    result = await second.run(convert_video, path=str(clip), **SLOW)
    assert (result.segments, result.restored) == (6, len(finished))
    assert segment_runs(ffmpeg_runs) - before == 6 - len(finished)
    assert second.progress[0].done == pytest.approx(2.0 * len(finished), abs=0.02)
    assert len(times(Path(result.path))) == FRAMES
    assert left_over(clip) == ["clip.webm"]


@pytest.mark.parametrize("harm", [pytest.param("lost", marks=pytest.mark.breadth), "cut short"])
async def test_a_piece_that_is_not_what_it_was_is_done_again(clip: Path, ffmpeg_runs: FfmpegRuns, harm: str) -> None:
    """The checkpoint is believed as far as the disk confirms it: a missing or shorter file is converted anew."""
    first = ActivityEnvironment()
    await stop_after(first, 4, clip, "node_stopping", **SLOW)
    finished = len(first.checkpoints[-1]["pieces"]) - 1
    (piece,) = clip.parent.glob("*.parts/000001.webm")
    if harm == "lost":
        piece.unlink()
    else:
        os.truncate(piece, piece.stat().st_size - 1)
    before = segment_runs(ffmpeg_runs)
    second = ActivityEnvironment(attempt=2, checkpoint=first.checkpoints[-1])
    result = await second.run(convert_video, path=str(clip), **SLOW)
    assert result.restored == finished - 1
    assert segment_runs(ffmpeg_runs) - before == 6 - result.restored
    assert len(times(Path(result.path))) == FRAMES


async def test_another_input_is_converted_from_its_beginning(clip: Path, make_clip: MakeClip) -> None:
    """Finished segments of what the file was before are not mixed with what it is now."""
    first = ActivityEnvironment()
    await stop_after(first, 3, clip, "node_stopping", **SLOW)
    make_clip(clip, "-f", "lavfi", "-i", "testsrc2=size=160x120:rate=25:duration=6")
    second = ActivityEnvironment(attempt=2, checkpoint=first.checkpoints[-1])
    result = await second.run(convert_video, path=str(clip), **SLOW)
    assert (result.segments, result.restored) == (3, 0)
    assert left_over(clip) == ["clip.webm"]


async def test_an_input_that_changes_meanwhile_fails_the_attempt(clip: Path) -> None:
    """A film that is written to while it is converted gives an error, not a mixture."""
    env = ActivityEnvironment()
    running = asyncio.create_task(env.run(convert_video, path=str(clip), **SLOW))
    await asyncio.wait_for(env.wait_progress(3), 30)
    with clip.open("ab") as file:
        file.write(b"more")
    with pytest.raises(RuntimeError, match="changed while it was being converted"):
        await running


@pytest.mark.parametrize("moved", [False, True], ids=["before the rename", "after it"])
async def test_an_attempt_after_the_join_only_has_to_finish(clip: Path, ffmpeg_runs: FfmpegRuns, moved: bool) -> None:
    """A crash between the last checkpoint and the end costs no conversion, on either side of the rename."""
    first = ActivityEnvironment()
    result = await first.run(convert_video, path=str(clip), segment_seconds=4)
    output = Path(result.path)
    if not moved:
        work = output.with_name(f"{output.name}.test-job.parts")
        work.mkdir()
        output.rename(work / "joined.webm")
    before = len(ffmpeg_runs())
    second = ActivityEnvironment(attempt=2, checkpoint=first.checkpoints[-1])
    again = await second.run(convert_video, path=str(clip), segment_seconds=4)
    assert again == result.model_copy(update={"restored": 3})
    assert [run.split()[-2] for run in ffmpeg_runs()[before:]] == ["-i"], "one look at the input, and no conversion"
    assert left_over(clip) == ["clip.webm"]


async def test_a_cancel_leaves_nothing_of_itself(clip: Path) -> None:
    """After a cancel no ffmpeg runs, no piece is left, and an earlier result is still the one that it was."""
    output = clip.with_suffix(".webm")
    output.write_bytes(b"an earlier result")
    await stop_after(ActivityEnvironment(), 3, clip, "cancelled: by the test", **SLOW)
    assert left_over(clip) == ["clip.webm"]
    assert output.read_bytes() == b"an earlier result"


async def test_what_cannot_be_converted_faults_for_good(clip: Path) -> None:
    """A missing file, a directory, something else than a video, a film cut short: Fatal, and nothing left behind."""
    whole = clip.read_bytes()
    clip.with_name("noise.mp4").write_bytes(os.urandom(5000))
    clip.with_name("short.mp4").write_bytes(whole[: len(whole) // 2])
    expected = {
        "missing.mp4": "missing.mp4 does not exist",
        ".": "is not a regular file",
        "noise.mp4": "noise.mp4 is not a video",
        "short.mp4": r"short.mp4 should last 12.0 s but gave \d.\d s: damaged, or cut off",
    }
    before = left_over(clip)
    for name, message in expected.items():
        with pytest.raises(Fatal, match=message):
            await ActivityEnvironment().run(convert_video, path=str(clip.parent / name), segment_seconds=3)
    assert left_over(clip) == before


@pytest.mark.parametrize(
    ("output", "message"),
    [("clip.mp4", "is the input"), ("nowhere/clip.webm", "directory that does not exist"), (".", "is a directory")],
)
async def test_an_output_that_cannot_be_faults_for_good(clip: Path, output: str, message: str) -> None:
    """The input itself, a directory, or a place that does not exist is no output."""
    with pytest.raises(Fatal, match=message):
        await ActivityEnvironment().run(convert_video, path=str(clip), output=str(clip.parent / output))
    assert left_over(clip) == []


async def test_the_result_never_takes_the_input_s_name(clip: Path) -> None:
    """An mp4 that becomes an mp4 gets a name of its own."""
    result = await ActivityEnvironment().run(convert_video, path=str(clip), format="mp4")
    assert Path(result.path).name == "clip.converted.mp4"


def film(seconds: float, *, rate: str = "25", size: str = "160x120") -> tuple[str, ...]:
    return ("-f", "lavfi", "-i", f"testsrc=size={size}:rate={rate}:duration={seconds}")


HOLES = "select=not(between(t\\,4\\,9.7)+between(t\\,11.9\\,12.5))*gt(random(1)\\,0.3)"


@pytest.mark.parametrize("format", [pytest.param("webm", marks=pytest.mark.breadth), "mp4"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("silent.mkv", film(10)),
        ("ntsc.mkv", film(10, rate="30000/1001")),
        ("odd.mkv", film(4, size="161x121")),
        ("short.mkv", film(0.4)),
        ("unsteady.mkv", (*film(15), "-vf", HOLES, "-fps_mode", "vfr", "-bf", "2")),
        ("broadcast.ts", (*film(10), "-g", "100")),
        ("ends-early.mkv", (*film(5), *SOUND)),
        ("begins-late.mkv", ("-itsoffset", "7.123", *film(4), *SOUND)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_every_picture_stays_where_it_was(
    tmp_path: Path, make_clip: MakeClip, name: str, arguments: tuple[str, ...], format: Format
) -> None:
    """Whatever the rate, the holes and the container, no picture is lost, doubled or moved by cutting and joining."""
    codec = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv444p" if name == "odd.mkv" else "yuv420p")
    source = make_clip(tmp_path / name, *arguments, *codec)
    result = await ActivityEnvironment().run(convert_video, path=str(source), format=format, segment_seconds=2.5)
    begin = (await ffmpeg.probe(source)).start
    before, after = [at - begin for at in times(source)], times(Path(result.path))
    assert len(after) == len(before)
    assert after == pytest.approx(before, abs=0.002)


async def test_height_scales_the_picture(clip: Path) -> None:
    """The picture gets the height that was asked for, to an even number, and keeps its proportions."""
    result = await ActivityEnvironment().run(convert_video, path=str(clip), height=61)
    media = await ffmpeg.probe(Path(result.path))
    assert (media.width, media.height) == (80, 60)


async def test_as_a_job_with_bad_options(turnout_client: Client, clip: Path) -> None:
    """A format that nobody can make is refused at the submission, and so is a segment of no length."""
    odd: dict[str, Any]
    for odd in ({"format": "avi"}, {"segment_seconds": 0}, {"height": -1}):
        with pytest.raises((InvalidArguments, InvalidValue), match=next(iter(odd))):
            await turnout_client.submit(convert_video, str(clip), **odd)


async def test_as_a_job_that_is_cancelled(
    turnout_client: Client, turnout_worker: Callable[..., Awaitable[Any]], clip: Path
) -> None:
    """A cancel through the client ends the running ffmpeg and leaves the film's directory as it was."""
    await turnout_worker(convert_video)
    handle = await turnout_client.submit(convert_video, path=str(clip), **SLOW)
    async for info in handle.watch():
        if info.checkpoint and len(info.checkpoint["pieces"]) > 1:
            break
    await handle.cancel("not needed any more")
    with pytest.raises(JobCancelled, match="not needed any more"):
        await handle.result(timeout=30)
    assert not named("ffmpeg")
    assert left_over(clip) == []


async def test_as_a_job_with_a_bad_input(
    turnout_client: Client, turnout_worker: Callable[..., Awaitable[Any]], clip: Path
) -> None:
    """A job whose file is not there ends after one attempt and says so."""
    await turnout_worker(convert_video)
    handle = await turnout_client.submit(convert_video, path=str(clip.with_name("gone.mp4")))
    with pytest.raises(JobFaulted, match=r"gone\.mp4 does not exist"):
        await handle.result(timeout=30)
    assert (await handle.info()).attempt == 1
