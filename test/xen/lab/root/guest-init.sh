#!/bin/sh
# A guest's init: mounts, then the one script that the guest was made for, then off.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
export HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm
mount -t tmpfs shm /dev/shm
modprobe xenfs
mount -t xenfs none /proc/xen
if [ -e /usr/bin/node ]; then
  for module in xen-evtchn xen-gntdev xen-gntalloc; do modprobe $module; done
fi
echo "GUEST-UP $(cat /sys/hypervisor/guest_type) $(cut -d' ' -f1 /proc/uptime)"
cd /root
sh /lab/script
echo "GUEST-END $?"
poweroff -f
