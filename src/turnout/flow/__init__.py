"""A deterministic event loop for asyncio code: virtual time, no input or output, the same order in every run.

Nothing here knows turnout: the standard library is all that it uses. Workflows run on it, their test kit does, and so
does the simulation of the production code.

**Driving a loop.** A `Loop` does nothing by itself; its owner says what happens and when.

    loop = Loop(clock=Clock(1_700_000_000.0))           # seconds; several loops may share one clock
    main = loop.create_root(run(), "0")                  # a task at the root of the tree; its path is "0"
    loop.run_until_idle()                                # run all that is ready; never waits, never moves the time
    with loop:                                           # the same, for many runs: entering is not free
        feed(loop, first); loop.drain(); feed(loop, second); loop.drain()
    loop.next_due()                                      # when the earliest timer is due, or None
    loop.advance_to(loop.next_due())                     # the time never goes back
    loop.run_until_idle()
    loop.tasks; loop.idle; loop.time(); loop.drop()

Many loops may take turns on one thread, and a loop may be run inside a callback of another: the running loop and the
current task are put back. Within a run, ordinary asyncio code finds `asyncio.get_running_loop()`, `current_task`,
`create_task`, `sleep`, `timeout`, `wait_for`, `gather`, `TaskGroup`, locks, queues, `call_soon/later/at`, `wait` and
`as_completed`. Whatever reaches out of the program is refused with ``refuse(sentence)``, an error that the owner chose.

**Names.** Each task has a `scope`: its `path` is "0" for the main task, "0.2" for that one's third child; what
callbacks create is below "c", what closes left generators below "g". `loop.scope` is the scope of the task that runs
just now, and `scope.next_ordinal()` numbers its commands. Tasks hash by their path, so a set of them has the same order
each time.

**Durable timers.** With ``Loop(timers=owner)`` each timer that is not due yet is offered to the owner:

    owner.timer_created(timer) -> bool                   # True takes it: it fires by loop.fire(timer) alone
    owner.timer_cancelled(timer)                         # one that was taken, before it fired
    timer.scope.path, timer.ordinal, timer.when()        # its name: the task that set it, and the ordinal there
    loop.fire(timer)                                     # makes it ready, and the time at least its due time

**Ordinary programs.** `run_virtual(main())` is `asyncio.run` in virtual time: with nothing ready the time jumps to the
next timer; with no timer either it raises `Deadlock`, which says where each task waits. `Timeline` runs several loops
on one time, as the processes of a simulated system that can be frozen and killed. A `Clock` is called for the time:
``clock()``.

**Dropping.** `loop.drop()` frees an instance without a word: its coroutines are unwound, but whatever they do then has
no effect, and what they await does not come. `loop.dropped` says so to those who give commands.
"""

from turnout.flow.clock import Clock
from turnout.flow.errors import Deadlock, Dropped, Killed, Overrun, TimeLimitReached
from turnout.flow.handles import Handle, Timer, TimerOwner
from turnout.flow.loop import Loop
from turnout.flow.scopes import Scope
from turnout.flow.tasks import CodeLine, Future, Task, stack_of
from turnout.flow.virtual import Timeline, run_virtual

__all__ = [
    "Clock",
    "CodeLine",
    "Deadlock",
    "Dropped",
    "Future",
    "Handle",
    "Killed",
    "Loop",
    "Overrun",
    "Scope",
    "Task",
    "TimeLimitReached",
    "Timeline",
    "Timer",
    "TimerOwner",
    "run_virtual",
    "stack_of",
]
