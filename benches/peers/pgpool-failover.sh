#!/bin/bash
# failover_command of the outage rig's pgpool-II: failover.sh.sample of 4.3, step by step, but that
# it reaches a node through the agent of the rig in place of ssh.

set -o xtrace

FAILED_NODE_ID="$1"
FAILED_NODE_HOST="$2"
NEW_MAIN_NODE_ID="$5"
OLD_PRIMARY_NODE_ID="$8"
NEW_MAIN_NODE_PGDATA="${10}"
OLD_PRIMARY_NODE_HOST="${11}"
OLD_PRIMARY_NODE_PORT="${12}"

PGHOME={{bin}}
REPL_SLOT_NAME=${FAILED_NODE_HOST//[-.]/_}

# As `ssh postgres@...`: the node with this id.
at() {
    PGRING_NODE=n$(($1 + 1)) {{agent}} outage-hook {{socket}} pgpool-node "${@:2}"
}

# If there's no main node anymore, skip failover.
if [ "$NEW_MAIN_NODE_ID" -lt 0 ]; then
    echo failover.sh: All nodes are down. Skipping failover.
    exit 0
fi

# Test passwordless SSH
if ! at "$NEW_MAIN_NODE_ID" reach; then
    echo failover.sh: the new main node cannot be reached.
    exit 1
fi

# If Standby node is down, skip failover.
if [ "$OLD_PRIMARY_NODE_ID" != "-1" ] && [ "$FAILED_NODE_ID" != "$OLD_PRIMARY_NODE_ID" ]; then
    $PGHOME/psql -h "$OLD_PRIMARY_NODE_HOST" -p "$OLD_PRIMARY_NODE_PORT" -U postgres postgres \
        -c "SELECT pg_drop_replication_slot('${REPL_SLOT_NAME}');" >/dev/null 2>&1
    echo failover.sh: end: standby node is down. Skipping failover.
    exit 0
fi

# Promote Standby node.
if ! at "$NEW_MAIN_NODE_ID" promote "$NEW_MAIN_NODE_PGDATA"; then
    echo ERROR: failover.sh: end: failover failed
    exit 1
fi
echo failover.sh: end: "$NEW_MAIN_NODE_ID" is promoted to a primary
exit 0
