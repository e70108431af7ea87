/** The configuration file of `pvkit host`: TOML, checked before anything starts. */
import { readFileSync } from 'node:fs';
import { parseDiskSpec } from '@pvkit/blkback';
import { ConfigurationError } from '@pvkit/ring';
import { parse, TomlError } from 'smol-toml';
import { z } from 'zod';
import { LOG_LEVELS } from './log-level.ts';

const disk = z.string().transform((text, context) => {
  try {
    return parseDiskSpec(text);
  } catch (error) {
    context.addIssue({ code: 'custom', message: error instanceof Error ? error.message : String(error) });
    return z.NEVER;
  }
});

const guest = z.strictObject({
  name: z.string().regex(/^[\w.+-]{1,64}$/, 'must be 1 to 64 letters, digits or any of . + - _'),
  disk: z.array(disk).default([]),
});

const schema = z.strictObject({
  log_level: z.enum(LOG_LEVELS).default('info'),
  instance: z.enum(['auto', 'xen', 'loopback']).default('auto'),
  socket: z.string().min(1).optional(),
  guest: z.array(guest).default([]),
});

export type HostConfig = z.output<typeof schema>;
export type GuestConfig = HostConfig['guest'][number];
export type InstanceChoice = HostConfig['instance'];

/** @throws ConfigurationError with one sentence that names the file, the place and the reason. */
export function readConfig(path: string | undefined): HostConfig {
  if (path === undefined) return schema.parse({});
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw new ConfigurationError(`configuration file '${path}' can't be read: ${codeOf(error)}`);
  }
  let raw: unknown;
  try {
    raw = parse(text);
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    throw new ConfigurationError(`${path}:${error.line}: ${error.message.split('\n')[0]}`);
  }
  const result = schema.safeParse(raw);
  if (result.success) return checkGuests(result.data, path);
  const [issue] = result.error.issues;
  const place = issue?.path.map(String).join('.') ?? '';
  throw new ConfigurationError(`${path}: ${place === '' ? '' : `${place}: `}${issue?.message ?? 'is not valid'}`);
}

function checkGuests(config: HostConfig, path: string): HostConfig {
  const names = new Set<string>();
  for (const { name, disk: disks } of config.guest) {
    if (names.has(name)) throw new ConfigurationError(`${path}: guest '${name}' is configured twice`);
    names.add(name);
    const devids = new Set<number>();
    for (const { vdev, devid } of disks) {
      if (devids.has(devid)) throw new ConfigurationError(`${path}: guest '${name}' has two disks '${vdev}'`);
      devids.add(devid);
    }
  }
  return config;
}

const codeOf = (error: unknown): string =>
  error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : String(error);
