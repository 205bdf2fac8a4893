"""Convert a video, segment by segment: the long job that turnout is made for, and the same as a workflow.

    turnout worker workers.media
    turnout job submit convert_video '{"path": "/media/holiday.mp4"}' --follow
    turnout workflow start convert_film '{"path": "/media/holiday.mp4"}' --follow

The timeline is cut into segments of a few seconds. Each is converted into a file of its own, in a work directory
beside the output, and then written down in the checkpoint: an attempt that follows a failure, a crash or a stopped
node goes on with the next segment, on any node that sees the same files. The sound is converted in one piece, for a
cut in it would be heard. In the end the pieces are joined without being converted again, and the checked result
takes its name in one step.

`convert_video` is one job on one node. `convert_film` is a workflow with a job for each segment, on all nodes at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import attrs
from pydantic import BaseModel, Field

from turnout import Fatal, JobFaulted, RetryPolicy, activity, current_job, current_workflow, workflow
from workers import ffmpeg, files

Format = Literal["webm", "mp4"]

VIDEO_CODEC: dict[Format, str] = {
    "webm": "-c:v libvpx -deadline realtime -cpu-used 8 -crf 20 -b:v 1500k",
    "mp4": "-c:v libx264 -preset ultrafast -crf 26 -video_track_timescale 90000",
}
AUDIO_CODEC: dict[Format, str] = {"webm": "-c:a libopus", "mp4": "-c:a aac"}

EVERY_PICTURE_AT_ITS_TIME = "-fps_mode passthrough -enc_time_base 1:90000"
"""None doubled or dropped to make a steady rate: a segment is to hold what its stretch of the timeline holds."""

EXACT_SEEK = {"mov", "matroska", "avi"}
SEEK_LEAD_S = 10.0
"""How far ahead of a segment to begin reading where the container has no index: a seek there may land too late."""

DURATION_TOLERANCE_S = 1.0
"""How far the result may be from the input's length: containers round, and a last segment may be cut short."""

SAMPLE_BYTES = 1 << 20
"""How much of the input's beginning and of its end its fingerprint covers, beside its size and time."""


class Converted(BaseModel):
    """The new video. `duration` in seconds, `size` in bytes; `restored` of its `segments` were not done again."""

    path: str
    duration: float
    size: int
    segments: int
    restored: int


class Piece(BaseModel):
    """A finished file in the work directory. `size` in bytes; `frames` is 0 where the video has a gap."""

    size: int
    frames: int


class Joined(BaseModel):
    """The joined and checked result. `size` in bytes, `duration` in seconds."""

    size: int
    duration: float


class Ledger(BaseModel):
    """The checkpoint: what is finished. `recipe` says of which input, and how; it is worth nothing for another one."""

    recipe: str
    pieces: dict[str, Piece] = {}
    joined: Joined | None = None


@attrs.frozen
class Options:
    """What the caller asked for."""

    source: Path
    output: Path
    format: Format
    segment_seconds: float
    height: int | None
    max_speed: float | None


@attrs.frozen
class Segment:
    """A stretch of the timeline, in seconds, and the name of the file that holds it converted."""

    name: str
    start: float
    end: float

    @property
    def length(self) -> float:
        return self.end - self.start


@attrs.frozen
class Plan:
    """All that is decided before the first frame is converted: the same in every attempt, if the input is the same."""

    options: Options
    media: ffmpeg.Media
    fingerprint: str
    work: Path
    segments: tuple[Segment, ...]

    @property
    def recipe(self) -> str:
        options = self.options
        return f"{self.fingerprint} {options.format} {options.segment_seconds:g}s {options.height or 'same'}"

    @property
    def audio(self) -> str:
        return f"audio.{self.options.format}"

    @property
    def joined(self) -> Path:
        return self.work / f"joined.{self.options.format}"


Show = Callable[[float, str], None]
"""Takes the seconds of video that are done, and a word on what is going on."""

Save = Callable[[Ledger], Awaitable[None]]
"""Returns when the ledger is durable."""


