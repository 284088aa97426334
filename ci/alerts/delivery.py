"""Events on their way to GitHub: each is told until GitHub has taken it, is told whatever becomes of it, or is too old.

At least once: when GitHub's answer is lost, nobody can tell whether it took the event, and it is told again. The
payload's `event` is the same each time, and `python -m ci retrain` makes no second run of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

from ci.alerts.decisions import Clock, Event
from ci.alerts.metrics import Metrics
from ci.alerts.receiver import BROKEN_SECONDS, Receiver
from ci.alerts.settings import AlertSettings
from ci.alerts.store import OpenEvent, Store, StoreBroken
from ci.errors import CiError, ConfigurationError, GitHubFault
from ci.progress import Log

if TYPE_CHECKING:
    from ci.github import GitHub

EVENT_TYPE = "model-drift"
PATIENCE_SECONDS = 5.0
"""Of one attempt: a signal to stop waits for it."""
LOOK_SECONDS = 30.0


class EventRefused(CiError):
    """GitHub has looked at the event and will not have it."""

    exit_code = 75


class Delivery:
    """Tells GitHub, one event after the other; one that fails waits alone, and the others do not wait for it."""

    def __init__(
        self,
        settings: AlertSettings,
        github: GitHub,
        store: Store,
        *,
        receiver: Receiver,
        clock: Clock,
        metrics: Metrics,
        log: Log,
    ) -> None:
        self._settings = settings
        self._github = github
        self._store = store
        self._receiver = receiver
        self._clock = clock
        self._metrics = metrics
        self._log = log
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="github")
        self._next: dict[str, float] = {}
        """When an event is to be tried again, by the clock; at once after a restart."""
        self._taken: set[str] = set()
        """Events that GitHub has, and of which the store could not be told yet."""
        self._stopping = False
        self.waiting = 0

    def stop(self) -> None:
        """Let ``run`` end after the attempt that is at work."""
        self._stopping = True
        self._receiver.events.set()

    async def run(self) -> None:
        """Tell GitHub what waits, again and again, until ``stop``."""
        while not self._stopping:
            self._receiver.events.clear()
            try:
                for event in await self._look():
                    if not self._stopping and self._clock.now() >= self._next.get(event.event.id, 0.0):
                        await self._settle(event)
                await self._look()
                pause = self._pause()
            except StoreBroken:  # the receiver has noted it
                pause = BROKEN_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._receiver.events.wait()
        self._thread.shutdown()

    async def _look(self) -> list[OpenEvent]:
        """What waits. Raises StoreBroken."""
        events = await self._receiver.call(self._store.open_events)
        self.waiting = len(events)
        self._metrics.waiting.set(len(events))
        self._metrics.refused.set(sum(event.refused for event in events))
        self._metrics.oldest.set(self._clock.now() - events[0].created if events else 0.0)
        return events

    async def _settle(self, waiting: OpenEvent) -> None:
        """One attempt, and what came of it into the store. Raises StoreBroken."""
        event, now = waiting.event, self._clock.now()
        if event.id not in self._taken and now > waiting.created + self._settings.give_up:
            hours = self._settings.give_up_hours
            await self._receiver.call(lambda: self._store.settle(event.id, now, delivered=False))
            self._ended(event, "given up")
            self._log.error(
                f"event {event.id} of {event.challenge} is given up: GitHub has not taken it in {hours:g} h"
            )
            return
        try:
            if event.id not in self._taken:
                await asyncio.get_running_loop().run_in_executor(self._thread, lambda: send(self._github, event))
        except (ConfigurationError, EventRefused, GitHubFault) as error:
            await self._failed(waiting, error)
            return
        self._taken.add(event.id)
        await self._receiver.call(lambda: self._store.settle(event.id, self._clock.now(), delivered=True))
        self._taken.discard(event.id)
        self._ended(event, "delivered")
        self._metrics.attempts.labels("delivered").inc()
        self._log.line(f"event {event.id} of {event.challenge} is delivered to {self._github.settings.repository}")

    async def _failed(self, waiting: OpenEvent, error: CiError) -> None:
        event, refused = waiting.event, not isinstance(error, GitHubFault)
        pause = self._settings.refused_seconds if refused else self._backoff(waiting.attempts)
        self._next[event.id] = self._clock.now() + pause
        self._metrics.attempts.labels("refused" if refused else "failed").inc()
        told = f"event {event.id} of {event.challenge} is kept, and tried again in {pause:.0f} s: {error}"
        if refused:
            self._log.error(f"GitHub refuses: {told}")
        else:
            self._log.line(told)
        await self._receiver.call(lambda: self._store.failed(event.id, str(error), refused=refused))

    def _backoff(self, attempts: int) -> float:
        """Seconds: doubled each time up to the longest pause, and shaken, so that not all come at once."""
        return min(2.0 ** min(attempts, 20), self._settings.retry_seconds) * random.uniform(0.5, 1.0)  # noqa: S311

    def _ended(self, event: Event, outcome: str) -> None:
        self._next.pop(event.id, None)
        self._metrics.events.labels(event.challenge, outcome.replace(" ", "_")).inc()

    def _pause(self) -> float:
        soonest = min(self._next.values(), default=self._clock.now() + LOOK_SECONDS) - self._clock.now()
        return min(max(soonest, 0.1), LOOK_SECONDS)


def send(github: GitHub, event: Event) -> None:
    """Tell GitHub of an event. Raises ConfigurationError, EventRefused, GitHubFault (which may pass)."""
    from ci.github import HEADERS

    data = cast(Any, {"event_type": EVENT_TYPE, "client_payload": event.payload()})

    def dispatch() -> None:
        from githubkit.exception import RequestFailed

        try:
            github.rest.repos.create_dispatch_event(*github.repository, headers=HEADERS, data=data)
        except RequestFailed as error:
            if error.response.status_code != 422:
                raise
            raise EventRefused(f"GitHub answers 422 ({error.response.text[:300]})") from None

    github.patiently(f"sending the event {EVENT_TYPE}", "contents: write", dispatch)
