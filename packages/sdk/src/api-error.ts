import type { ErrorCode } from '@gpuaas/contract';

/** What an {@link ApiError} is made of. */
export interface ApiErrorFacts {
  readonly status: number;
  readonly code: ErrorCode;
  readonly message: string;
  readonly details: Readonly<Record<string, unknown>>;
  readonly requestId: string | null;
  readonly retryAfterSeconds: number | null;
}

/** The service answered, and the answer was no success. */
export class ApiError extends Error {
  override readonly name = 'ApiError';
  /** HTTP status. */
  readonly status: number;
  /** One of the contract's closed list; `upstream_error` where something in between answered in another form. */
  readonly code: ErrorCode;
  /** Facts about the refusal: `reason`, `resource`, `issues`. */
  readonly details: Readonly<Record<string, unknown>>;
  /** What the operator finds this request by. */
  readonly requestId: string | null;
  /** When the service says another try makes sense, in seconds from the answer. */
  readonly retryAfterSeconds: number | null;

  constructor(facts: ApiErrorFacts) {
    super(facts.message);
    this.status = facts.status;
    this.code = facts.code;
    this.details = facts.details;
    this.requestId = facts.requestId;
    this.retryAfterSeconds = facts.retryAfterSeconds;
  }
}
