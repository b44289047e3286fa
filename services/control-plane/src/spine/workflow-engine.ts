import { DBOS } from '@dbos-inc/dbos-sdk';
import { APPLICATION_ROLE } from './database.js';

/** Makes or updates the tables of the workflow engine (schema `dbos`). `url` must be the owner's login. */
export async function migrateWorkflowEngine(url: string): Promise<void> {
  await DBOS.migrate(url, { applicationRole: APPLICATION_ROLE });
}
