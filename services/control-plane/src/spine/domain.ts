import type { OperationHandlers } from './operation.js';
import type { PeriodicJob } from './periodic-jobs.js';
import type { EventSubscriber } from './relay.js';
import type { WorkflowRegistration } from './workflows.js';

/** What a domain gives to the composition root; everything else of it stays behind its face. */
export interface DomainModule {
  readonly name: string;
  readonly operations: OperationHandlers;
  readonly subscribers?: readonly EventSubscriber[];
  readonly periodicJobs?: readonly PeriodicJob[];
  readonly workflows?: readonly WorkflowRegistration[];
}
