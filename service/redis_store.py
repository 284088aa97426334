"""The state of the series in Redis, shared by any number of replicas.

A series is one hash, its encoded state and a version. A change reads both, works on a copy, and writes it only if the
version is still the same, else begins anew; so replicas never undo one another's work, and what was answered is kept.
Every key holds the challenge and the layout of the state, so a model that looks back farther starts with states of its
own, warmed from its bundle, while replicas of the earlier one go on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import msgspec
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from service.model import Model
from service.series import SeriesState
from service.stores import StoreUnavailable

T = TypeVar("T")

ATTEMPTS = 100
"""How often a change is begun anew when other replicas are quicker."""
CONNECTIONS = 32
SECONDS = 2.0
_WRITE = """
if (redis.call('HGET', KEYS[1], 'version') or '0') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'state', ARGV[3])
redis.call('ZADD', KEYS[2], 0, ARGV[4])
redis.call('INCR', KEYS[3])
return 1
"""


class RedisStore:
    """States in Redis. Raises StoreUnavailable within seconds when it is away, and goes on when it is back."""

    def __init__(self, model: Model, address: str) -> None:
        """address: `redis://host:6379/0`, with a password if need be. Raises ValueError when it is none."""
        self._model = model
        pool = BlockingConnectionPool.from_url(
            address,
            max_connections=CONNECTIONS,
            timeout=SECONDS,
            socket_timeout=SECONDS,
            socket_connect_timeout=SECONDS,
            retry=Retry(NoBackoff(), 1),
            retry_on_error=[ConnectionError],
        )
        self._redis: Redis = Redis(connection_pool=pool)
        self._write = self._redis.register_script(_WRITE)
        self._prefix = f"rps:{model.name}:{_layout(model)}"

    async def read(self, unique_id: str) -> SeriesState | None:
        encoded = await self._ask(self._redis.hget(self._key(unique_id), "state"))
        return None if encoded is None else SeriesState.decode(self._model, encoded)

    async def change(self, unique_id: str, change: Callable[[SeriesState], T]) -> T:
        key = self._key(unique_id)
        for _ in range(ATTEMPTS):
            version, encoded = await self._ask(self._redis.hmget(key, "version", "state"))
            state = SeriesState(self._model) if encoded is None else SeriesState.decode(self._model, encoded)
            changed = change(state)
            before = int(version or 0)
            keys = [key, f"{self._prefix}:names", f"{self._prefix}:revision"]
            written = await self._ask(self._write(keys, [before, before + 1, state.encode(), unique_id]))
            if written:
                return changed
        raise StoreUnavailable(f"{unique_id}: other replicas changed it each of {ATTEMPTS} times; send fewer at once")

    async def unknown(self, unique_ids: set[str]) -> set[str]:
        names = sorted(unique_ids)
        scores = await self._ask(self._redis.zmscore(f"{self._prefix}:names", names)) if names else []
        return {name for name, score in zip(names, scores, strict=True) if score is None}

    async def names(self, most: int) -> list[str]:
        found = await self._ask(self._redis.zrange(f"{self._prefix}:names", 0, most - 1))
        return [name.decode() for name in found]

    async def count(self) -> int:
        return int(await self._ask(self._redis.zcard(f"{self._prefix}:names")))

    async def revision(self) -> int:
        return int(await self._ask(self._redis.get(f"{self._prefix}:revision")) or 0)

    async def check(self) -> None:
        await self._ask(self._redis.ping())

    async def close(self) -> None:
        await self._redis.aclose()

    def _key(self, unique_id: str) -> str:
        return f"{self._prefix}:series:{unique_id}"

    async def _ask(self, answer: object) -> Any:  # noqa: ANN401 - Redis answers with what the command gives
        try:
            return await cast("Awaitable[Any]", answer)
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable(f"Redis, which holds the state, does not answer: {type(error).__name__}") from error


def _layout(model: Model) -> str:
    """Names what an encoded state looks like; another layout has other keys."""
    spec = model.spec
    said = [spec.variables, spec.lookback, spec.horizons, spec.step_minutes]
    return hashlib.sha256(msgspec.json.encode(said)).hexdigest()[:12]
