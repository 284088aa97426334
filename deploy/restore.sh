#!/usr/bin/env bash
# Restores the databases and the store: `deploy/restore.sh DIRECTORY`, a directory that deploy/backup.sh has written.
# Their current contents are lost. On a new host it also restores `.env`, because its keys belong to the data.
set -euo pipefail
umask 077
source=$(cd "${1:?usage: deploy/restore.sh DIRECTORY}" && pwd)
cd "$(dirname "$0")"
read -ra compose <<< "${COMPOSE:-docker compose}"

(cd "$source" && sha256sum --check --quiet SHA256SUMS)
[ -e .env ] || cp "$source/env" .env
"${compose[@]}" --profile '*' stop
"${compose[@]}" up --detach --wait postgres
for database in airflow mlflow; do
  "${compose[@]}" exec -T postgres pg_restore --username=postgres --dbname=postgres --clean --if-exists --create \
    --exit-on-error < "$source/$database.dump"
done
"${compose[@]}" run --rm --no-deps -T --entrypoint sh s3 -c \
  'find /data -mindepth 1 -delete && tar --extract --directory=/data' < "$source/s3.tar"
echo "The databases and the store are those of $source. Start the rest: ${compose[*]} up --detach"
