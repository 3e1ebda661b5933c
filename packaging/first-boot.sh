#!/bin/sh
# Provisions this device from what lies on its boot partition or in
# /etc/pyvorin-edge. Safe to run at every boot: once the device is provisioned,
# and nothing new lies on the boot partition, it only has pyvorin-edge compare
# the identity with the board. docs/operations.md describes the files.
#
#   pyvorin-edge.env    on the boot partition, removed when it was used; or
#   provision.env       in /etc/pyvorin-edge, which stays. Lines NAME=VALUE:
#     FLEET_PREFIX      what the device id begins with
#     TEMPLATE          the config's template; relative to the file's folder
#     TRUST_ANCHOR      the anchor: a file, also relative, or 64 hex digits
#     FORCE             what may be replaced: identity,anchor,config
#     any other         a variable of the template
#   pyvorin-edge.toml   on the boot partition: the config itself
#
# Exits as pyvorin-edge provision does.
set -eu

# Tests set these.
root=${PYVORIN_ROOT:-}
base=${PYVORIN_BASE_DIR:-$root/opt/pyvorin-edge}
edge=${PYVORIN_EDGE:-/usr/lib/pyvorin-edge/pyvorin-edge}

log() { printf 'first-boot: %s\n' "$*" >&2; }

# value NAME: of a line NAME=VALUE in $env, without quotes, and without the line
# ends and the byte order mark of other systems. The file is read and never run.
bom=$(printf '\357\273\277')
value() {
	sed -n -e "1s/^$bom//" -e "s/^[[:space:]]*$1[[:space:]]*=[[:space:]]*//p" "$env" |
		sed -e 's/[[:space:]]*$//' -e 's/^"\(.*\)"$/\1/' -e "s/^'\(.*\)'\$/\1/" | tail -n 1
}

# beside FILE: its path when it lies beside $env, else FILE.
beside() {
	case $1 in
	/*) printf '%s\n' "$1" ;;
	*) if [ -e "$(dirname "$env")/$1" ]; then printf '%s\n' "$(dirname "$env")/$1"; else printf '%s\n' "$1"; fi ;;
	esac
}

env= drop= used=
for dir in "$root/boot/firmware" "$root/boot"; do
	if [ -z "$env" ] && [ -f "$dir/pyvorin-edge.env" ]; then env=$dir/pyvorin-edge.env; fi
	if [ -z "$drop" ] && [ -e "$dir/pyvorin-edge.toml" ]; then drop=$dir/pyvorin-edge.toml; fi
done
if [ -n "$env" ]; then
	used=$env
elif [ ! -e "$base/provision.json" ] && [ -f "$root/etc/pyvorin-edge/provision.env" ]; then
	env=$root/etc/pyvorin-edge/provision.env
fi

set -- provision --base-dir "$base" --root "${root:-/}"
if [ -n "$env" ]; then
	log "provisioning with $env"
	prefix=$(value FLEET_PREFIX) template=$(value TEMPLATE) anchor=$(value TRUST_ANCHOR) force=$(value FORCE)
	set -- "$@" --env-file "$env"
	if [ -n "$prefix" ]; then set -- "$@" --fleet-prefix "$prefix"; fi
	if [ -n "$template" ]; then set -- "$@" --template "$(beside "$template")"; fi
	if [ -n "$anchor" ]; then set -- "$@" --trust-anchor "$(beside "$anchor")"; fi
	if [ -n "$force" ]; then set -- "$@" "--force=$force"; fi
elif [ -n "$drop" ]; then
	log "provisioning with $drop"
elif [ ! -e "$base/provision.json" ]; then
	log "nothing to provision with: put a pyvorin-edge.env or a pyvorin-edge.toml on the boot partition"
	exit 0
fi

code=0
"$edge" "$@" || code=$?
if [ "$code" -ne 0 ]; then
	log "failed with exit code $code; the next boot tries again"
	exit "$code"
fi
if [ -n "$used" ]; then
	# Its variables may be secrets, and every computer can read this partition.
	if ! rm -f "$used" || ! sync; then
		log "remove $used by hand: it may hold secrets"
		exit 1
	fi
	log "removed $used"
fi
