"""A video is converted on two workers, one of which is killed on the way: `make demo`. It needs `turnout[demo]`.

    python examples/demo.py [FOLDER]     # the films are kept in FOLDER

Everything in it is real: ffmpeg, a nats-server, two worker processes, SIGKILL. It says what it does, checks what came
of it, and ends with 1 and the reason if anything is not as promised.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # workers/ lies beside the folder of this script

from turnout import Client, JobHandle, JobInfo, JobState, Outcome, TurnoutError
from turnout.testing import NatsServer
from workers import ffmpeg, files
from workers.media import Converted, convert_video

ROOT = Path(__file__).resolve().parents[1]
CLIP_S = 24
SEGMENT_S = 3.0
SPEED = 2.0
"""Seconds of film per second: slow enough for an accident in the middle."""
KILL_AFTER_SEGMENTS = 3
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

    def show(self, name: str, info: JobInfo) -> None:
        """Where a job stands."""
        report = info.progress
        done, total = (report.done, report.total or 1.0) if report else (0.0, 1.0)
        text = f"{info.state}"
        if info.state is JobState.running:
            text += f" on {info.node}, attempt {info.attempt}, {report.message if report else ''}"
        if self._bars is not None:
            if name not in self._rows:
                self._rows[name] = self._bars.add_task(name, total=1.0, text="")
            self._bars.update(self._rows[name], completed=done / total, text=text)
        elif text != self._shown.get(name):
            self._shown[name] = text
            self.say(f"{name:<10} {done / total:4.0%}  {text}")


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


def publish_bare(url: str, subject: str, payload: Mapping[str, object]) -> None:
    """What `nats pub` does: a line and the body over a socket. No headers, no id, nothing of turnout."""
    address, body = urlsplit(url), json.dumps(payload).encode()
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        connection.sendall(b'CONNECT {"verbose":false}\r\n')
        connection.sendall(b"PUB %b %d\r\n%b\r\nPING\r\n" % (subject.encode(), len(body), body))
        answer = b""
        while b"PONG" not in answer and (more := connection.recv(4096)):
            answer += more
    promise(b"PONG" in answer and b"-ERR" not in answer, f"the server refused the bare publish: {answer!r}")


async def newcomer(client: Client, known: str) -> JobHandle[Converted]:
    """The job whose id nobody has been told."""
    while True:
        async for info in client.jobs(activity=convert_video):
            if info.id != known:
                return client.job(info.id, convert_video)
        await asyncio.sleep(0.1)


async def started(client: Client, nodes: Mapping[str, Node]) -> None:
    """Wait until all nodes have registered."""
    while {node.name for node in await client.nodes()} != nodes.keys():
        for node in nodes.values():
            node.check()
        await asyncio.sleep(0.1)


async def follow(handle: JobHandle[Converted], name: str, screen: Screen) -> None:
    async for info in handle.watch():
        screen.show(name, info)


async def follow_until_accident(handle: JobHandle[Converted], screen: Screen) -> tuple[str, int]:
    """Follow the job until some of it is done: which node runs it, and how many segments are finished."""
    async for info in handle.watch():
        screen.show("by client", info)
        finished = [name for name in (info.checkpoint or {}).get("pieces", ()) if not name.startswith("audio")]
        if info.node and len(finished) >= KILL_AFTER_SEGMENTS:
            return info.node, len(finished)
    raise Broken(f"the job ended before its worker could be killed: {(await handle.info()).state}")


async def accident(client: Client, url: str, nodes: Mapping[str, Node], clip: Path, screen: Screen) -> list[str]:
    """The story: two jobs, two workers, one of them killed. The ids of the jobs."""
    await started(client, nodes)
    screen.say(f"two workers are up: {', '.join(sorted(node.id for node in await client.nodes()))}")
    first = await client.submit(convert_video, str(clip), segment_seconds=SEGMENT_S, max_speed=SPEED)
    screen.say(f"submitted by the client: job {first.id}")
    payload = {"path": str(clip), "format": "mp4", "segment_seconds": SEGMENT_S, "max_speed": 2 * SPEED}
    publish_bare(url, "turnout.jobs.convert_video", payload)
    second = await newcomer(client, first.id)
    screen.say(f"submitted by a bare publish: job {second.id}")

    with screen.bars():
        following = asyncio.create_task(follow(second, "by publish", screen))
        try:
            home, finished = await follow_until_accident(first, screen)
            node = next(node for name, node in nodes.items() if home.startswith(f"{name}-"))
            node.kill()
            screen.say(
                f"[bold red]killed {home}[/] (SIGKILL, process {node.process.pid}): {finished} segments were done"
            )
            await follow(first, "by client", screen)
            await following
        finally:
            following.cancel()

    await check(first, [Outcome.lost, Outcome.completed], screen)
    await check(second, [Outcome.completed], screen)
    redone = finished - min(finished, (await first.result()).restored)
    promise(redone == 0, f"{redone} finished segments were converted again")
    screen.say(
        f"[bold green]the other worker went on[/]: of the {finished} segments that were done, {redone} were done again"
    )
    left = list(clip.parent.glob("*.part*"))
    promise(not left, f"left behind beside the films: {left}")
    return [first.id, second.id]


async def check(handle: JobHandle[Converted], outcomes: list[Outcome], screen: Screen) -> None:
    """Look at how a job ended, and into the film that it made."""
    info = await handle.info()
    promise(info.state is JobState.completed, f"job {info.id} is {info.state}: {info.reason or info.error}")
    came = [attempt.outcome for attempt in info.attempts]
    promise(came == outcomes, f"job {info.id}: its attempts are {came}, they should be {outcomes}")
    promise(len({attempt.node for attempt in info.attempts}) == len(came), f"job {info.id} came back to a dead node")
    result = await handle.result()
    media = await ffmpeg.probe(Path(result.path))
    promise(abs(media.duration - CLIP_S) < 0.5, f"{result.path} lasts {media.duration} s, the clip {CLIP_S} s")
    promise(media.audio is not None, f"{result.path} has no sound")
    promise(files.size_of(Path(result.path)) == result.size, f"{result.path} is not of the size that was reported")
    screen.say(f"{result.path}: {media.container}, {media.duration} s, {media.width}x{media.height}, with sound")


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
            for job_id in await accident(client, server.url, nodes, clip, screen):
                print(flush=True)
                show = await asyncio.create_subprocess_exec(TURNOUT, "job", "show", job_id, "--server", server.url)
                promise(await show.wait() == 0, f"`turnout job show {job_id}` ended with {show.returncode}")
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
