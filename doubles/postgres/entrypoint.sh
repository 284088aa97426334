#!/usr/bin/env bash
# As the official image's: the first start makes the server and runs what is mounted, over a socket alone.
set -euo pipefail
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  # shellcheck disable=SC2086 # several arguments
  initdb --username=postgres --pwfile=<(echo "$POSTGRES_PASSWORD") ${POSTGRES_INITDB_ARGS:-} > /dev/null
  echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
  pg_ctl --options="-c listen_addresses=''" --wait start > /dev/null
  for file in /docker-entrypoint-initdb.d/*.sql; do
    psql --set=ON_ERROR_STOP=1 --no-password --no-psqlrc --username=postgres --file="$file"
  done
  pg_ctl --mode=fast --wait stop > /dev/null
fi
exec postgres -c 'listen_addresses=*'
