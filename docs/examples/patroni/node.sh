#!/bin/sh
# Runs a node of the cluster in patroni.yml: Patroni, and PostgreSQL below it. Not as root, which PostgreSQL refuses.
#
#     node.sh NAME POSTGRESQL_PORT REST_PORT [DIRECTORY]
set -eu
here=$(dirname "$0")

export PATRONI_NAME="$1"
export PATRONI_POSTGRESQL_LISTEN="127.0.0.1:$2" PATRONI_POSTGRESQL_CONNECT_ADDRESS="127.0.0.1:$2"
export PATRONI_RESTAPI_LISTEN="127.0.0.1:$3" PATRONI_RESTAPI_CONNECT_ADDRESS="127.0.0.1:$3"
export PATRONI_POSTGRESQL_DATA_DIR="${4:-.}/$1" PATRONI_POSTGRESQL_PGPASS="${4:-.}/$1.pgpass"
# Debian has the programs of each release of PostgreSQL apart.
PATRONI_POSTGRESQL_BIN_DIR=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
export PATRONI_POSTGRESQL_BIN_DIR

exec patroni "$here/patroni.yml"
