"""A workflow converts a film on two workers, one of which is killed on the way: `make demo`. It needs `turnout[demo]`.

    python examples/demo.py [FOLDER]     # the films are kept in FOLDER

The film is split into segments, which are converted in parallel on both workers, and joined. Everything in it is real:
ffmpeg, a nats-server, two worker processes, SIGKILL. It says what it does, checks what came of it, shows the workflow's
history and trace, and ends with 1 and the reason if anything is not as promised.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # workers/ lies beside the folder of this script

from turnout import Client, JobInfo, JobState, Outcome, TurnoutError, WorkflowHandle, WorkflowInfo, WorkflowState
from turnout.testing import NatsServer
from workers import ffmpeg, files
from workers.media import Converted, convert_film, convert_piece_of

ROOT = Path(__file__).resolve().parents[1]
CLIP_S = 24
SEGMENT_S = 3.0
SPEED = 2.0
"""Seconds of film per second: slow enough for an accident in the middle."""
KILL_AFTER_PIECES = 3
LIMIT_S = 85.0
TURNOUT = str(Path(sys.executable).with_name("turnout"))


class Broken(Exception):
    """Something is not as promised."""


def promise(kept: object, broken: str) -> None:
    if not kept:
        raise Broken(broken)


class Screen:
    """Bars on a terminal, and elsewhere a line for every change."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._begun = time.monotonic()
        self._shown: dict[str, str] = {}
        self._rows: dict[str, TaskID] = {}
        self._bars: Progress | None = None

    @contextlib.contextmanager
    def bars(self) -> Iterator[None]:
        columns = (
            TextColumn("         {task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f}% {task.fields[text]}"),
        )
        with contextlib.ExitStack() as stack:
            if self._console.is_terminal:
                self._bars = stack.enter_context(Progress(*columns, console=self._console))
            yield

    def say(self, text: str) -> None:
        self._console.print(f"[dim]{time.monotonic() - self._begun:5.1f} s[/]  {text}")

    def show(self, info: WorkflowInfo) -> None:
        """Where the workflow stands."""
        done, total = pieces(info)
        text = info.state.value
        if info.waiting:
            more = f" and {info.waiting_count - 1} more" if info.waiting_count > 1 else ""
            text = f"{info.details or info.state}, waits for {info.waiting[0].name}{more}"
        share = 1.0 if info.state.final else done / total
        if self._bars is not None:
            if info.id not in self._rows:
                self._rows[info.id] = self._bars.add_task("film", total=1.0, text="")
            self._bars.update(self._rows[info.id], completed=share, text=text)
        elif text != self._shown.get(info.id):
            self._shown[info.id] = text
            self.say(f"film {share:4.0%}  {text}")


def pieces(info: WorkflowInfo) -> tuple[int, int]:
    """How many pieces are converted, and of how many."""
    words = info.details.split()
    return (int(words[0]), int(words[2])) if words else (0, 1)


