#!/usr/bin/env bash
# Copies what cannot be recreated into a new directory: `deploy/backup.sh DIRECTORY`. deploy/restore.sh restores it.
# The databases come first, so the store already contains what they refer to. The store is stopped while it is copied, so
# that its files are consistent: stages that run meanwhile are retried, and the service does not need the store.
set -euo pipefail
umask 077
target=${1:?usage: deploy/backup.sh NEW_DIRECTORY}
mkdir "$target"
target=$(cd "$target" && pwd)
cd "$(dirname "$0")"
read -ra compose <<< "${COMPOSE:-docker compose}"

for database in airflow mlflow; do
  "${compose[@]}" exec -T postgres pg_dump --username=postgres --format=custom "$database" > "$target/$database.dump"
done
trap '"${compose[@]}" start s3' EXIT
"${compose[@]}" stop s3
"${compose[@]}" run --rm --no-deps -T --entrypoint tar s3 --create --directory=/data . > "$target/s3.tar"
cp .env "$target/env"
(cd "$target" && sha256sum airflow.dump mlflow.dump s3.tar env > SHA256SUMS)
echo "$target is complete. It holds secrets: keep it off this host, and as safe as .env."
