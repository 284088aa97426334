"""Object storage: whole objects by key under `RPS_STORE`, with faults told as what they are.

Addresses and keys come from the environment (`RPS_STORE`, `AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`,
`AWS_SECRET_ACCESS_KEY`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.errors import ConfigurationError, PassingFault

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

_ADDRESS = re.compile(r"s3://(?P<bucket>[A-Za-z0-9][A-Za-z0-9._-]*)(?P<prefix>(?:/.*)?)")
_DENIED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403", "401", "NoSuchBucket"}


@dataclass(frozen=True)
class Store:
    """One bucket and prefix. Every method raises ConfigurationError (denied) or PassingFault (down, lost half-way)."""

    client: S3Client
    bucket: str
    prefix: str

    def put(self, key: str, body: bytes) -> None:
        with self._faults(f"store {key}"):
            self.client.put_object(Bucket=self.bucket, Key=self._full(key), Body=body)

    def put_new(self, key: str, body: bytes) -> bool:
        """Store only if the key is free; False when it is taken."""
        from botocore.exceptions import ClientError

        with self._faults(f"store {key}"):
            try:
                self.client.put_object(Bucket=self.bucket, Key=self._full(key), Body=body, IfNoneMatch="*")
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] == 412:
                    return False
                raise
            return True

    def get(self, key: str) -> bytes | None:
        """The object, or None when there is none under that key."""
        from botocore.exceptions import ClientError

        with self._faults(f"fetch {key}"):
            try:
                return self.client.get_object(Bucket=self.bucket, Key=self._full(key))["Body"].read()
            except ClientError as error:
                if error.response["Error"]["Code"] == "NoSuchKey":
                    return None
                raise

    def keys(self, prefix: str) -> list[str]:
        """Every key that starts with ``prefix``, in order."""
        found: list[str] = []
        with self._faults(f"list {prefix}"):
            pages = self.client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self._full(prefix)):
                found += [item["Key"][len(self.prefix) :] for item in page.get("Contents", ())]
        return sorted(found)

    def _full(self, key: str) -> str:
        return f"{self.prefix}{key}"

    @contextmanager
    def _faults(self, doing: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        where = f"{self.client.meta.endpoint_url} (RPS_STORE=s3://{self.bucket}/{self.prefix})"
        try:
            yield
        except ClientError as error:
            told = f"S3 at {where} would not {doing}: {error}."
            if error.response["Error"]["Code"] in _DENIED:
                hint = "Check RPS_STORE, AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
                raise ConfigurationError(f"{told} {hint}") from error
            raise PassingFault(told) from error
        except (BotoCoreError, OSError) as error:
            raise PassingFault(f"S3 at {where} could not be reached to {doing}: {error}. Is it up?") from error


def open_store() -> Store:
    """The store that the environment names. Raises ConfigurationError naming what is missing or cannot be used."""
    needed = ("RPS_STORE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    missing = [name for name in needed if not os.environ.get(name)]
    if missing:
        raise ConfigurationError(f"set {', '.join(missing)} in the environment (see .env.example)")
    address = _ADDRESS.fullmatch(os.environ["RPS_STORE"])
    if address is None:
        expected = "s3://bucket or s3://bucket/prefix"
        raise ConfigurationError(f"RPS_STORE: expected {expected}; found {os.environ['RPS_STORE']!r}")
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        endpoint = os.environ.get(name, "")
        if "@" in endpoint:
            raise ConfigurationError(f"{name} holds a password, and would be logged and committed: take it out.")
        if endpoint and not endpoint.startswith(("http://", "https://")):
            raise ConfigurationError(f"{name}: expected an http:// or https:// address; found {endpoint!r}")
    prefix = address["prefix"].strip("/")
    return Store(_client(), address["bucket"], f"{prefix}/" if prefix else "")


def _client() -> S3Client:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        connect_timeout=5,
        read_timeout=30,
        retries={"mode": "standard", "total_max_attempts": 3},
        s3={"addressing_style": "path"},
    )
    try:
        # A session of its own: the default one keeps the first credentials that it saw.
        session = boto3.session.Session()
        return session.client("s3", config=config, region_name=os.environ.get("AWS_DEFAULT_REGION") or "us-east-1")
    except (BotoCoreError, ValueError) as error:
        hint = "Check AWS_ENDPOINT_URL, AWS_DEFAULT_REGION and AWS_PROFILE."
        raise ConfigurationError(f"S3 cannot be asked with these settings: {error}. {hint}") from error