class Node:
    """A worker in a process of its own."""

    def __init__(self, name: str, url: str, logs: Path) -> None:
        self.name = name
        self._log = logs / f"{name}.log"
        command = [TURNOUT, "worker", "workers.media", "--name", name, "-c", "1", "--grace", "0", "--server", url]
        with self._log.open("wb") as log:
            # Ctrl-C is for the demo, which then stops its workers.
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)

    def check(self) -> None:
        said = self._log.read_text(errors="replace")[-2000:]
        promise(self.process.poll() is None, f"worker {self.name} ended with {self.process.returncode}:\n{said}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """In order if it can be done, and in any case."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=10)
        self.kill()


def make_clip(path: Path) -> None:
    """A film of ffmpeg's test picture, with sound."""
    picture = ("-f", "lavfi", "-i", f"testsrc2=size=640x360:rate=24:duration={CLIP_S}")
    sound = ("-f", "lavfi", "-i", f"sine=frequency=440:duration={CLIP_S}")
    codecs = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac")
    command = [ffmpeg.executable(), "-loglevel", "error", "-nostdin", "-y", *picture, *sound, *codecs, str(path)]
    subprocess.run(command, check=True, timeout=60)


async def started(client: Client, nodes: Mapping[str, Node]) -> None:
    """Wait until all nodes have registered."""
    while {node.name for node in await client.nodes()} != nodes.keys():
        for node in nodes.values():
            node.check()
        await asyncio.sleep(0.1)


async def follow(handle: WorkflowHandle[Converted], screen: Screen, until: Callable[[int], bool]) -> int:
    """Follow the workflow until so many pieces are converted, or to its end: how many that are."""
    done = 0
    async for info in handle.watch():
        screen.show(info)
        done = max(done, pieces(info)[0])
        if until(done):
            break
    return done


async def piece_jobs(client: Client, workflow_id: str) -> list[JobInfo]:
    return [info async for info in client.jobs(workflow=workflow_id, activity=convert_piece_of)]


async def somebody_running(client: Client, workflow_id: str) -> tuple[list[JobInfo], JobInfo]:
    """All pieces, and the one that has begun last of those that are being converted."""
    while True:
        jobs = await piece_jobs(client, workflow_id)
        running = [job for job in jobs if job.state is JobState.running and job.node and job.started_at]
        if running:
            return jobs, max(running, key=lambda job: job.attempts[-1].started_at)
        await asyncio.sleep(0.02)


async def accident(client: Client, nodes: Mapping[str, Node], clip: Path, screen: Screen) -> str:
    """The story: a workflow, two workers, one of them killed. The workflow's id."""
    await started(client, nodes)
    screen.say(f"two workers are up: {', '.join(sorted(node.id for node in await client.nodes()))}")
    handle = await client.start(convert_film, str(clip), segment_seconds=SEGMENT_S, max_speed=SPEED)
    screen.say(f"started: workflow {handle.id}")
    with screen.bars():
        await follow(handle, screen, lambda done: done >= KILL_AFTER_PIECES)
        jobs, running = await somebody_running(client, handle.id)
        home = running.node or ""
        nodes[home.rpartition("-")[0]].kill()
        before = [job.id for job in jobs if job.state is JobState.completed]
        screen.say(f"[bold red]killed {home}[/] (SIGKILL) under a segment: {len(before)} pieces were done")
        await follow(handle, screen, lambda done: False)
    await check_film(handle, screen)
    await check_pieces(await piece_jobs(client, handle.id), before, running, screen)
    left = list(clip.parent.glob("*.part*"))
    promise(not left, f"left behind beside the films: {left}")
    return handle.id


async def check_pieces(jobs: list[JobInfo], before: Sequence[str], killed: JobInfo, screen: Screen) -> None:
    """Each piece has one job that completed once; what was done before was not done again; the killed one elsewhere."""
    for job in jobs:
        outcomes = [attempt.outcome for attempt in job.attempts]
        promise(outcomes.count(Outcome.completed) == 1, f"job {job.id}: its attempts are {outcomes}")
    redone = [job.id for job in jobs if job.id in before and len(job.attempts) > 1]
    promise(not redone, f"pieces that were done were converted again: {redone}")
    again = next(job for job in jobs if job.id == killed.id)
    promise([attempt.outcome for attempt in again.attempts] == [Outcome.lost, Outcome.completed], f"{again.attempts}")
    promise(again.attempts[1].node != killed.node, f"job {killed.id} came back to a dead node")
    screen.say(
        f"[bold green]the other worker went on[/]: of {len(jobs)} pieces {len(before)} were done before, none of these "
        f"again, and the lost one on {again.attempts[1].node}"
    )


async def check_film(handle: WorkflowHandle[Converted], screen: Screen) -> None:
    """Look at how the workflow ended, and into the film that it made."""
    info = await handle.info()
    promise(info.state is WorkflowState.completed, f"the workflow is {info.state}: {info.reason or info.error}")
    events = await handle.history()
    promise(events[0].kind == "started" and events[-1].kind == "completed", "the history has no begin, or no end")
    result = await handle.result()
    media = await ffmpeg.probe(Path(result.path))
    promise(abs(media.duration - CLIP_S) < 0.5, f"{result.path} lasts {media.duration} s, the clip {CLIP_S} s")
    promise(media.audio is not None, f"{result.path} has no sound")
    promise(files.size_of(Path(result.path)) == result.size, f"{result.path} is not of the size that was reported")
    promise(result.segments == CLIP_S / SEGMENT_S, f"the film was cut into {result.segments} segments")
    screen.say(f"{result.path}: {media.container}, {media.duration} s, {media.width}x{media.height}, with sound")


async def show(verb: str, workflow_id: str, url: str) -> None:
    print(f"\n$ turnout workflow {verb} {workflow_id}", flush=True)
    process = await asyncio.create_subprocess_exec(TURNOUT, "workflow", verb, workflow_id, "--server", url)
    promise(await process.wait() == 0, f"`turnout workflow {verb} {workflow_id}` ended with {process.returncode}")


async def demo(screen: Screen, keep: Path | None) -> None:
    """Set the scene, and leave nothing of it behind."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # to end as at a Ctrl-C: in order
        asyncio.get_running_loop().add_signal_handler(number, signal.raise_signal, signal.SIGINT)
    with tempfile.TemporaryDirectory(prefix="turnout-demo-") as name, contextlib.ExitStack() as cleanup:
        place = Path(name)
        films = keep or place / "films"
        films.mkdir(parents=True, exist_ok=True)
        clip = films / "clip.mp4"
        make_clip(clip)
        screen.say(f"a clip of {CLIP_S} s: {clip}")
        server = cleanup.enter_context(NatsServer(store_dir=place / "nats"))
        screen.say(f"a NATS server: {server.url}")
        nodes = {name: Node(name, server.url, place) for name in ("red", "blue")}
        for node in nodes.values():
            cleanup.callback(node.stop)
        async with asyncio.timeout(LIMIT_S), Client.connect(server.url) as client:
            workflow_id = await accident(client, nodes, clip, screen)
            await show("history", workflow_id, server.url)
            await show("trace", workflow_id, server.url)
        print()
    screen.say(f"all was as promised; {f'the films are in {films}' if keep else 'the films are gone again'}")


def main() -> int:
    keep = Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else None
    try:
        asyncio.run(demo(Screen(), keep))
    except KeyboardInterrupt:
        print("demo: stopped; nothing of it runs any more", file=sys.stderr)
        return 130
    except TimeoutError:
        print(f"demo: not finished after {LIMIT_S:g} s", file=sys.stderr)
        return 1
    except (Broken, TurnoutError, ffmpeg.FFmpegError, subprocess.SubprocessError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
