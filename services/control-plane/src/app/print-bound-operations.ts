import { boundOperationIds } from './compose.js';

/** Prints the operationIds that have a handler, as a JSON array; nothing is started. */
process.stdout.write(`${JSON.stringify([...boundOperationIds()].sort())}\n`);
