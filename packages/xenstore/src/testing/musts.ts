/**
 * What `docs/misc/xenstore.txt` and C xenstored promise, a row each, as scripts of `script.ts`. Everything happens below
 * `/t`, which the runner removes before each row. Rows that need domains name clients D1, D2, ….
 *
 * C xenstored 4.17 passes them all but for these, where later versions or the text say otherwise:
 * - a missing NUL is answered by whatever error came last, not `EINVAL` (and may end the daemon);
 * - numbers are read as far as they go: `x` is 0, `99999` is a domain, permissions may be hexadecimal or negative;
 * - GET_PERMS of a special path is `EINVAL`;
 * - paths above 2048 bytes below a domain are refused to the control domain too.
 */
export interface Must {
  readonly must: string;
  readonly script: readonly string[];
}

export const nodeMusts: readonly Must[] = [
  {
    must: 'WRITE stores and READ gives back an octet string, NULs and all',
    script: ['A WRITE /t/a|one|two| -> OK|', 'A READ /t/a| -> one|two|'],
  },
  { must: 'WRITE may store an empty value', script: ['A WRITE /t/a| -> OK|', 'A READ /t/a| -> '] },
  {
    must: 'WRITE creates missing parents with empty values',
    script: ['A WRITE /t/a/b/c|v -> OK|', 'A READ /t/a| -> ', 'A READ /t/a/b| -> ', 'A DIRECTORY /t/a| -> b|'],
  },
  {
    must: 'WRITE replaces a value and leaves the children',
    script: ['A WRITE /t/a/b|v -> OK|', 'A WRITE /t/a|w -> OK|', 'A READ /t/a| -> w', 'A DIRECTORY /t/a| -> b|'],
  },
  { must: 'READ of a missing node is ENOENT', script: ['A READ /t/none| -> ENOENT'] },
  {
    must: 'MKDIR creates a node and its missing parents with empty values',
    script: ['A MKDIR /t/a/b| -> OK|', 'A READ /t/a| -> ', 'A READ /t/a/b| -> '],
  },
  {
    must: 'MKDIR leaves an existing node as it is',
    script: ['A WRITE /t/a|v -> OK|', 'A MKDIR /t/a| -> OK|', 'A READ /t/a| -> v'],
  },
  {
    must: 'RM removes a node and all below it',
    script: ['A WRITE /t/a/b/c|v -> OK|', 'A RM /t/a| -> OK|', 'A READ /t/a/b/c| -> ENOENT', 'A READ /t/a| -> ENOENT'],
  },
  { must: 'RM of a missing node succeeds', script: ['A MKDIR /t| -> OK|', 'A RM /t/none| -> OK|'] },
  {
    must: 'RM of a node whose parent is missing fails',
    script: ['A MKDIR /t| -> OK|', 'A RM /t/none/below| -> ENOENT'],
  },
  { must: 'RM of the root fails', script: ['A RM /| -> EINVAL'] },
  {
    must: 'DIRECTORY lists the immediate children, as leaf names',
    script: ['A WRITE /t/a|v -> OK|', 'A WRITE /t/b/c|v -> OK|', 'A DIRECTORY /t| -> a|b|', 'A DIRECTORY /t/a| -> '],
  },
  { must: 'DIRECTORY of a missing node is ENOENT', script: ['A DIRECTORY /t/none| -> ENOENT'] },
  {
    must: 'a parent exists as long as its children do',
    script: ['A WRITE /t/a/b|v -> OK|', 'A RM /t/a/b| -> OK|', 'A READ /t/a| -> '],
  },
  {
    must: 'a relative path means /local/domain/<domid>',
    script: [
      'A WRITE t-relative|v -> OK|',
      'A READ /local/domain/0/t-relative| -> v',
      'A RM /local/domain/0/t-relative| -> OK|',
    ],
  },
  {
    must: 'doubled and trailing slashes, empty paths and other characters are forbidden',
    script: [
      'A READ /t//a| -> EINVAL',
      'A READ /t/| -> EINVAL',
      'A READ | -> EINVAL',
      'A READ // -> EINVAL',
      'A WRITE /t/a b|v -> EINVAL',
      'A WRITE /t/a.b|v -> EINVAL',
      'A WRITE /t/a+b|v -> EINVAL',
      'A WRITE /t/é|v -> EINVAL',
      'A MKDIR /t/a:b| -> EINVAL',
      'A RM /t/a/| -> EINVAL',
    ],
  },
  {
    must: 'the four punctuation characters are allowed',
    script: ['A WRITE /t/a-b_c@d|v -> OK|', 'A READ /t/a-b_c@d| -> v'],
  },
  {
    must: 'special paths are no nodes',
    script: [
      'A READ @releaseDomain| -> EINVAL',
      'A WRITE @releaseDomain|v -> EINVAL',
      'A MKDIR @introduceDomain| -> EINVAL',
      'A RM @introduceDomain| -> EINVAL',
      'A DIRECTORY @introduceDomain| -> EINVAL',
      'A DIRECTORY_PART @introduceDomain|0| -> EINVAL',
    ],
  },
  {
    must: 'paths longer than 3072 bytes, or 2048 relative, are refused',
    script: [`A WRITE /t/${'a'.repeat(3072)}|v -> EINVAL`, `A WRITE ${'a'.repeat(2049)}|v -> EINVAL`],
  },
  {
    must: 'a payload of the wrong shape is EINVAL',
    script: [
      'A READ /t -> EINVAL',
      'A READ /t|x -> EINVAL',
      'A READ /t|x| -> EINVAL',
      'A READ  -> EINVAL',
      'A WRITE /t -> EINVAL',
      'A WRITE  -> EINVAL',
      'A MKDIR /t|/u| -> EINVAL',
      'A RM /t -> EINVAL',
      'A DIRECTORY /t -> EINVAL',
      'A GET_PERMS /t -> EINVAL',
      'A SET_PERMS /t| -> EINVAL',
      'A SET_PERMS  -> EINVAL',
      'A WATCH /t| -> EINVAL',
      'A WATCH  -> EINVAL',
      'A UNWATCH /t| -> EINVAL',
      'A DIRECTORY_PART /t| -> EINVAL',
      'A TRANSACTION_END  -> EINVAL',
      'A TRANSACTION_END X| -> EINVAL',
      'A TRANSACTION_END T -> EINVAL',
      'A INTRODUCE 1|2| -> EINVAL',
      'A INTRODUCE x|1|2| -> EINVAL',
      'A INTRODUCE 1|1|0| -> EINVAL',
      'A RELEASE 1 -> EINVAL',
      'A RELEASE x| -> EINVAL',
      'A RELEASE 99999| -> EINVAL',
      'A GET_DOMAIN_PATH x| -> EINVAL',
      'A GET_DOMAIN_PATH 70000| -> EINVAL',
      'A IS_DOMAIN_INTRODUCED x| -> EINVAL',
      'A RESUME x| -> EINVAL',
      'A SET_TARGET 1| -> EINVAL',
    ],
  },
  {
    must: 'a list of children longer than the payload is E2BIG for DIRECTORY and comes in DIRECTORY_PARTs',
    script: [
      ...Array.from({ length: 3 }, (_, i) => `A MKDIR /t/${String(i).repeat(1500)}| -> OK|`),
      'A DIRECTORY /t| -> E2BIG',
    ],
  },
];

