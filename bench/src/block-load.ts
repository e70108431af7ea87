/** One load of the block benchmark. */
export interface Load {
  readonly bytes: number;
  readonly depth: number;
  readonly random: boolean;
  /** Into buffers that the backend can use directly; else into ordinary ones, by way of the frontend's own pages. */
  readonly shared: boolean;
  readonly seconds: number;
  /** Size of the disk. */
  readonly total: number;
}

/** The positions to read, in bytes; the same sequence for whoever asks with the same load. */
export function positions({ bytes, random, total }: Load): () => number {
  const blocks = total / bytes;
  let state = 1;
  return () => {
    // A linear congruential generator; its high bits are good enough to scatter reads.
    state = random ? (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0 : state + 1;
    return (random ? Math.floor((state / 2 ** 32) * blocks) : state % blocks) * bytes;
  };
}
