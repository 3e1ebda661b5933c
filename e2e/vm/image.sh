#!/usr/bin/env bash
# Builds what a machine of the tests boots from, out of Debian's packages:
#
#   image.sh amd64|arm64 FOLDER
#
# leaves base.qcow2 (the root file system), kernel and initrd in FOLDER. Needs
# root, what `make test-vm` sees to with needs.sh, and an apt that knows where
# Debian 12 is: what this machine's apt is set up with is where the image comes
# from.
set -euo pipefail
arch=$1 out=$(realpath "$2")
suite=bookworm

# qemu-guest-agent is how the tests talk to the machine; i2c-tools and gpiod are
# what they use in it.
packages=systemd,systemd-sysv,dbus,udev,kmod,procps,iproute2,qemu-guest-agent,i2c-tools,gpiod

# Debian's stock kernel, because its cloud kernel has no sensors. Of its 4,000
# modules the image has those named here and what they need: first the ones
# that the root file system is behind, which the initrd loads.
disk_modules='virtio_pci virtio_blk crc32c_generic ext4'
modules="virtio_console virtio-rng virtio_net 9pnet_virtio 9p autofs4
	i2c-dev bmp280-i2c ti-ads1015 lm75 uhid hid-cp2112"
[ "$arch" = amd64 ] && modules+=' i2c-stub'

# What a test machine has no use for, each at the cost of up to a second of an
# emulated processor at every boot.
masked='apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer
	e2scrub_reap.service fstrim.timer getty@tty1.service serial-getty@ttyS0.service
	serial-getty@ttyAMA0.service console-getty.service systemd-update-utmp.service
	systemd-update-utmp-runlevel.service systemd-pstore.service systemd-binfmt.service
	modprobe@configfs.service modprobe@dm_mod.service modprobe@drm.service
	modprobe@efi_pstore.service modprobe@fuse.service modprobe@loop.service
	dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount
	sys-kernel-config.mount sys-fs-fuse-connections.mount'

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM HUP

mapfile -t sources < <(apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) main' 'Created-By: Packages' |
	grep -E " $suite(-[a-z]+)? main\$" | sort -u)
[ ${#sources[@]} -gt 0 ] || { echo "apt knows no $suite here: run apt-get update, or build the image on Debian 12" >&2; exit 1; }

# Runs in mmdebstrap when the packages are installed; $1 is the new root.
cat >"$work/finish" <<'FINISH'
#!/bin/bash
set -euo pipefail
root=$1
export APT_CONFIG=$MMDEBSTRAP_APT_CONFIG
cd "$WORK"
kernel=$(apt-cache depends --important linux-image-"$ARCH" | sed -n '/.*Depends: \(linux-image-.*\)/{s//\1/p;q}')
apt-get download -q -o APT::Sandbox::User=root "$kernel" busybox-static
for deb in *.deb; do dpkg-deb -x "$deb" unpacked; done
version=$(ls unpacked/lib/modules)
depmod -b unpacked "$version"
cp unpacked/boot/vmlinuz-* "$OUT/kernel"

# The initrd: busybox, the modules of the disk, and no cleverness.
mkdir -p initrd/bin initrd/modules
cp unpacked/bin/busybox initrd/bin/
files() {
	for module in "$@"; do
		modprobe -d unpacked -S "$version" --show-depends "$module" | sed -n 's/^insmod \([^ ]*\).*/\1/p'
	done | awk '!seen[$0]++'
}
for file in $(files $DISK_MODULES); do
	cp "$file" initrd/modules/
	basename "$file" >>initrd/modules/order
done
cat >initrd/init <<'INIT'
#!/bin/busybox sh
busybox=/bin/busybox
$busybox mkdir -p /proc /dev /root
$busybox mount -t proc proc /proc
$busybox mount -t devtmpfs dev /dev
while read -r module; do
	$busybox insmod "/modules/$module" || echo "initrd: cannot load $module"
done </modules/order
options=rw
for word in $($busybox cat /proc/cmdline); do
	case $word in rootflags=*) options=rw,${word#rootflags=} ;; esac
done
tries=0
until [ -b /dev/vda ] || [ $tries -gt 1000 ]; do $busybox usleep 20000; tries=$((tries + 1)); done
$busybox mount -t ext4 -o "$options" /dev/vda /root || { echo "initrd: cannot mount the root"; $busybox poweroff -f; }
$busybox mount -o move /dev /root/dev
$busybox umount /proc
exec $busybox switch_root /root /sbin/init
INIT
chmod 755 initrd/init
(cd initrd && find . | cpio -o -H newc --quiet) >"$OUT/initrd"

for file in $(files $MODULES $DISK_MODULES); do
	install -D -m 644 "$file" "$root/usr/lib/modules/$version/${file#*/lib/modules/$version/}"
done
cp unpacked/lib/modules/"$version"/modules.{builtin,builtin.modinfo,order} "$root/usr/lib/modules/$version/"
depmod -b "$root" "$version"

for unit in $MASKED; do ln -sf /dev/null "$root/etc/systemd/system/$unit"; done
ln -sf /lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
mkdir -p "$root/etc/systemd/system/systemd-udev-trigger.service.d" "$root/var/log/journal"
cat >"$root/etc/systemd/system/systemd-udev-trigger.service.d/few.conf" <<'UNIT'
[Service]
ExecStart=
ExecStart=udevadm trigger --action=add --subsystem-match=virtio --subsystem-match=net --subsystem-match=block
UNIT
echo device >"$root/etc/hostname"
echo '127.0.0.1 localhost device' >"$root/etc/hosts"
: >"$root/etc/fstab"
: >"$root/etc/machine-id"
rm -f "$root/etc/resolv.conf"
FINISH
chmod 755 "$work/finish"

export WORK=$work OUT=$out ARCH=$arch MODULES=$modules DISK_MODULES=$disk_modules MASKED=$masked
mmdebstrap --mode=root --variant=minbase --architectures="$arch" --include="$packages" \
	--aptopt='Acquire::Languages "none"' --aptopt='APT::Install-Recommends "false"' \
	--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' \
	--customize-hook="$work/finish"' "$1"' --skip=output/dev \
	"$suite" "$work/root" "${sources[@]}"

# ext4 straight from the folder, then compressed; machines write to overlays.
mke2fs -q -t ext4 -L root -m 0 -d "$work/root" "$work/root.ext4" 4G
qemu-img convert -c -O qcow2 -o compression_type=zstd "$work/root.ext4" "$out/base.qcow2"
