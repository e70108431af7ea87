/** Attachments: the threads that act for domains, each the target of its own wake-ups. */
import { ErrnoError } from '../errors.ts';
import * as L from './layout.ts';
import type { DomainOf, Machine } from './machine.ts';

const record = ({ layout }: Machine, index: number): number => layout.attachments + index * layout.attachmentWords;

/** Takes a free attachment, else one that a thread of a domain now gone left behind. @throws ErrnoError ENOSPC. */
export function attach(machine: Machine, { domid, generation }: DomainOf): number {
  const { words, layout } = machine;
  machine.lock(L.LOCK);
  try {
    const index = find(machine, (owner) => owner === 0) ?? find(machine, (owner, of) => !machine.isAlive(of, owner));
    if (index !== undefined) {
      const attachment = record(machine, index);
      words[attachment + L.ATTACHMENT_GENERATION] = generation;
      words[attachment + L.ATTACHMENT_DOMID] = domid;
      for (let word = L.ATTACHMENT_READY; word < layout.attachmentWords; word++)
        Atomics.store(words, attachment + word, 0);
      Atomics.store(words, attachment + L.ATTACHMENT_SELECTOR, 0);
      return index;
    }
  } finally {
    machine.unlock(L.LOCK);
  }
  throw new ErrnoError('ENOSPC', `opening a platform (this machine allows ${layout.attachmentCount})`);
}

function find(machine: Machine, suits: (generation: number, domid: number) => boolean): number | undefined {
  const { words, layout } = machine;
  for (let index = 0; index < layout.attachmentCount; index++) {
    const attachment = record(machine, index);
    if (suits(words[attachment + L.ATTACHMENT_GENERATION]!, words[attachment + L.ATTACHMENT_DOMID]!)) return index;
  }
  return undefined;
}

/** Gives an attachment back, unless another has it since the domain died; its thread wakes a last time. */
export function detach(machine: Machine, index: number, { generation }: DomainOf): void {
  const { words } = machine;
  const attachment = record(machine, index);
  machine.lock(L.LOCK);
  wake(words, attachment);
  if (words[attachment + L.ATTACHMENT_GENERATION] === generation) words[attachment + L.ATTACHMENT_GENERATION] = 0;
  machine.unlock(L.LOCK);
}

/** Wakes the thread of an attachment if it sleeps. */
export function wake(words: Int32Array, attachment: number): void {
  Atomics.add(words, attachment + L.ATTACHMENT_WAKE, 1);
  if (Atomics.exchange(words, attachment + L.ATTACHMENT_ASLEEP, 0) === 1)
    Atomics.notify(words, attachment + L.ATTACHMENT_WAKE);
}

/** Wakes the threads of a domain that was destroyed, so that they see it. */
export function wakeDomain(machine: Machine, { generation }: DomainOf): void {
  const { words, layout } = machine;
  for (let index = 0; index < layout.attachmentCount; index++) {
    const attachment = record(machine, index);
    if (words[attachment + L.ATTACHMENT_GENERATION] === generation) wake(words, attachment);
  }
}
