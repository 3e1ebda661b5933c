#!/bin/sh
# Sees to it that Debian packages are there, and ready, which some of the tests
# need:
#
#   needs.sh PACKAGE...
#
# As root it installs those that are missing, otherwise it says how to.
set -eu
missing=
for package in "$@"; do
	dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
	if [ "$(id -u)" != 0 ]; then
		echo "these tests need packages of Debian: sudo apt-get install --no-install-recommends$missing" >&2
		exit 1
	fi
	echo "installing$missing"
	export DEBIAN_FRONTEND=noninteractive
	apt-get -qq update
	apt-get -qq install -y --no-install-recommends $missing >/dev/null
fi

# With qemu-user-static the kernel can run programs of ARM, once it was told of
# them. systemd does that at boot; in a container nobody did.
case " $* " in
*' qemu-user-static '*) ;;
*) exit 0 ;;
esac
formats=/proc/sys/fs/binfmt_misc
for processor in aarch64 arm; do
	[ ! -e $formats/qemu-$processor ] || continue
	if [ "$(id -u)" != 0 ]; then
		echo "these tests need a kernel that runs programs of ARM: sudo systemctl restart systemd-binfmt" >&2
		exit 1
	fi
	[ -e $formats/register ] || mount -t binfmt_misc binfmt_misc $formats
	cat /usr/lib/binfmt.d/qemu-$processor.conf >$formats/register
done