@activity(timeout=86_400, heartbeat_timeout=120, lease=5, concurrency=2, retry=RetryPolicy(max_attempts=3, delay=2))
async def convert_video(
    path: str,
    format: Format = "webm",
    output: str | None = None,
    segment_seconds: Annotated[float, Field(ge=0.5, le=600)] = 6.0,
    height: Annotated[int, Field(ge=16, le=4320)] | None = None,
    max_speed: Annotated[float, Field(ge=0.1)] | None = None,
) -> Converted:
    """Convert the video file `path` into `output` (by default beside it), which is there whole or not at all.

    `height` scales the picture, in pixels. `max_speed` is how many seconds of video to convert per second at most, to
    leave the machine to others. A file that is missing or not a video faults the job at once, other failures do not.
    """
    job = current_job()
    source = Path(path)
    target = Path(output) if output else beside(source, format)
    options = Options(source, target, format, segment_seconds, height, max_speed)
    plan = await make_plan(options, job.id, job.heartbeat)
    ledger = await asyncio.to_thread(still_true, job.restored(Ledger), plan)
    restored = sum(segment.name in ledger.pieces for segment in plan.segments)
    total = plan.media.duration

    def show(done: float, message: str) -> None:
        job.progress(round(min(done, total), 2), round(total, 2), message)

    try:
        joined = await convert(plan, ledger, job.checkpoint, show)
        await asyncio.to_thread(finish, plan)
    except BaseException as error:
        # An attempt that was stopped, or failed, or is late, leaves the pieces to the next. After these there is none.
        if isinstance(error, Fatal) or (job.cancel_reason or "").startswith("cancelled"):
            files.remove(plan.work)
        raise
    show(total, "done")
    return Converted(
        path=str(target),
        duration=joined.duration,
        size=joined.size,
        segments=len(plan.segments),
        restored=restored,
    )


def beside(source: Path, format: Format) -> Path:
    """Where the result goes if the caller does not say: beside the input, under a name that is not the input's."""
    output = source.with_name(f"{source.stem}.{format}")
    return output if output != source else source.with_name(f"{source.stem}.converted.{format}")


async def make_plan(options: Options, job_id: str, beat: Callable[[], None]) -> Plan:
    """Look at the input and cut its timeline. Raises Fatal if input or output are hopeless."""
    source, output = options.source, options.output
    if not source.is_file():
        raise Fatal(f"{source} {'is not a regular file' if source.exists() else 'does not exist'}")
    if output.is_dir() or not output.parent.is_dir():
        raise Fatal(f"{output} {'is a directory' if output.is_dir() else 'is in a directory that does not exist'}")
    if output.exists() and output.samefile(source):
        raise Fatal(f"{output} is the input: the output needs a name of its own")
    try:
        media = await ffmpeg.probe(source, lambda report: beat())
    except ffmpeg.NotAVideo as error:
        raise Fatal(str(error)) from error
    return Plan(
        options=options,
        media=media,
        fingerprint=await asyncio.to_thread(fingerprint, source),
        work=work_directory(output, job_id),
        segments=cut(media, options.segment_seconds, options.format),
    )


def work_directory(output: Path, job_id: str) -> Path:
    """Where the pieces of a film are until it is whole."""
    return output.with_name(f"{output.name}.{job_id}.parts")


def cut(media: ffmpeg.Media, length: float, format: Format) -> tuple[Segment, ...]:
    """Cut a timeline into segments; the last is up to half as long again, instead of leaving a crumb.

    A cut is a quarter of a picture ahead of one: right at it, or half-way to the next, roundings would show it twice.
    """
    rate = media.rate or 1000.0
    numbers = range(1, max(1, round(media.duration / length)))
    cuts = [(round(length * number * rate) - 0.25) / rate for number in numbers]
    stretches = zip([0.0, *cuts], [*cuts, media.duration], strict=True)
    return tuple(Segment(f"{number:06d}.{format}", start, end) for number, (start, end) in enumerate(stretches))


