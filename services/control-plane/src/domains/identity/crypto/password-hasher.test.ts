import { describe, expect, it } from 'vitest';
import { createPasswordHasher } from './password-hasher.js';

const cheap = { memoryKibibytes: 1024, iterations: 1, concurrency: 1, queueLimit: 2 };

describe('createPasswordHasher', () => {
  it('makes Argon2id hashes with the parameters it was given, and knows older ones', async () => {
    const hasher = createPasswordHasher(cheap);
    const encoded = await hasher.hash('a password');
    expect(encoded).toMatch(/^\$argon2id\$v=19\$m=1024,t=1,p=1\$/);
    expect(await hasher.verify(encoded, 'a password')).toBe(true);
    expect(await hasher.verify(encoded, 'another one')).toBe(false);
    expect(hasher.isOutdated(encoded)).toBe(false);
    expect(createPasswordHasher({ ...cheap, iterations: 2 }).isOutdated(encoded)).toBe(true);
  });

  it('never verifies against nothing, and works for it all the same', async () => {
    const hasher = createPasswordHasher({ ...cheap, memoryKibibytes: 16_384, iterations: 2 });
    const encoded = await hasher.hash('a password');
    await hasher.verify(null, 'warm the decoy');
    // Processor time, which a busy machine does not stretch.
    const work = async (hash: string | null) => {
      const start = process.cpuUsage();
      expect(await hasher.verify(hash, 'wrong')).toBe(false);
      const spent = process.cpuUsage(start);
      return spent.user + spent.system;
    };
    const known = [];
    const unknown = [];
    for (let round = 0; round < 5; round += 1) {
      known.push(await work(encoded));
      unknown.push(await work(null));
    }
    // far apart if one of the two skipped the hash, which is all of the time there is
    expect(Math.min(...unknown)).toBeGreaterThan(Math.min(...known) / 4);
  });

  it('refuses callers beyond the queue instead of piling them up', async () => {
    const hasher = createPasswordHasher(cheap);
    const calls = Array.from({ length: 5 }, () => hasher.hash('a password'));
    const outcomes = await Promise.allSettled(calls);
    expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(3);
    for (const outcome of outcomes) {
      if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ status: 503, retryAfterSeconds: 1 });
    }
    // and takes turns again afterwards
    expect(await hasher.hash('a password')).toContain('argon2id');
  });
});
