"""The state of the series in Redis, shared by any number of replicas.

A series is one hash: its encoded state and a version. A change reads both, works on a copy, and writes it only if the
version is still the same, else starts again; so replicas never undo one another's work.
A version is a token of the write that made it: a write whose answer was lost is recognised when it is sent again.
Every key names the challenge and the layout of the state, so a model that looks back farther starts with states of its
own, warmed from its bundle, while replicas of the earlier one go on.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, TypeVar, cast
from weakref import WeakValueDictionary

import msgspec
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    InvalidResponse,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from clients.errors import ConfigurationError
from service.model.served import Model
from service.state.series import SeriesState
from service.state.stores import StateUnreadable, StoreUnavailable

T = TypeVar("T")

ATTEMPTS = 100
"""How often a change is begun anew when other replicas are quicker."""
CONNECTIONS = 32
REACH_ATTEMPTS = 10
"""How often, a second apart, a Redis is asked before a service that starts gives up."""
SECONDS = 2.0
"""How long one command may take, its connection included."""
ENCODING = 3
"""Goes up when `SeriesState.encode` writes otherwise."""
_LOGGER = logging.getLogger("service")
_ERROR_CODE = re.compile(r"[A-Z]{2,20}\b")
_WRITE = """
local found = redis.call('HGET', KEYS[1], 'version') or ''
if found == ARGV[2] then return 1 end
if found ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'state', ARGV[3])
redis.call('ZADD', KEYS[2], 0, ARGV[4])
return 1
"""


class RedisStore:
    """States in Redis. Raises StoreUnavailable within seconds when it is away, and goes on when it is back."""

    def __init__(self, model: Model, address: str) -> None:
        """address: `redis://host:6379/0`, with a password if need be. Raises ConfigurationError when it is none."""
        self._model = model
        self._redis = _client(address)
        self._write = self._redis.register_script(_WRITE)
        self._prefix = f"rps:{model.name}:{_layout(model)}"
        self._names = f"{self._prefix}:names"
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._writer = secrets.token_hex(8)
        self._writes = count()

    async def read(self, unique_id: str) -> SeriesState | None:
        key = self._key(unique_id)
        encoded = await _ask(self._redis.hget(key, "state"), key)
        return None if encoded is None else self._decoded(unique_id, encoded)

    async def change(self, unique_id: str, change: Callable[[SeriesState], T]) -> T:
        # Within this replica one after the other: only replicas need race.
        turn = self._turns.setdefault(unique_id, asyncio.Lock())
        try:
            async with asyncio.timeout(SECONDS):
                await turn.acquire()
        except TimeoutError as error:
            raise StoreUnavailable(f"{unique_id}: changes before this one took more than {SECONDS:g} s") from error
        try:
            return await self._change(unique_id, change)
        finally:
            turn.release()

    async def _change(self, unique_id: str, change: Callable[[SeriesState], T]) -> T:
        key = self._key(unique_id)
        for _ in range(ATTEMPTS):
            before, encoded = await _ask(self._redis.hmget(key, "version", "state"), key)
            state = SeriesState(self._model, unique_id) if encoded is None else self._decoded(unique_id, encoded)
            changed = change(state)
            now = f"{self._writer}-{next(self._writes):x}"
            values = [before or b"", now, state.encode(), unique_id]
            if await _ask(self._write([key, self._names], values), key):
                return changed
        raise StoreUnavailable(f"{unique_id}: other replicas changed it each of {ATTEMPTS} times; send fewer at once")

    async def unknown(self, unique_ids: set[str]) -> set[str]:
        names = sorted(unique_ids)
        scores = await _ask(self._redis.zmscore(self._names, names), self._names) if names else []
        return {name for name, score in zip(names, scores, strict=True) if score is None}

    async def names(self, most: int) -> list[str]:
        found = await _ask(self._redis.zrange(self._names, 0, most - 1), self._names)
        return [name.decode() for name in found]

    async def count(self) -> int:
        return int(await _ask(self._redis.zcard(self._names), self._names))

    async def check(self) -> None:
        await _ask(self._redis.ping())

    async def close(self) -> None:
        await self._redis.aclose()

    def _key(self, unique_id: str) -> str:
        return f"{self._prefix}:series:{unique_id}"

    def _decoded(self, unique_id: str, encoded: bytes) -> SeriesState:
        try:
            return SeriesState.decode(self._model, unique_id, encoded)
        except ValueError as error:
            raise _unreadable(self._key(unique_id), str(error)) from error


async def reached(address: str) -> None:
    """Wait, in bounds, for the Redis at ``address``. Raises StoreUnavailable or ConfigurationError."""
    redis = _client(address)
    try:
        for left in reversed(range(REACH_ATTEMPTS)):
            try:
                await _ask(redis.ping())
                return
            except StoreUnavailable as error:
                _LOGGER.warning("state unavailable", extra={"detail": str(error)})
                if not left:
                    raise
                await asyncio.sleep(1.0)
    finally:
        await redis.aclose()


def _client(address: str) -> Redis:
    try:
        pool = BlockingConnectionPool.from_url(
            address,
            max_connections=CONNECTIONS,
            timeout=SECONDS,
            socket_timeout=SECONDS,
            socket_connect_timeout=SECONDS,
            retry=Retry(NoBackoff(), 1),
        )
    except ValueError as error:
        raise ConfigurationError(f"RPS_STATE: expected the address of a Redis: {error}") from error
    return Redis(connection_pool=pool)


async def _ask(answer: object, key: str = "") -> Any:  # noqa: ANN401 - Redis answers with what the command gives
    try:
        async with asyncio.timeout(SECONDS):
            return await cast("Awaitable[Any]", answer)
    except (AuthenticationError, AuthenticationWrongNumberOfArgsError, NoPermissionError):
        raise StoreUnavailable("Redis refuses the user or password that RPS_STATE names, or wants one") from None
    except InvalidResponse:
        raise StoreUnavailable("what answers at the address in RPS_STATE is no Redis") from None
    except ResponseError as error:
        code = _ERROR_CODE.match(str(error))  # the rest of its words may repeat what was sent, a password too
        if code and code[0] == "WRONGTYPE":
            raise _unreadable(key, "expected a hash, or a sorted set of names; found another type") from None
        reason = code[0] if code else type(error).__name__
        raise StoreUnavailable(f"Redis, which holds the state, refuses: {reason}; its own log tells more") from None
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreUnavailable(f"Redis, which holds the state, does not answer: {type(error).__name__}") from error


def _unreadable(key: str, found: str) -> StateUnreadable:
    return StateUnreadable(f"Redis key {key!r}: {found}; DEL it, and the series starts anew")


def _layout(model: Model) -> str:
    """Names what an encoded state looks like; another layout has other keys."""
    spec = model.spec
    unit = model.bundle.manifest.unit
    reach = [spec.lookback, model.target_lookback]
    said = [ENCODING, spec.variables, reach, spec.horizons, spec.step_minutes, unit, spec.scale]
    return hashlib.sha256(msgspec.json.encode(said)).hexdigest()[:12]