export const permissionMusts: readonly Must[] = [
  {
    must: 'GET_PERMS names the owner first',
    script: ['A WRITE /t/a|v -> OK|', 'A GET_PERMS /t/a| -> n0|'],
  },
  {
    must: 'SET_PERMS sets them all, and GET_PERMS gives them back',
    script: ['A WRITE /t/a|v -> OK|', 'A SET_PERMS /t/a|n0|r0|w0|b0| -> OK|', 'A GET_PERMS /t/a| -> n0|r0|w0|b0|'],
  },
  {
    must: 'new nodes take their permissions from the parent',
    script: [
      'A MKDIR /t| -> OK|',
      'A SET_PERMS /t|n0|r0| -> OK|',
      'A WRITE /t/a/b|v -> OK|',
      'A GET_PERMS /t/a/b| -> n0|r0|',
    ],
  },
  {
    must: 'malformed permissions are EINVAL, and of a missing node ENOENT',
    script: [
      'A MKDIR /t| -> OK|',
      'A SET_PERMS /t|x0| -> EINVAL',
      'A SET_PERMS /t|r| -> EINVAL',
      'A SET_PERMS /t|rx| -> EINVAL',
      'A SET_PERMS /t|0| -> EINVAL',
      'A SET_PERMS /t/none|n0| -> ENOENT',
      'A GET_PERMS /t/none| -> ENOENT',
      'A GET_PERMS /t| -> n0|',
    ],
  },
  {
    must: 'permissions of the special paths can be read and set',
    script: [
      'A GET_PERMS @releaseDomain| -> n0|',
      'A SET_PERMS @releaseDomain|n0|r0| -> OK|',
      'A GET_PERMS @releaseDomain| -> n0|r0|',
      'A SET_PERMS @releaseDomain|n0| -> OK|',
      'A GET_PERMS @introduceDomain| -> n0|',
    ],
  },
];

