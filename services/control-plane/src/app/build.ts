import { readFileSync } from 'node:fs';

const manifest: unknown = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'));

/** What this build calls itself, to operators and to the workflow engine: a workflow goes on only in the version that began it. */
export const APPLICATION_VERSION =
  manifest !== null && typeof manifest === 'object' && 'version' in manifest && typeof manifest.version === 'string'
    ? manifest.version
    : 'unknown';