def fingerprint(path: Path) -> str:
    """What tells this content of a file from another, without reading all of a long film."""
    status = path.stat()
    digest = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns} ".encode())
    with path.open("rb") as file:
        digest.update(file.read(SAMPLE_BYTES))
        file.seek(max(0, status.st_size - SAMPLE_BYTES))
        digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:32]


def still_true(ledger: Ledger | None, plan: Plan) -> Ledger:
    """Of an earlier attempt's ledger, what the disk confirms; the work directory is left with these files alone."""
    if ledger is None or ledger.recipe != plan.recipe:
        ledger = Ledger(recipe=plan.recipe)
    if ledger.joined:
        # The joined file is renamed to the output, so it is in one of the two places, if nobody took it away.
        place = plan.joined if plan.joined.exists() else plan.options.output
        if files.size_of(place) == ledger.joined.size:
            return ledger
    pieces = {name: piece for name, piece in ledger.pieces.items() if files.size_of(plan.work / name) == piece.size}
    files.keep_only(plan.work, pieces)
    return Ledger(recipe=plan.recipe, pieces=pieces)


async def convert(plan: Plan, ledger: Ledger, save: Save, show: Show) -> Joined:
    """Convert what is missing and join the pieces; the ledger grows with each step, and is saved."""
    if ledger.joined:
        return ledger.joined

    def step(before: float, message: str) -> Callable[[float], None]:
        show(before, message)
        return lambda seconds: show(before + seconds, message)

    done = sum(segment.length for segment in plan.segments if segment.name in ledger.pieces)
    if plan.media.audio is not None and plan.audio not in ledger.pieces:
        ledger.pieces[plan.audio] = await convert_audio(plan, lambda seconds: show(done, f"sound, {seconds:.0f} s"))
        await save(ledger)
    for number, segment in enumerate(plan.segments, 1):
        if segment.name not in ledger.pieces:
            on_time = step(done, f"segment {number} of {len(plan.segments)}")
            ledger.pieces[segment.name] = await convert_segment(plan, segment, on_time)
            await save(ledger)
            done += segment.length
    ledger.joined = await join(plan, ledger, step(done, "joining"))
    # Saved before the result takes its name: an attempt that was replaced unawares fails here, and changes nothing.
    await save(ledger)
    return ledger.joined


async def convert_audio(plan: Plan, on_time: Callable[[float], None]) -> Piece:
    """The whole of the sound, in one piece."""
    options = plan.options
    arguments = ["-threads", "1", *ffmpeg.source(options.source), "-map", f"0:{plan.media.audio}"]
    return await convert_piece(plan, plan.audio, [*arguments, *AUDIO_CODEC[options.format].split()], on_time)


async def convert_segment(plan: Plan, segment: Segment, on_time: Callable[[float], None]) -> Piece:
    """The picture of one segment. On one thread: a node converts as many videos at once as it has slots."""
    options = plan.options
    pace = f"-readrate {options.max_speed:g} " if options.max_speed else ""
    lead = 0.0 if EXACT_SEEK & set(plan.media.container.split(",")) else min(segment.start, SEEK_LEAD_S)
    # Not `-t`, which counts from the first picture: that may come late. The last segment is everything that is left.
    end = "" if segment == plan.segments[-1] else f":end={lead + segment.length:.6f}"
    # The codecs want even numbers of pixels, -2 is whatever keeps the proportions.
    size = f"-2:{options.height // 2 * 2}" if options.height else "trunc(iw/2)*2:trunc(ih/2)*2"
    return await convert_piece(
        plan,
        segment.name,
        [
            *f"{pace}-threads 1 -ss {segment.start - lead:.6f}".split(),
            *ffmpeg.source(options.source),
            *f"-map 0:{plan.media.video} -threads 1 -pix_fmt yuv420p -vf".split(),
            f"trim=start={lead:.6f}{end},setpts=PTS-{lead:.6f}/TB,scale={size}",
            *EVERY_PICTURE_AT_ITS_TIME.split(),
            *VIDEO_CODEC[options.format].split(),
        ],
        lambda seconds: on_time(min(seconds, segment.length)),
    )