export const watchMusts: readonly Must[] = [
  {
    must: 'a watch fires once when it is set up, with its own path',
    script: ['A WATCH /t/a|tok| -> OK|', 'A gets /t/a|tok|', 'A quiet'],
  },
  {
    must: 'creation, writing, permissions and removal of a node fire its watch',
    script: [
      'A MKDIR /t| -> OK|',
      'A WATCH /t/a|tok| -> OK|',
      'A gets /t/a|tok|',
      'B MKDIR /t/a| -> OK|',
      'A gets /t/a|tok|',
      'B WRITE /t/a|v -> OK|',
      'A gets /t/a|tok|',
      'B SET_PERMS /t/a|n0| -> OK|',
      'A gets /t/a|tok|',
      'B RM /t/a| -> OK|',
      'A gets /t/a|tok|',
      'A quiet',
    ],
  },
  {
    must: 'a watch sees changes below its path, and only there',
    script: [
      'A MKDIR /t| -> OK|',
      'A WATCH /t/a|tok| -> OK|',
      'A gets /t/a|tok|',
      'B WRITE /t/a/b/c|v -> OK|',
      'A gets /t/a/b/c|tok|',
      'B WRITE /t/ab|v -> OK|',
      'B WRITE /t|v -> OK|',
      'A quiet',
    ],
  },
  {
    must: 'when a parent of a watched node goes, the event is for the watched path',
    script: [
      'A WRITE /t/a/b/c|v -> OK|',
      'A WATCH /t/a/b|tok| -> OK|',
      'A gets /t/a/b|tok|',
      'B RM /t/a| -> OK|',
      'A gets /t/a/b|tok|',
      'A quiet',
    ],
  },
  {
    must: 'when a node goes with its children, a watch on it gets one event',
    script: [
      'A WRITE /t/a/b/c|v -> OK|',
      'A WATCH /t/a|tok| -> OK|',
      'A gets /t/a|tok|',
      'B RM /t/a| -> OK|',
      'A gets /t/a|tok|',
      'A quiet',
    ],
  },
  {
    must: 'events of a relative watch are relative',
    script: [
      'A WATCH t-watched|tok| -> OK|',
      'A gets t-watched|tok|',
      'B WRITE /local/domain/0/t-watched/x|v -> OK|',
      'A gets t-watched/x|tok|',
      'B RM /local/domain/0/t-watched| -> OK|',
      'A gets t-watched|tok|',
      'A UNWATCH t-watched|tok| -> OK|',
    ],
  },
  {
    must: 'a pair of path and token is watched once; others may share either',
    script: [
      'A WATCH /t/a|tok| -> OK|',
      'A WATCH /t/a|tok| -> EEXIST',
      'A WATCH /t/a|tok2| -> OK|',
      'A WATCH /t/b|tok| -> OK|',
      'B WATCH /t/a|tok| -> OK|',
    ],
  },
  {
    must: 'UNWATCH ends it, and needs it to be there',
    script: [
      'A WATCH /t/a|tok| -> OK|',
      'A gets /t/a|tok|',
      'A UNWATCH /t/a|other| -> ENOENT',
      'A UNWATCH /t/a|tok| -> OK|',
      'A UNWATCH /t/a|tok| -> ENOENT',
      'B WRITE /t/a|v -> OK|',
      'A quiet',
    ],
  },
  {
    must: 'RESET_WATCHES ends all of the connection and none of others, its transactions too',
    script: [
      'A WATCH /t/a|tok| -> OK|',
      'A gets /t/a|tok|',
      'B WATCH /t/a|tok| -> OK|',
      'B gets /t/a|tok|',
      'A START -> $1',
      'A RESET_WATCHES | -> OK|',
      'A READ(1) /t/a| -> ENOENT',
      'A TRANSACTION_END(1) T| -> ENOENT',
      'B WRITE /t/a|v -> OK|',
      'A quiet',
      'B gets /t/a|tok|',
    ],
  },
  {
    must: 'RESET_WATCHES within a transaction ends that too',
    script: ['A START -> $1', 'A RESET_WATCHES(1) | -> OK|', 'A TRANSACTION_END(1) T| -> ENOENT'],
  },
  {
    must: 'any special path can be watched, malformed paths can not',
    script: [
      'A WATCH @anything|tok| -> OK|',
      'A gets @anything|tok|',
      'A WATCH /t/|tok| -> EINVAL',
      'A WATCH /t//a|tok| -> EINVAL',
      'A WATCH /t/a b|tok| -> EINVAL',
    ],
  },
  {
    must: 'changes in a transaction fire when it is committed and only then',
    script: [
      'A MKDIR /t| -> OK|',
      'A WATCH /t|tok| -> OK|',
      'A gets /t|tok|',
      'B START -> $1',
      'B WRITE(1) /t/a|v -> OK|',
      'B WRITE(1) /t/a|w -> OK|',
      'A quiet',
      'B TRANSACTION_END(1) T| -> OK|',
      'A gets /t/a|tok|',
      'A quiet',
      'B START -> $2',
      'B WRITE(2) /t/a|x -> OK|',
      'B TRANSACTION_END(2) F| -> OK|',
      'A quiet',
    ],
  },
  {
    must: 'the tx_id of WATCH and UNWATCH is ignored',
    script: ['A WATCH(4711) /t/a|tok| -> OK|', 'A gets /t/a|tok|', 'A UNWATCH(4711) /t/a|tok| -> OK|'],
  },
];

