"""Make production what the newest Git tag of a challenge says: the alias in the model registry, `latest` of images.

Each attempt promotes the newest release, which may not be its own, and looks again afterwards, so that releases that
end at the same time agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ci.release.numbering import Named, last_release
from ci.release.registered import Models
from ci.release.steps import Steps
from clients.engine import Engine
from clients.engine_faults import TagTaken
from clients.errors import NotReleased
from clients.progress import Log
from records.mlflow_names import VersionTag

LATEST = "latest"


@dataclass(frozen=True)
class Promotion:
    """Where production is set. taken: the reserved and released numbers."""

    challenge: str
    models: Models
    engine: Engine
    taken: Callable[[], Sequence[Named]]
    steps: Steps
    log: Log

    def promote(self, own: Named) -> Named:
        """Promote the newest release, ``own`` unless a later one has come meanwhile; which one it is."""
        newest = self._newest(own)
        while True:
            if newest.number != own.number:
                self.log.line(f"{newest.number.tag} has been released meanwhile: it becomes production")
            self._alias(newest)
            self._latest(newest)
            newest, before = self._newest(own), newest
            if newest == before:
                return newest

    def _newest(self, own: Named) -> Named:
        """The newest release with a model and an image; people's own tags have none."""
        found = last_release([each for each in self.taken() if each.image and each.model_version], self.challenge)
        return own if found is None or found.number < own.number else found

    def _alias(self, release: Named) -> None:
        with self.steps.step("promote") as step:
            if release.withdraws is not None:
                reason = f"rolled back to version {release.model_version} by {release.number.tag}"
                self.models.withdraw(range(release.model_version + 1, release.withdraws + 1), reason)
            found = self.models.production() == release.model_version
            self.models.promote(release.model_version)
            self.models.tag(release.model_version, VersionTag.RELEASED, release.number.tag)
            step.done(f"the alias production names version {release.model_version} of {self.challenge}", found=found)

    def _latest(self, release: Named) -> None:
        repository, _, digest = release.image.partition("@")
        name = f"{repository}:{LATEST}"
        with self.steps.step("latest") as step:
            found = self.engine.digest_in_registry(name) == digest
            try:
                pushed = digest if found else self._push_as(name, release.image)
            except TagTaken as refusal:
                step.leave_out(f"{name} stays what it was, the release is {release.image} ({refusal})")
                return
            if pushed != digest:
                found_there = f"expected {digest}, which is {release.number.tag}; the registry has {pushed}"
                raise NotReleased(f"{name}: {found_there}. Find out who pushes there, and run the release again.")
            step.done(f"{name} is {release.number.tag}", found=found)

    def _push_as(self, name: str, image: str) -> str:
        self.engine.pull(image)
        self.engine.tag(image, name)
        return self.engine.push(name)
