#!/bin/sh
# Dom0's init: mounts, modules, Xen's daemons, then the agent (or a prompt).
export PATH=/opt/pvkit/bin:/bin:/sbin:/usr/bin:/usr/sbin:/usr/lib/xen-4.17/bin
export HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
mkdir /run/lab && mount -t tmpfs lab /run/lab
for module in xenfs xen-evtchn xen-gntdev xen-gntalloc xen-privcmd virtio_pci virtio_console 9pnet_virtio 9p; do
  modprobe $module || echo "dom0: no module $module"
done
mount -t xenfs none /proc/xen
mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=none lab /lab || { echo 'dom0: no /lab'; poweroff -f; }

xenstored --pid-file /run/xenstored.pid
until xenstore-list / >/dev/null 2>&1; do sleep 0.1; done
xen-init-dom0 >/dev/null
xenconsoled --log=guest --log-dir=/lab/guests
/sbin/lab-agent &
agent=$!
if grep -q lab.shell /proc/cmdline; then
  while [ ! -e /run/shell-ready ] && kill -0 $agent 2>/dev/null; do sleep 0.1; done
  cd /root && setsid cttyhack sh -l
else
  wait $agent
fi
poweroff -f
