/**
 * Request numbers and argument sizes of the ioctls of `/dev/xen` (`xen/sys/evtchn.h`, `gntdev.h`, `gntalloc.h`).
 * They are declared with `_IOC_NONE`, so a number holds size, type and number but no direction.
 */
const ioc = (type: 'E' | 'G', nr: number, size: number): number => (size << 16) | (type.charCodeAt(0) << 8) | nr;

export const IOCTL_EVTCHN_BIND_INTERDOMAIN = ioc('E', 1, 8);
export const IOCTL_EVTCHN_BIND_UNBOUND_PORT = ioc('E', 2, 4);
export const IOCTL_EVTCHN_UNBIND = ioc('E', 3, 4);
export const IOCTL_EVTCHN_NOTIFY = ioc('E', 4, 4);
export const IOCTL_EVTCHN_RESET = ioc('E', 5, 0);

// The sizes of the two calls with a trailing array count one element of it, and the padding to 8 bytes.
export const IOCTL_GNTDEV_MAP_GRANT_REF = ioc('G', 0, 24);
export const IOCTL_GNTDEV_UNMAP_GRANT_REF = ioc('G', 1, 16);
export const IOCTL_GNTDEV_GRANT_COPY = ioc('G', 8, 16);
export const IOCTL_GNTALLOC_ALLOC_GREF = ioc('G', 5, 24);
export const IOCTL_GNTALLOC_DEALLOC_GREF = ioc('G', 6, 16);

/** `flags` of `IOCTL_GNTALLOC_ALLOC_GREF`: the other domain may write. */
export const GNTALLOC_FLAG_WRITABLE = 1;

/** Bytes of `struct ioctl_gntdev_grant_copy_segment`: two 8-byte unions, `len`, `flags`, `status`, padding. */
export const GRANT_COPY_SEGMENT_SIZE = 24;
/** `flags` of a copy segment (`xen/include/public/grant_table.h`). */
export const GNTCOPY_source_gref = 1;
export const GNTCOPY_dest_gref = 2;
