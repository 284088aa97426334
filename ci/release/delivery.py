"""The image of a release: built, tried, pushed, and what was pushed pulled again and verified."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from ci.release.build import build, find_base, labels
from ci.release.code_history import History
from ci.release.context import read_context
from ci.release.plan import Plan
from ci.release.steps import Steps
from ci.release.verify import Check, verify
from clients.engine import Engine
from clients.errors import PassingFault
from clients.progress import Log
from clients.settings import ImageSettings


@dataclass(frozen=True)
class Delivery:
    """What it takes to bring an image into the registry."""

    engine: Engine
    history: History
    settings: ImageSettings
    health_deadline: timedelta
    steps: Steps
    log: Log
    source_url: str
    """Of the repository."""

    def deliver(self, plan: Plan, bundle: Path, tagged: str) -> str:
        """`repository@sha256:…` of a verified image of the plan; steps that were done before are not done again.

        tagged: the image that the Git tag of this release names already, which was verified before; empty when there
        is no tag yet.
        Raises NotReleased when the image is at fault, PassingFault when the engine or the registry is.
        """
        name = self.name(plan)
        digest = self.engine.digest_in_registry(name)
        if digest is None and tagged:
            self.restore(plan, tagged)
            return tagged
        if digest is None:
            digest = self._push(plan, bundle, name)
        else:
            for step in ("build", "smoke", "push"):
                self.steps.skip(step, f"the registry has {name}")
        image = f"{self.settings.repository}@{digest}"
        if image == tagged:
            self.steps.skip("verify", f"{image} was verified before it was tagged")
            return image
        if tagged:
            self.restore(plan, tagged)
            return tagged
        self._verify(plan, name, image)
        return image

    def restore(self, plan: Plan, image: str) -> None:
        """Make the release's name in the registry that of the image that its Git tag names, whoever has moved it."""
        with self.steps.step("verify") as step:
            name = self.name(plan)
            self.engine.pull(image)
            self.engine.tag(image, name)
            self.engine.push(name)
            step.done(f"{name} is again {image}, which the Git tag names")

    def _push(self, plan: Plan, bundle: Path, name: str) -> str:
        with self.steps.step("build") as step:
            context = read_context(self.history.repository, plan.sha, bundle)
            base = find_base(self.engine.client, self.settings.base or context.default_base, self.log)
            built = build(
                self.engine.client,
                context,
                tag=name,
                labels=labels(plan, context, base, self.source_url),
                base=base,
                log=self.log,
                network=self.settings.network,
            )
            step.done(f"{name}, {built.id[:19]}, on {base.name}", found=built.found)
        with self.steps.step("smoke") as step:
            step.done(self._seen(plan, name, pull=False))
        with self.steps.step("push") as step:
            pushed = self.engine.push(name)
            # Of two releases that push the same at once, the registry keeps the later one, for both.
            digest = self.engine.digest_in_registry(name)
            if digest is None:
                raise PassingFault(f"{name} was pushed as {pushed}, and the registry has it not: run the release again")
            step.done(f"{name} is {digest}")
        return digest

    def _verify(self, plan: Plan, name: str, image: str) -> None:
        with self.steps.step("verify") as step:
            self.engine.remove(name)
            step.done(f"{image} as pulled: {self._seen(plan, image, pull=True)}")

    def _seen(self, plan: Plan, reference: str, *, pull: bool) -> str:
        """Run it and compare what it answers; what was seen, in a line."""
        seen = verify(
            self.engine,
            reference,
            pull=pull,
            expected=plan.labels,
            deadline_seconds=self.health_deadline.total_seconds(),
            note=self._told,
        )
        return f"healthy {seen.seconds_to_healthy:.1f} s after its start, and the worked example came back the same"

    def _told(self, check: Check) -> None:
        self.log.line(f"  {check.name}: {check.found}")

    def name(self, plan: Plan) -> str:
        """Of the plan's image in the registry."""
        return f"{self.settings.repository}:{plan.tag}"
