"""The image of a release: built, tried, pushed, then pulled and verified."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ci.release.build import build, find_base, labels
from ci.release.code_history import History
from ci.release.context import read_context
from ci.release.plan import Plan
from ci.release.steps import Steps
from ci.release.verify import verify
from clients.engine import Engine
from clients.errors import PassingFault
from clients.progress import Log
from clients.settings import ImageSettings


@dataclass(frozen=True)
class Delivery:
    """Brings an image into the registry."""

    engine: Engine
    history: History
    settings: ImageSettings
    health_seconds: float
    steps: Steps
    log: Log
    source_url: str
    """The repository's page."""

    def name(self, plan: Plan) -> str:
        return f"{self.settings.repository}:{plan.tag}"

    def deliver(self, plan: Plan, bundle: Path, tagged: str) -> str:
        """`repository@sha256:…` of a verified image of the plan; steps of earlier attempts are not repeated.

        tagged: the verified image in the release's Git tag; empty when there is no tag yet.
        Raises NotReleased when the image is at fault, PassingFault when the engine or the registry is.
        """
        name = self.name(plan)
        digest = self.engine.digest_in_registry(name)
        if digest is not None:
            for done in ("build", "smoke", "push"):
                self.steps.skip(done, f"the registry has {name}")
        elif not tagged:
            digest = self._push(plan, bundle, name)
        image = f"{self.settings.repository}@{digest}"
        if image == tagged:
            self.steps.skip("verify", f"{image} was verified before it was tagged")
        elif tagged:
            self.restore(plan, tagged)
        else:
            with self.steps.step("verify") as step:
                self.engine.remove(name)
                step.done(f"{image} as pulled: {self._seen(plan, image, pull=True)}")
        return tagged or image

    def restore(self, plan: Plan, image: str) -> None:
        """Make the release's name in the registry that of the image in its Git tag again."""
        with self.steps.step("verify") as step:
            name = self.name(plan)
            self.engine.pull(image)
            self.engine.tag(image, name)
            self.engine.push(name)
            step.done(f"{name} is again {image}, which the Git tag names")

    def _push(self, plan: Plan, bundle: Path, name: str) -> str:
        with self.steps.step("build") as step:
            context = read_context(self.history.directory, plan.sha, bundle)
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
                raise PassingFault(f"{name} was pushed as {pushed}, but the registry lacks it: run the release again")
            step.done(f"{name} is {digest}")
        return digest

    def _seen(self, plan: Plan, reference: str, *, pull: bool) -> str:
        """Run it and compare its answers; the result in a line."""
        seen = verify(
            self.engine,
            reference,
            pull=pull,
            expected=plan.labels,
            deadline_seconds=self.health_seconds,
            note=lambda check: self.log.line(f"  {check.name}: {check.found}"),
        )
        return f"healthy {seen.seconds_to_healthy:.1f} s after its start, and the worked example came back the same"
