import { createLogger, systemClock } from '@gpuaas/kernel';
import { createCustody } from '../spine/custody.js';
import { openDatabase } from '../spine/database.js';
import { policies } from '../spine/policy-registry.js';
import { boundOperationIds, composeDomains } from './compose.js';

// Prints the operationIds that have a handler, as a JSON array. The domains are built and not started, so that
// neither a database nor a listener is needed.
const nowhere = () => {
  throw new Error('the domains were built to be listed, not to work');
};
const domains = composeDomains({
  db: openDatabase({ url: 'postgres://nowhere.invalid/nothing', poolSize: 1 }),
  custody: createCustody([{ id: 'none', bytes: new Uint8Array(32) }]),
  policies,
  authority: { caBundlePem: nowhere, issueClientCertificate: nowhere },
  signals: {
    notify: nowhere,
    subscribe: () => () => undefined,
    onGap: () => () => undefined,
    afterCommit: nowhere,
    ready: nowhere,
    close: nowhere,
  },
  clock: systemClock,
  log: createLogger({ program: 'print-bound-operations', level: 'silent' }),
  tokenIssuer: 'none',
  nodeApiUrl: nowhere,
  acceptsInternalTokens: false,
  settings: {},
});
process.stdout.write(`${JSON.stringify(boundOperationIds(domains).sort())}\n`);
