// Runs a TypeScript module with workspace packages resolved to their sources: for programs that a test kills.
// usage: node run-typescript.mjs FILE

import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { runnerImport } from 'vite';

const conditions = ['source', 'node', 'default'];
await runnerImport(path.resolve(process.argv[2] ?? ''), {
  root: fileURLToPath(new URL('../../../..', import.meta.url)),
  configFile: false,
  logLevel: 'error',
  resolve: { conditions },
  ssr: { resolve: { conditions, externalConditions: conditions } },
});
