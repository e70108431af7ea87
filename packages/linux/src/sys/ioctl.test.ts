import { expect, it } from 'vitest';
import * as ioctl from './ioctl.ts';

// As a C compiler evaluates the macros of xen/sys/{evtchn,gntdev,gntalloc}.h on a 64-bit machine.
it('has the request numbers of the headers', () => {
  expect(ioctl).toMatchObject({
    IOCTL_EVTCHN_BIND_INTERDOMAIN: 0x0008_4501,
    IOCTL_EVTCHN_BIND_UNBOUND_PORT: 0x0004_4502,
    IOCTL_EVTCHN_UNBIND: 0x0004_4503,
    IOCTL_EVTCHN_NOTIFY: 0x0004_4504,
    IOCTL_EVTCHN_RESET: 0x0000_4505,
    IOCTL_GNTDEV_MAP_GRANT_REF: 0x0018_4700,
    IOCTL_GNTDEV_UNMAP_GRANT_REF: 0x0010_4701,
    IOCTL_GNTDEV_GRANT_COPY: 0x0010_4708,
    IOCTL_GNTALLOC_ALLOC_GREF: 0x0018_4705,
    IOCTL_GNTALLOC_DEALLOC_GREF: 0x0010_4706,
    GRANT_COPY_SEGMENT_SIZE: 24,
    GNTALLOC_FLAG_WRITABLE: 1,
    GNTCOPY_source_gref: 1,
    GNTCOPY_dest_gref: 2,
  });
});
