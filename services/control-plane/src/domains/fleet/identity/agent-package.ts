import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { Refusal } from '../../../spine/refusal.js';

export interface PackageFacts {
  /** SHA-256 of the file, lower-case hex */
  readonly digest: string;
  readonly bytes: number;
}

interface Measured extends PackageFacts {
  readonly modified: number;
}

/** The node agent as hosts download it: one file that the build makes, good for every architecture. */
export class AgentPackage {
  readonly #path: string;
  #measured: Measured | null = null;

  constructor(path: string) {
    this.#path = path;
  }

  /** Refuses (503) while the package is not built. Reads the file again only when it has changed. */
  async describe(): Promise<PackageFacts> {
    const found = await stat(this.#path).catch(() => null);
    if (found === null || !found.isFile()) throw unbuilt();
    const known = this.#measured;
    if (known !== null && known.modified === found.mtimeMs && known.bytes === found.size) return known;
    const hash = createHash('sha256');
    await pipeline(createReadStream(this.#path), hash);
    const measured = { digest: hash.digest('hex'), bytes: found.size, modified: found.mtimeMs };
    this.#measured = measured;
    return measured;
  }

  /** The file itself, from its beginning. Refuses (503) while the package is not built. */
  async content(): Promise<{ readonly stream: Readable; readonly bytes: number }> {
    const file = await open(this.#path).catch(() => {
      throw unbuilt();
    });
    const { size } = await file.stat();
    return { stream: file.createReadStream({ start: 0, end: Math.max(0, size - 1) }), bytes: size };
  }
}

function unbuilt(): Refusal {
  return new Refusal('service_unavailable', {
    details: { reason: 'node_package_unbuilt' },
    message: 'the package of the node agent is not built on this site',
  });
}
