ARG BASE=python:3.12.14-slim-bookworm

# The service's pinned requirements, without files that no server reads. The same bytes for every commit.
FROM ${BASE} AS packages
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_CERT
ENV PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1
COPY requirements/service.txt scripts/image_tree.py /build/
RUN python3 -m venv /build/pip \
    && /build/pip/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-compile \
        --require-hashes --no-deps --only-binary :all: --target /app/packages --requirement /build/service.txt \
        --report /build/report.json \
    && python3 /build/image_tree.py record /build/report.json /app/packages.json \
    && python3 /build/image_tree.py trim /app/packages \
    && PYTHONPATH=/app/packages PYTHONPYCACHEPREFIX=/app/pycache python3 /build/image_tree.py compile \
        /app/pycache /app/packages encodings.idna httptools litestar numpy prometheus_client redis.asyncio \
        uvicorn.lifespan.on uvicorn.loops.uvloop \
    && python3 /build/image_tree.py settle /app 0 \
    && mkdir /rootfs && mv /app /rootfs/

# The commit's code and the bundle. The build imports all code once, to fail if a dependency is missing; the bundle and the
# commit's time follow, because they change with every release. The time is also file content: a builder's cache ignores
# file times, and would reuse another commit's layer.
FROM ${BASE} AS service
ENV PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1 PYTHONPYCACHEPREFIX=/app/pycache PYTHONPATH=/app:/app/packages
COPY --from=packages /rootfs/ /
COPY scripts/image_tree.py /build/
COPY clients/__init__.py clients/errors.py clients/redaction.py clients/settings.py /app/clients/
COPY forecasting/ /app/forecasting/
COPY service/ /app/service/
RUN python3 /build/image_tree.py compile /rootfs/app/pycache /app \
        service.__main__ service.application service.healthcheck service.state.redis_store service.server \
    && mv /app/clients /app/forecasting /app/service /rootfs/app/
COPY bundle/ /rootfs/app/bundle/
COPY LICENSE /rootfs/app/
ARG SOURCE_DATE_EPOCH=0
RUN echo "$SOURCE_DATE_EPOCH" > /rootfs/app/committed \
    && python3 /build/image_tree.py settle /rootfs "$SOURCE_DATE_EPOCH"

FROM ${BASE}
COPY --from=packages /rootfs/ /
COPY --from=service /rootfs/ /
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONPYCACHEPREFIX=/app/pycache PYTHONPATH=/app:/app/packages PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 TMPDIR=/dev/shm RPS_BUNDLE=/app/bundle RPS_HOST=0.0.0.0 RPS_PORT=8000
ARG RPS_MODEL_VERSION
ENV RPS_MODEL_VERSION=${RPS_MODEL_VERSION}
LABEL io.rps.bundle=/app/bundle
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python3", "-I", "-S", "-X", "pycache_prefix=/app/pycache", "/app/service/healthcheck.py"]
ENTRYPOINT ["python3", "-m", "service"]
