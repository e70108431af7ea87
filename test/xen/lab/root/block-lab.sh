#!/bin/sh
# A hotplug script for xl disks (script=block-lab): gives a block special file to the kernel's xen-blkback. No udev, no bash.
export PATH=/bin:/sbin:/usr/bin
[ "$1" = add ] || exit 0
device=$(xenstore-read "$XENBUS_PATH/params")
numbers=$(stat -L -c %t:%T "$device") || exit 1
xenstore-write "$XENBUS_PATH/physical-device" "$numbers"
xenstore-write "$XENBUS_PATH/physical-device-path" "$device"
xenstore-write "$XENBUS_PATH/hotplug-status" connected
