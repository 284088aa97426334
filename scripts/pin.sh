#!/usr/bin/env bash
# Pin every requirements/*.in: exact versions with hashes, for every Python that is supported, and no registry address.
set -euo pipefail
cd "$(dirname "$0")/../requirements"
pin() { # name, more flags
  local name=$1; shift
  uv pip compile --quiet --upgrade --universal --python-version "${oldest:-3.11}" --generate-hashes \
    --no-emit-index-url --no-emit-find-links --no-header "$name.in" -o "$name.txt" "$@"
  echo "requirements/$name.txt: $(grep -c == "$name.txt") pinned"
}
PATH="$PWD/../.venv/bin:$PATH"
pin uv
pin dev
pin pipelines -c dev.txt  # the same versions in the stages' environment as in development
pin ci -c dev.txt         # and in the workflows
unloaded=(faker markdown-it-py mdurl polyfactory pygments rich rich-click)  # see service.in
pin service -c dev.txt "${unloaded[@]/#/--no-emit-package=}"
for image in airflow mlflow s3 feed watch; do pin "$image" -c dev.txt; done  # and in the images of deploy/
pin bench
pin bench-data --no-deps  # for the data that they carry
pin bench-service
pin bench-mlserver
oldest=3.10 pin dagshub
