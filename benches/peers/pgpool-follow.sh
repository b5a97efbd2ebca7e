#!/bin/bash
# follow_primary_command of the outage rig's pgpool-II: follow_primary.sh.sample of 4.3, step by
# step, but that it reaches a node through the agent of the rig in place of ssh, and that there is
# no archive.

set -o xtrace

NODE_ID="$1"
NODE_HOST="$2"
NODE_PORT="$3"
NODE_PGDATA="$4"
NEW_PRIMARY_NODE_ID="$5"
NEW_PRIMARY_NODE_HOST="$6"
NEW_PRIMARY_NODE_PORT="$9"

PGHOME={{bin}}
REPL_SLOT_NAME=${NODE_HOST//[-.]/_}

# As `ssh postgres@...`: the node with this id.
at() {
    PGRING_NODE=n$(($1 + 1)) {{agent}} outage-hook {{socket}} pgpool-node "${@:2}"
}

ask() {
    $PGHOME/psql -h "$NEW_PRIMARY_NODE_HOST" -p "$NEW_PRIMARY_NODE_PORT" -U postgres postgres -c "$1"
}

# Check the connection status of Standby
if ! $PGHOME/pg_isready -h "$NODE_HOST" -p "$NODE_PORT" >/dev/null 2>&1; then
    echo follow_primary.sh: node_id="$NODE_ID" is not running. skipping follow primary command
    exit 0
fi

# Test passwordless SSH
if ! at "$NEW_PRIMARY_NODE_ID" reach; then
    echo follow_primary.sh: the new primary cannot be reached.
    exit 1
fi

# Run checkpoint command to update control file before running pg_rewind
ask "checkpoint;"
ask "SELECT pg_create_physical_replication_slot('${REPL_SLOT_NAME}');" >/dev/null 2>&1

# First pg_rewind, then pg_basebackup.
target=("$NODE_PGDATA" "$NEW_PRIMARY_NODE_HOST" "$NEW_PRIMARY_NODE_PORT" "$REPL_SLOT_NAME")
if ! at "$NODE_ID" rewind "${target[@]}"; then
    echo follow_primary.sh: end: pg_rewind failed. Try pg_basebackup.
    if ! at "$NODE_ID" copy "${target[@]}"; then
        ask "SELECT pg_drop_replication_slot('${REPL_SLOT_NAME}');" >/dev/null 2>&1
        echo follow_primary.sh: end: pg_basebackup failed
        exit 1
    fi
fi

# Run pcp_attach_node to attach Standby node to Pgpool-II.
export PCPPASSFILE={{directory}}/pcppass
if ! /usr/sbin/pcp_attach_node -w -h localhost -U pgpool -p 9898 -n "$NODE_ID"; then
    echo ERROR: follow_primary.sh: end: pcp_attach_node failed
    exit 1
fi
touch {{directory}}/pgpool-followed
echo follow_primary.sh: end: follow primary command is completed successfully
exit 0
