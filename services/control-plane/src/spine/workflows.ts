/** A durable workflow as a domain declares it; the spine registers it with the engine under its stable name. */
export interface WorkflowRegistration {
  /** `fleet.drain-node`; stable for ever, running instances are found by it */
  readonly name: string;
  /** receives an id, never a row; every step may run twice */
  run(input: { readonly id: string; readonly correlationId: string }): Promise<void>;
}