async def convert_piece(plan: Plan, name: str, arguments: Sequence[str], on_time: Callable[[float], None]) -> Piece:
    """Run ffmpeg into one file of the work directory, which appears there when it is finished and on disk."""
    with files.whole(plan.work / name) as part:
        target = ("-f", plan.options.format, ffmpeg.local(part))
        report = await ffmpeg.run([*arguments, *target], lambda report: on_time(report.seconds))
        await asyncio.to_thread(files.sync, part)  # the slow bit of what follows, done in a thread beforehand
        size = files.size_of(part)
    if await asyncio.to_thread(fingerprint, plan.options.source) != plan.fingerprint:
        raise RuntimeError(f"{plan.options.source} changed while it was being converted; the next attempt begins anew")
    return Piece(size=size, frames=report.frames)


async def join(plan: Plan, ledger: Ledger, on_time: Callable[[float], None]) -> Joined:
    """Join the pieces without converting them again, and check the result. Raises Fatal if it falls short."""
    source = plan.options.source.name
    pictures = [segment for segment in plan.segments if ledger.pieces[segment.name].frames]
    if not pictures:
        raise Fatal(f"{source} holds no frame that can be read")
    contents = plan.work / "contents.ffconcat"
    contents.write_text(contents_of(pictures))
    arguments = f"-copyts -itsoffset {pictures[0].start:.6f} -f concat -i".split()
    arguments += [ffmpeg.local(contents)]
    if plan.media.audio is not None:
        arguments += ["-i", ffmpeg.local(plan.work / plan.audio), "-map", "1:a"]
    arguments += ["-map", "0:v", "-c", "copy"]
    if plan.options.format == "mp4":
        arguments += ["-movflags", "+faststart"]
    with files.whole(plan.joined) as part:
        arguments += ["-f", plan.options.format, ffmpeg.local(part)]
        await ffmpeg.run(arguments, lambda report: on_time(report.seconds))
        await asyncio.to_thread(files.sync, part)
        result, expected = await ffmpeg.probe(part), plan.media.duration
        if not math.isclose(result.duration, expected, rel_tol=0, abs_tol=DURATION_TOLERANCE_S):
            raise Fatal(f"{source} should last {expected:.1f} s but gave {result.duration:.1f} s: damaged, or cut off?")
        size = files.size_of(part)
    return Joined(size=size, duration=result.duration)


def contents_of(segments: Sequence[Segment]) -> str:
    """The list that ffmpeg joins by. Each piece lies where it was cut, even if its first picture comes later."""
    ends = [*(segment.start for segment in segments[1:]), segments[-1].end]
    lengths = [end - segment.start for segment, end in zip(segments, ends, strict=True)]
    lines = [
        f"file {segment.name}\ninpoint 0\nduration {length:.6f}\n"
        for segment, length in zip(segments, lengths, strict=True)
    ]
    return "".join(["ffconcat version 1.0\n", *lines])


def finish(plan: Plan) -> None:
    """Give the result its name and remove the work directory; an earlier attempt may have come so far or farther."""
    if plan.joined.exists():
        files.publish(plan.joined, plan.options.output)
    files.remove(plan.work)


# --- the same as a workflow: all nodes convert segments of one film ---------------------------------------------------


class Film(BaseModel):
    """A film on its way: where it is, what was asked for, and how it was cut. `name` tells its work directory."""

    name: str
    path: str
    output: str
    format: Format
    segment_seconds: float
    height: int | None
    max_speed: float | None
    fingerprint: str = ""
    segments: int = 0
    sound: bool = False


PIECE_RETRY = RetryPolicy(max_attempts=3, delay=1)


@activity(timeout=600, lease=5, retry=PIECE_RETRY)
async def split_film(film: Film) -> Film:
    """Look at the input, cut its timeline, and make the work directory. Faults at once if the film is hopeless."""
    plan = await _plan_of(film)
    await asyncio.to_thread(files.keep_only, plan.work, ())
    found = {"fingerprint": plan.fingerprint, "segments": len(plan.segments), "sound": plan.media.audio is not None}
    return film.model_copy(update=found)


