// The initramfs images of Dom0 and of the guests, built from packages installed on this machine.
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { Tree, writeArchive } from './cpio.ts';
import { addModules } from './modules.ts';
import { fetchKernels, type Kernels, xenQemu } from './packages.ts';
import { cacheFolder, labSources } from './places.ts';

/** The archives of one state of this machine's packages. */
export interface Images {
  readonly kernels: Kernels;
  /** Dom0's initramfs; holds the guest's kernel and image too. */
  readonly dom0: string;
  /** An archive with Node alone, laid over a guest's image to make a guest whose only program is Node. */
  readonly node: string;
}

const xenTools = '/usr/lib/xen-4.17/bin';
const guestModules = ['xenfs', 'xen-evtchn', 'xen-gntdev', 'xen-gntalloc', 'xen-blkfront', 'ext4', 'crc32c_generic'];
const dom0Modules = ['xen-privcmd', 'xen-blkback', 'brd', 'loop', 'virtio_pci', 'virtio_console', '9pnet_virtio', '9p'];

/** Where the images keep what. */
export const inDom0 = {
  kernel: '/boot/vmlinux',
  guestImage: '/boot/guest.img',
  node: '/usr/bin/node',
} as const;

/** Builds what is not in the cache yet; a change of any file that goes in makes a new image. */
export const buildImages = (say: (text: string) => void): Images => {
  const kernels = fetchKernels(say);
  const guest = archive('guest', guestTree(kernels), say);
  const node = archive('node', addNode(new Tree()), say);
  const dom0 = archive('dom0', dom0Tree(kernels, guest), say);
  return { kernels, dom0, node };
};

/** The archive that puts QEMU's device model for Xen into Dom0; only the comparison with qdisk wants it. */
export const buildXenQemu = (say: (text: string) => void): string =>
  archive('qemu', addProgram(new Tree(), xenQemu).copy(keymap, keymap), say);

/** xl starts QEMU with a VNC option that reads this even for a display of none. */
const keymap = '/usr/share/qemu/keymaps/en-us';

const archive = (name: string, tree: Tree, say: (text: string) => void): string => {
  const folder = cacheFolder('images');
  const file = join(folder, `${name}-${tree.digest().slice(0, 16)}.img`);
  if (!existsSync(file)) {
    say(`building the ${name} image`);
    for (const old of readdirSync(folder).filter((entry) => entry.startsWith(`${name}-`))) rmSync(join(folder, old));
    writeArchive(tree, file);
  }
  return file;
};

const guestTree = (kernels: Kernels): Tree => {
  const tree = baseTree();
  addModules(tree, kernels, guestModules);
  addProgram(tree, '/bin/dd');
  return tree.copy('/init', join(labSources, 'root/guest-init.sh'), 0o755);
};

const dom0Tree = (kernels: Kernels, guest: string): Tree => {
  const tree = baseTree();
  addModules(tree, kernels, [...guestModules, ...dom0Modules]);
  for (const tool of ['xl', 'xenstored', 'xenconsoled', 'xen-init-dom0', 'xenconsole', 'libxl-save-helper']) {
    addProgram(tree, `${xenTools}/${tool}`);
  }
  for (const tool of ['ls', 'read', 'write', 'rm', 'list', 'exists', 'chmod', 'watch']) {
    addProgram(tree, `/usr/bin/xenstore-${tool}`);
  }
  for (const tool of ['/sbin/e2fsck', '/sbin/mke2fs', '/sbin/losetup', '/bin/dd']) {
    addProgram(tree, tool);
  }
  for (const folder of ['/var/lib/xen', '/var/lib/xenstored', '/var/log/xen', '/run/xen', '/run/xenstored', '/lab']) {
    tree.directory(folder);
  }
  tree.link('/var/run', '/run');
  tree.copy('/etc/mke2fs.conf', '/etc/mke2fs.conf');
  // xl refuses to start without its configuration file; an empty one means the defaults.
  tree.text('/etc/xen/xl.conf', '');
  tree.copy('/etc/xen/scripts/block-lab', join(labSources, 'root/block-lab.sh'), 0o755);
  tree.copy(inDom0.kernel, kernels.vmlinux, 0o644);
  tree.copy(inDom0.guestImage, guest, 0o644);
  tree.copy('/sbin/lab-agent', join(labSources, 'root/agent.sh'), 0o755);
  tree.copy('/init', join(labSources, 'root/dom0-init.sh'), 0o755);
  return addNode(tree);
};

/** busybox with a name for each of its programs, and the folders that every image has. */
const baseTree = (): Tree => {
  const tree = new Tree();
  for (const folder of ['/proc', '/sys', '/dev', '/tmp', '/run', '/mnt', '/root', '/usr/bin', '/usr/sbin', '/sbin']) {
    tree.directory(folder);
  }
  tree.copy('/bin/busybox', '/bin/busybox', 0o755);
  for (const name of execFileSync('/bin/busybox', ['--list'], { encoding: 'utf8' }).trim().split('\n')) {
    if (name !== 'busybox') tree.link(`/bin/${name}`, 'busybox');
  }
  // The kernel calls this path when it wants a module.
  return tree.link('/sbin/modprobe', '/bin/busybox');
};

const addNode = (tree: Tree): Tree => addProgram(tree, process.execPath, inDom0.node);

/** The dynamic linker looks here without a cache file. */
const standardFolders = ['/lib64', '/lib', '/usr/lib', '/lib/x86_64-linux-gnu', '/usr/lib/x86_64-linux-gnu'];

/** Adds a program and the shared libraries that it is linked with. */
const addProgram = (tree: Tree, source: string, path = source): Tree => {
  tree.copy(path, source, 0o755);
  for (const library of sharedLibraries(source)) {
    const folder = standardFolders.includes(dirname(library)) ? dirname(library) : '/usr/lib/x86_64-linux-gnu';
    tree.copy(join(folder, basename(library)), library, 0o755);
  }
  return tree;
};

const sharedLibraries = (program: string): string[] => {
  try {
    const output = execFileSync('ldd', [program], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
    return [...output.matchAll(/(\/\S+\.so\S*) \(0x/g)].flatMap((match) => match[1] ?? []);
  } catch {
    return []; // ldd fails on a static program
  }
};