export const transactionMusts: readonly Must[] = [
  {
    must: 'a transaction sees its own changes and nobody else does until it is committed',
    script: [
      'A WRITE /t/a|old -> OK|',
      'A START -> $1',
      'A WRITE(1) /t/a|new -> OK|',
      'A WRITE(1) /t/b/c|v -> OK|',
      'A READ(1) /t/a| -> new',
      'A DIRECTORY(1) /t| -> a|b|',
      'B READ /t/a| -> old',
      'B READ /t/b/c| -> ENOENT',
      'A TRANSACTION_END(1) T| -> OK|',
      'B READ /t/a| -> new',
      'B READ /t/b/c| -> v',
    ],
  },
  {
    must: 'a discarded transaction leaves nothing',
    script: [
      'A WRITE /t/a|old -> OK|',
      'A START -> $1',
      'A RM(1) /t/a| -> OK|',
      'A READ(1) /t/a| -> ENOENT',
      'A TRANSACTION_END(1) F| -> OK|',
      'A READ /t/a| -> old',
    ],
  },
  {
    must: 'what was read must be unchanged at commit',
    script: [
      'A WRITE /t/a|v -> OK|',
      'A START -> $1',
      'A READ(1) /t/a| -> v',
      'B WRITE /t/a|w -> OK|',
      'A WRITE(1) /t/b|v -> OK|',
      'A READ(1) /t/a| -> v',
      'A TRANSACTION_END(1) T| -> EAGAIN',
      'A READ /t/b| -> ENOENT',
    ],
  },
  {
    must: 'what was read must not be deleted at commit, and what was missing must be missing',
    script: [
      'A WRITE /t/a|v -> OK|',
      'A START -> $1',
      'A READ(1) /t/a| -> v',
      'B RM /t/a| -> OK|',
      'A TRANSACTION_END(1) T| -> EAGAIN',
      'A START -> $2',
      'A READ(2) /t/b| -> ENOENT',
      'B WRITE /t/b|v -> OK|',
      'A TRANSACTION_END(2) T| -> EAGAIN',
    ],
  },
  {
    must: 'changes elsewhere are no conflict',
    script: [
      'A WRITE /t/x/a|v -> OK|',
      'A WRITE /t/y/a|v -> OK|',
      'A START -> $1',
      'A READ(1) /t/x/a| -> v',
      'A WRITE(1) /t/x/b|v -> OK|',
      'B WRITE /t/y/a|w -> OK|',
      'B WRITE /t/y/b|w -> OK|',
      'A TRANSACTION_END(1) T| -> OK|',
    ],
  },
  {
    must: 'of two transactions that each read what the other writes, the first to end wins',
    script: [
      'A WRITE /t/a|v -> OK|',
      'A WRITE /t/b|v -> OK|',
      'A START -> $1',
      'B START -> $2',
      'A READ(1) /t/a| -> v',
      'B READ(2) /t/b| -> v',
      'A WRITE(1) /t/b|w -> OK|',
      'B WRITE(2) /t/a|w -> OK|',
      'A TRANSACTION_END(1) T| -> OK|',
      'B TRANSACTION_END(2) T| -> EAGAIN',
    ],
  },
  {
    must: 'two transactions that add to one directory conflict, in two directories they do not',
    script: [
      'A MKDIR /t/x| -> OK|',
      'A MKDIR /t/y| -> OK|',
      'A START -> $1',
      'B START -> $2',
      'C START -> $3',
      'A WRITE(1) /t/x/a|v -> OK|',
      'B WRITE(2) /t/x/b|v -> OK|',
      'C WRITE(3) /t/y/c|v -> OK|',
      'A TRANSACTION_END(1) T| -> OK|',
      'B TRANSACTION_END(2) T| -> EAGAIN',
      'C TRANSACTION_END(3) T| -> OK|',
    ],
  },
  {
    must: 'a subtree may go and come back within a transaction',
    script: [
      'A WRITE /t/a/b|v -> OK|',
      'A START -> $1',
      'A RM(1) /t/a| -> OK|',
      'A DIRECTORY(1) /t| -> ',
      'A WRITE(1) /t/a/c|w -> OK|',
      'A DIRECTORY(1) /t/a| -> c|',
      'A READ(1) /t/a/b| -> ENOENT',
      'A TRANSACTION_END(1) T| -> OK|',
      'A DIRECTORY /t/a| -> c|',
      'A READ /t/a/b| -> ENOENT',
      'A READ /t/a/c| -> w',
    ],
  },
  {
    must: 'a node created and removed within a transaction leaves nothing',
    script: [
      'A MKDIR /t| -> OK|',
      'A START -> $1',
      'A WRITE(1) /t/a/b|v -> OK|',
      'A RM(1) /t/a| -> OK|',
      'A TRANSACTION_END(1) T| -> OK|',
      'A DIRECTORY /t| -> ',
    ],
  },
  {
    must: 'an unknown transaction is ENOENT, for whatever is asked in it',
    script: [
      'A READ(4711) /t/a| -> ENOENT',
      'A TRANSACTION_END(4711) T| -> ENOENT',
      'A TRANSACTION_END T| -> ENOENT',
      'A START(4711) -> ENOENT',
    ],
  },
  {
    must: 'transactions do not nest',
    script: ['A START -> $1', 'A START(1) -> EBUSY', 'A TRANSACTION_END(1) F| -> OK|'],
  },
  {
    must: 'a transaction belongs to its connection',
    script: [
      'A START -> $1',
      'A START -> $2',
      'A START -> $3',
      'B READ(3) /t/a| -> ENOENT',
      'A TRANSACTION_END(3) F| -> OK|',
    ],
  },
  {
    must: 'an ended transaction is no more',
    script: ['A START -> $1', 'A TRANSACTION_END(1) T| -> OK|', 'A TRANSACTION_END(1) T| -> ENOENT'],
  },
];

export const domainMusts: readonly Must[] = [
  {
    must: 'GET_DOMAIN_PATH gives the base path with the domid normalised',
    script: ['A GET_DOMAIN_PATH 7| -> /local/domain/7|', 'A GET_DOMAIN_PATH 007| -> /local/domain/7|'],
  },
  {
    must: 'IS_DOMAIN_INTRODUCED is T for domain 0 and F for a stranger',
    script: ['A IS_DOMAIN_INTRODUCED 0| -> T|', 'A IS_DOMAIN_INTRODUCED 4711| -> F|'],
  },
  {
    must: 'RELEASE, RESUME and SET_TARGET want a domain that is introduced',
    script: [
      'A RELEASE 4711| -> ENOENT',
      'A RESUME 4711| -> ENOENT',
      'A SET_TARGET 4711|0| -> ENOENT',
      'A RELEASE 0| -> EINVAL',
      'A RESUME 0| -> EINVAL',
    ],
  },
  {
    must: 'an unknown CONTROL command is EINVAL',
    script: ['A CONTROL nonsense| -> EINVAL', 'A CONTROL  -> EINVAL', 'A CONTROL print -> EINVAL'],
  },
];
