/** Something in the lab went wrong; the message says what, and ends with what the consoles said last where that helps. */
export class LabError extends Error {
  override readonly name = 'LabError';
}

/** A named last part of some output, printed below an error. */
export interface Tail {
  readonly title: string;
  readonly text: string;
}

/** Puts the tails that have any text below a message. */
export const withTails = (message: string, tails: readonly Tail[]): string =>
  [
    message,
    ...tails.filter((tail) => tail.text.trim() !== '').map((tail) => `--- ${tail.title}:\n${tail.text.trimEnd()}`),
  ].join('\n');

/** Settles as `work` does, or rejects with `failure()` after `timeoutMs`. The work itself is not stopped. */
export const within = async <T>(work: Promise<T>, timeoutMs: number, failure: () => Error): Promise<T> => {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(failure()), timeoutMs);
  });
  try {
    return await Promise.race([work, limit]);
  } finally {
    clearTimeout(timer);
  }
};
