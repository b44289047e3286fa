import { randomBytes } from 'node:crypto';
import { availableParallelism } from 'node:os';
import { hash, verify } from '@node-rs/argon2';
import { Refusal } from '../../../spine/refusal.js';

export interface PasswordHashing {
  /** memory of one hash in KiB */
  readonly memoryKibibytes: number;
  readonly iterations: number;
  /** hashes at once; each occupies a thread of the process for its whole time */
  readonly concurrency: number;
  /** callers that may wait for a turn; one more is refused */
  readonly queueLimit: number;
}

/** RFC 9106 / OWASP: 19 MiB and two passes; one libuv thread is left to everything else. */
export const DEFAULT_PASSWORD_HASHING: PasswordHashing = {
  memoryKibibytes: 19_456,
  iterations: 2,
  concurrency: Math.max(1, Math.min(3, availableParallelism())),
  queueLimit: 256,
};

/** Argon2id with a bound on work at once. */
export interface PasswordHasher {
  hash(password: string): Promise<string>;
  /** false for a null hash after the same work, so that time does not tell which users exist */
  verify(encoded: string | null, password: string): Promise<boolean>;
  /** whether `encoded` was made with other parameters than new hashes are */
  isOutdated(encoded: string): boolean;
}

/** Refuses with 503 where more callers wait than the queue takes. */
export function createPasswordHasher(settings: PasswordHashing): PasswordHasher {
  const options = { memoryCost: settings.memoryKibibytes, timeCost: settings.iterations, parallelism: 1 };
  const parameters = `m=${settings.memoryKibibytes},t=${settings.iterations},p=1`;
  const waiting: (() => void)[] = [];
  let running = 0;
  let decoy: Promise<string> | undefined;

  async function inTurn<T>(work: () => Promise<T>): Promise<T> {
    if (running >= settings.concurrency) {
      if (waiting.length >= settings.queueLimit) {
        throw new Refusal('service_unavailable', {
          details: { reason: 'sign_in_busy' },
          retryAfterSeconds: 1,
          message: 'too many sign-ins at once; try again',
        });
      }
      // whoever finishes hands its turn over, so `running` does not change
      await new Promise<void>((resolve) => waiting.push(resolve));
    } else {
      running += 1;
    }
    try {
      return await work();
    } finally {
      const next = waiting.shift();
      if (next) next();
      else running -= 1;
    }
  }

  return {
    hash: (password) => inTurn(() => hash(password, options)),
    verify: (encoded, password) =>
      inTurn(async () => {
        decoy ??= hash(randomBytes(32), options);
        const matches = await verify(encoded ?? (await decoy), password);
        return matches && encoded !== null;
      }),
    isOutdated: (encoded) => !encoded.startsWith('$argon2id$') || encoded.split('$')[3] !== parameters,
  };
}