@activity(timeout=86_400, heartbeat_timeout=120, lease=5, max_lost=5, retry=PIECE_RETRY)
async def convert_piece_of(film: Film, number: int | None) -> Piece:
    """Convert one segment, or the sound if `number` is None. Another attempt's file is replaced by an equal one."""
    job, plan = current_job(), await _plan_of(film)
    if number is None:
        return await convert_audio(plan, lambda seconds: job.progress(round(seconds, 2), round(plan.media.duration, 2)))
    segment = plan.segments[number]
    return await convert_segment(
        plan, segment, lambda seconds: job.progress(round(seconds, 2), round(segment.length, 2), segment.name)
    )


@activity(timeout=3600, heartbeat_timeout=120, lease=5, retry=PIECE_RETRY)
async def join_film(film: Film, pieces: dict[str, Piece]) -> Joined:
    """Join the pieces and check the result. It has no name yet."""
    job, plan = current_job(), await _plan_of(film)
    return await join(plan, Ledger(recipe=plan.recipe, pieces=pieces), lambda seconds: job.heartbeat())


@activity(timeout=600, lease=5, retry=PIECE_RETRY)
async def publish_film(film: Film, joined: Joined) -> None:
    """Give the result its name and remove the work directory; an earlier attempt may have done so."""
    plan = await _plan_of(film)
    await asyncio.to_thread(finish, plan)
    if files.size_of(plan.options.output) != joined.size:
        raise RuntimeError(f"{film.output} is not the film that was joined: somebody else has written it")


@activity(timeout=600, lease=5, retry=PIECE_RETRY)
async def discard_film(film: Film) -> None:
    """Remove the work directory."""
    await asyncio.to_thread(files.remove, work_directory(Path(film.output), film.name))


async def _plan_of(film: Film) -> Plan:
    """The plan, which every node makes anew. Raises Fatal if the film was changed since it was cut."""
    options = Options(
        Path(film.path), Path(film.output), film.format, film.segment_seconds, film.height, film.max_speed
    )
    plan = await make_plan(options, film.name, current_job().heartbeat)
    if film.fingerprint and plan.fingerprint != film.fingerprint:
        raise Fatal(f"{film.path} changed while it was being converted")
    return plan


@workflow
async def convert_film(
    path: str,
    format: Format = "webm",
    output: str | None = None,
    segment_seconds: Annotated[float, Field(ge=0.5, le=600)] = 6.0,
    height: Annotated[int, Field(ge=16, le=4320)] | None = None,
    max_speed: Annotated[float, Field(ge=0.1)] | None = None,
) -> Converted:
    """Convert a film as `convert_video` does, but its segments in parallel, on all nodes that see the same files.

    Whatever dies, the film is there whole or not at all; and a film that faults or is cancelled leaves nothing behind.
    """
    wf = current_workflow()
    target = output or str(beside(Path(path), format))
    film = Film(
        name=wf.id,
        path=path,
        output=target,
        format=format,
        segment_seconds=segment_seconds,
        height=height,
        max_speed=max_speed,
    )
    try:
        film = await split_film(film)
        joined = await join_film(film, await _converted(film))
        await publish_film(film, joined)
    except (JobFaulted, ExceptionGroup, asyncio.CancelledError):
        await discard_film(film)  # durable as well: also while the workflow is being cancelled
        raise
    return Converted(path=target, duration=joined.duration, size=joined.size, segments=film.segments, restored=0)


async def _converted(film: Film) -> dict[str, Piece]:
    """All pieces of a film by their names. If one faults the others are stopped, and waited for."""
    wf = current_workflow()
    piece = convert_piece_of.options(cancellation="wait")
    pieces: dict[str, Piece] = {}

    async def one(name: str, number: int | None) -> None:
        pieces[name] = await piece(film, number)
        wf.set_details(f"{len(pieces)} of {film.segments + film.sound} pieces are converted")

    async with asyncio.TaskGroup() as group:
        if film.sound:
            group.create_task(one(f"audio.{film.format}", None))
        for number in range(film.segments):
            group.create_task(one(f"{number:06d}.{film.format}", number))
    return pieces
