#!/bin/bash
# Run once, on an empty volume. The appliance is no superuser: a statement smuggled in cannot read files or run programs.
set -euo pipefail
password=$(cat /run/secrets/database-password)
psql -v ON_ERROR_STOP=1 -v password="$password" --username "$POSTGRES_USER" --dbname postgres <<'SQL'
CREATE ROLE edge LOGIN CREATEDB PASSWORD :'password';
CREATE DATABASE edge OWNER edge;
REVOKE CONNECT ON DATABASE edge FROM PUBLIC;
SQL
