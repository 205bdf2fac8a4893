"""What a loop raises of its own."""

from __future__ import annotations


class Deadlock(RuntimeError):
    """Nothing is ready and no timer is set: nothing can ever happen again. The message says where each task waits."""


class TimeLimitReached(RuntimeError):
    """The next thing would happen only after the virtual time that was given as the limit."""


class Dropped(BaseException):
    """Thrown into the suspended coroutines of a loop that is being dropped, so that their frames can be freed."""


class Overrun(SystemExit):
    """Raised in the midst of code that has held its thread for too long.

    It is a SystemExit because asyncio lets nothing else out of a task's step: every other error would end that one
    task, and the loop would go on.
    """


class Killed(SystemExit):
    """Raised in code that kills its own simulated process."""
