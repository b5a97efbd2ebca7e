#!/bin/sh
# What the sample scripts of pgpool-II do by ssh at a node; run there, as who owns it.
set -eu

act=$1
data=${2:-}
host=${3:-}
port=${4:-}
slot=${5:-}

follow() {
    sed -i '/^primary_conninfo/d; /^primary_slot_name/d' "$data/postgresql.auto.conf"
    cat >>"$data/postgresql.auto.conf" <<EOT
primary_conninfo = 'host=$host port=$port user=postgres application_name=$PGRING_NODE'
primary_slot_name = '$slot'
EOT
    touch "$data/standby.signal"
    pg_ctl -l "$data.log" -w -D "$data" start
}

case $act in
reach) ls /tmp >/dev/null ;;
promote) pg_ctl -D "$data" -w promote ;;
rewind)
    pg_ctl -w -m f -D "$data" stop
    pg_rewind -D "$data" --source-server="user=postgres host=$host port=$port dbname=postgres"
    rm -rf "$data"/pg_replslot/*
    follow
    ;;
copy)
    pg_ctl -m f -D "$data" stop || true
    rm -rf "$data"
    pg_basebackup -h "$host" -U postgres -p "$port" -D "$data" -X stream
    follow
    ;;
*)
    echo "pgpool-node: $act?" >&2
    exit 2
    ;;
esac
