#!/usr/bin/env bash
# Copies what cannot be made again into a new directory: `deploy/backup.sh DIRECTORY`. deploy/restore.sh brings it back.
# The databases come first, as whatever they name is in the store by then. The store stands still while it is copied, so
# that its files fit one another: stages that meet this are tried again, and the service does not need it.
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
