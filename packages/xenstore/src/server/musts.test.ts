import { describe, expect, it } from 'vitest';
import { domainMusts, type Must, nodeMusts, permissionMusts, transactionMusts, watchMusts } from '../testing/musts.ts';
import { runScript } from '../testing/script.ts';
import { ServerFixture } from '../testing/server-fixture.ts';

async function check({ script }: Must): Promise<void> {
  const fixture = new ServerFixture({ withHost: true });
  const { happened } = await runScript((name) => Promise.resolve(fixture.raw(name)), script);
  expect(happened).toEqual(script);
  expect(fixture.count('xenstored.internal-error')).toBe(0);
  expect(fixture.server.store.check()).toEqual([]);
  fixture.server.close();
  expect(fixture.server.counters()).toMatchObject({ connections: 0, watches: 0 });
}

describe('nodes', () => void it.each(nodeMusts)('$must', check));
describe('permissions', () => void it.each(permissionMusts)('$must', check));
describe('watches', () => void it.each(watchMusts)('$must', check));
describe('transactions', () => void it.each(transactionMusts)('$must', check));
describe('domains', () => void it.each(domainMusts)('$must', check));

/** What is asked of unprivileged domains, who have no socket: D1 is domain 1, and so on. */
const unprivilegedMusts: readonly Must[] = [
  {
    must: 'a domain reads and writes what it was given, and owns what it creates',
    script: [
      'A MKDIR /local/domain/1| -> OK|',
      'A SET_PERMS /local/domain/1|n1| -> OK|',
      'D1 WRITE device/x|v -> OK|',
      'D1 GET_PERMS device/x| -> n1|',
      'A READ /local/domain/1/device/x| -> v',
      'D2 READ /local/domain/1/device/x| -> EACCES',
    ],
  },
  {
    must: 'what is not permitted is EACCES, whether there or not',
    script: [
      'A WRITE /t/a|v -> OK|',
      'D1 READ /t/a| -> EACCES',
      'D1 READ /t/none| -> EACCES',
      'D1 WRITE /t/a|w -> EACCES',
      'D1 MKDIR /t/b| -> EACCES',
      'D1 RM /t/a| -> EACCES',
      'D1 DIRECTORY /t| -> EACCES',
      'D1 GET_PERMS /t/a| -> EACCES',
      'D1 SET_PERMS /t/a|n1| -> EACCES',
    ],
  },
  {
    must: 'a missing node below a readable one is ENOENT to read and EACCES to write',
    script: [
      'A MKDIR /t| -> OK|',
      'A SET_PERMS /t|n0|r1| -> OK|',
      'D1 READ /t/none/below| -> ENOENT',
      'D1 WRITE /t/none|v -> EACCES',
    ],
  },
  {
    must: 'the first entry is what domains without one of their own may do',
    script: [
      'A WRITE /t/a|v -> OK|',
      'A SET_PERMS /t/a|r0|n1|w2| -> OK|',
      'D3 READ /t/a| -> v',
      'D3 WRITE /t/a|x -> EACCES',
      'D1 READ /t/a| -> EACCES',
      'D2 WRITE /t/a|w -> OK|',
      'D2 READ /t/a| -> EACCES',
    ],
  },
  {
    must: 'a grant of both reads and writes, but does not own',
    script: [
      'A WRITE /t/a|v -> OK|',
      'A SET_PERMS /t/a|n0|b1| -> OK|',
      'D1 READ /t/a| -> v',
      'D1 WRITE /t/a|w -> OK|',
      'D1 SET_PERMS /t/a|n1| -> EACCES',
    ],
  },
  {
    must: 'only the control domain changes the owner',
    script: [
      'A MKDIR /t| -> OK|',
      'A SET_PERMS /t|n1| -> OK|',
      'D1 SET_PERMS /t|n2| -> EPERM',
      'D1 SET_PERMS /t|n1|r2| -> OK|',
      'A SET_PERMS /t|n2| -> OK|',
      'D1 SET_PERMS /t|n1| -> EACCES',
    ],
  },
  {
    must: 'privileged operations are EACCES for domains',
    script: [
      'D1 CONTROL help| -> EACCES',
      'D1 INTRODUCE 2|1|1| -> EACCES',
      'D1 RELEASE 2| -> EACCES',
      'D1 RESUME 2| -> EACCES',
      'D1 SET_TARGET 1|2| -> EACCES',
      'D1 IS_DOMAIN_INTRODUCED 1| -> EACCES',
      'D1 GET_DOMAIN_PATH 1| -> /local/domain/1|',
    ],
  },
  {
    must: 'a watch event comes only if the node, its permissions before, or its parent can be read (XSA-115)',
    script: [
      'A MKDIR /t| -> OK|',
      'D1 WATCH /t|tok| -> OK|',
      'D1 gets /t|tok|',
      'A WRITE /t/secret|v -> OK|',
      'D1 quiet',
      'A WRITE /t/a|v -> OK|',
      'A SET_PERMS /t/a|n0|r1| -> OK|',
      'D1 gets /t/a|tok|',
      'A WRITE /t/a|w -> OK|',
      'D1 gets /t/a|tok|',
      'A SET_PERMS /t/a|n0| -> OK|',
      'D1 gets /t/a|tok|',
      'A WRITE /t/a|x -> OK|',
      'D1 quiet',
      'A SET_PERMS /t|n0|r1| -> OK|',
      'D1 gets /t|tok|',
      'A WRITE /t/a|y -> OK|',
      'D1 gets /t/a|tok|',
    ],
  },
  {
    must: 'the removal of a node is seen by who could read it',
    script: [
      'A WRITE /t/a/b|v -> OK|',
      'A SET_PERMS /t/a/b|n0|r1| -> OK|',
      'D1 WATCH /t/a/b|tok| -> OK|',
      'D1 gets /t/a/b|tok|',
      'D2 WATCH /t/a/b|tok| -> OK|',
      'D2 gets /t/a/b|tok|',
      'A RM /t| -> OK|',
      'D1 gets /t/a/b|tok|',
      'D2 quiet',
    ],
  },
  {
    must: 'the same holds for removal in a transaction',
    script: [
      'A WRITE /t/a/b|v -> OK|',
      'A SET_PERMS /t/a/b|n0|r1| -> OK|',
      'D1 WATCH /t/a/b|tok| -> OK|',
      'D1 gets /t/a/b|tok|',
      'D2 WATCH /t/a/b|tok| -> OK|',
      'D2 gets /t/a/b|tok|',
      'A START -> $1',
      'A RM(1) /t| -> OK|',
      'A TRANSACTION_END(1) T| -> OK|',
      'D1 gets /t/a/b|tok|',
      'D2 quiet',
    ],
  },
  {
    must: 'special events need permission by SET_PERMS',
    script: [
      'D1 WATCH @introduceDomain|tok| -> OK|',
      'D1 gets @introduceDomain|tok|',
      'D2 WATCH @introduceDomain|tok| -> OK|',
      'D2 gets @introduceDomain|tok|',
      'D1 SET_PERMS @introduceDomain|n0|r1| -> EACCES',
      'A SET_PERMS @introduceDomain|n0|r1| -> OK|',
      'D1 gets @introduceDomain|tok|',
      'D2 quiet',
      'A INTRODUCE 7|1|1| -> OK|',
      'D1 gets @introduceDomain|tok|',
      'D2 quiet',
    ],
  },
  {
    must: 'INTRODUCE connects a domain once, and the second time anew; @introduceDomain fires the first time',
    script: [
      'A WATCH @introduceDomain|tok| -> OK|',
      'A gets @introduceDomain|tok|',
      'A IS_DOMAIN_INTRODUCED 7| -> F|',
      'A INTRODUCE 7|-1|3| -> OK|',
      'A gets @introduceDomain|tok|',
      'A IS_DOMAIN_INTRODUCED 7| -> T|',
      'D7 WATCH a|tok| -> OK|',
      'D7 gets a|tok|',
      'A INTRODUCE 7|-1|3| -> OK|',
      'A quiet',
    ],
  },
  {
    must: 'INTRODUCE of a domain that is not there gives the error of the machine',
    script: ['A INTRODUCE 9|1|1| -> ENOENT', 'A IS_DOMAIN_INTRODUCED 9| -> F|', 'A INTRODUCE 0|1|1| -> EINVAL'],
  },
  {
    must: 'RELEASE removes the nodes of a domain with all below, its permissions elsewhere, and fires @releaseDomain',
    script: [
      'A INTRODUCE 7|1|1| -> OK|',
      'A WRITE /t/other|v -> OK|',
      'A SET_PERMS /t/other|n0|r7|r8| -> OK|',
      'A MKDIR /t/own| -> OK|',
      'A SET_PERMS /t/own|n7| -> OK|',
      'A WRITE /t/own/below|v -> OK|',
      'A SET_PERMS /t/own/below|n0| -> OK|',
      'A SET_PERMS @releaseDomain|n0|r7| -> OK|',
      'A WATCH @releaseDomain|tok| -> OK|',
      'A gets @releaseDomain|tok|',
      'A WATCH /t|tok| -> OK|',
      'A gets /t|tok|',
      'A RELEASE 7| -> OK|',
      'A gets /t/own|tok|',
      'A gets @releaseDomain|tok|',
      'A IS_DOMAIN_INTRODUCED 7| -> F|',
      'A READ /t/own/below| -> ENOENT',
      'A GET_PERMS /t/other| -> n0|r8|',
      'A GET_PERMS @releaseDomain| -> n0|',
      'A RELEASE 7| -> ENOENT',
    ],
  },
  {
    must: 'what a transaction would write in the name of a released domain does not come into being',
    script: [
      'A INTRODUCE 7|1|1| -> OK|',
      'A MKDIR /t| -> OK|',
      'A START -> $1',
      'A WRITE(1) /t/a|v -> OK|',
      'A SET_PERMS(1) /t/a|n0|r7| -> OK|',
      'A RELEASE 7| -> OK|',
      'A TRANSACTION_END(1) T| -> EAGAIN',
    ],
  },
  {
    must: 'permissions for a domain that does not exist have no effect, and it can own nothing',
    script: [
      'A MKDIR /t| -> OK|',
      'A SET_PERMS /t|n99| -> ENOENT',
      'A SET_PERMS /t|n0|r99|r1| -> OK|',
      'A GET_PERMS /t| -> n0|r1|',
    ],
  },
  {
    must: 'SET_TARGET gives a domain all that its target may do',
    script: [
      'A INTRODUCE 7|1|1| -> OK|',
      'A INTRODUCE 8|1|1| -> OK|',
      'A WRITE /t/owned|v -> OK|',
      'A SET_PERMS /t/owned|n8| -> OK|',
      'A WRITE /t/granted|v -> OK|',
      'A SET_PERMS /t/granted|n0|r8| -> OK|',
      'D7 READ /t/owned| -> EACCES',
      'A SET_TARGET 7|8| -> OK|',
      'D7 WRITE /t/owned|w -> OK|',
      'D7 READ /t/granted| -> v',
      'D7 WRITE /t/granted|w -> EACCES',
      'A RELEASE 8| -> OK|',
      'D7 READ /t/granted| -> EACCES',
    ],
  },
  {
    must: 'a watch may be limited to levels below its path',
    script: [
      'A WATCH /t|zero|0| -> OK|',
      'A gets /t|zero|',
      'B WATCH /t|one|1| -> OK|',
      'B gets /t|one|',
      'A WRITE /t/a/b|v -> OK|',
      'A WRITE /t/a|v -> OK|',
      'B gets /t/a|one|',
      'A WRITE /t|v -> OK|',
      'A gets /t|zero|',
      'B gets /t|one|',
      'A quiet',
      'B quiet',
      'A WATCH /t|bad|x| -> EINVAL',
      'A WATCH /t|bad|-1| -> EINVAL',
    ],
  },
  {
    must: 'a depth of 1 on a special path names the domain, and one domain can be watched',
    script: [
      'A WATCH @introduceDomain|plain| -> OK|',
      'A gets @introduceDomain|plain|',
      'B WATCH @introduceDomain|deep|1| -> OK|',
      'B gets @introduceDomain|deep|',
      'C WATCH @introduceDomain/7|one| -> OK|',
      'C gets @introduceDomain/7|one|',
      'A INTRODUCE 7|1|1| -> OK|',
      'A INTRODUCE 8|1|1| -> OK|',
      'A gets @introduceDomain|plain|',
      'A gets @introduceDomain|plain|',
      'B gets @introduceDomain/7|deep|',
      'B gets @introduceDomain/8|deep|',
      'C gets @introduceDomain/7|one|',
      'C quiet',
    ],
  },
];

describe('unprivileged domains', () =>
  void it.each(unprivilegedMusts)('$must', async ({ script }) => {
    const fixture = new ServerFixture({ withHost: true });
    for (const domid of [1, 2, 3, 7, 8]) fixture.existing.add(domid);
    const { happened } = await runScript((name) => Promise.resolve(fixture.raw(name)), script);
    expect(happened).toEqual(script);
    expect(fixture.count('xenstored.internal-error')).toBe(0);
    expect(fixture.server.store.check()).toEqual([]);
  }));
