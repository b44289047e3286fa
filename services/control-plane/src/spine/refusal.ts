import type { ErrorCode } from '@gpuaas/contract';

/** The HTTP status that an error code has unless the refusal says otherwise. */
const STATUS_OF_CODE: Record<ErrorCode, number> = {
  token_missing: 401,
  token_invalid: 401,
  token_expired: 401,
  token_scope_invalid: 401,
  auth_personal_disabled: 403,
  auth_enterprise_required: 401,
  auth_personal_required: 400,
  insufficient_permissions: 403,
  admin_required: 403,
  ownership_required: 403,
  step_up_required: 403,
  validation_error: 400,
  invalid_request: 400,
  allocation_not_found: 404,
  allocation_not_active: 409,
  allocation_already_releasing: 409,
  allocation_concurrency_limit: 409,
  insufficient_balance: 409,
  sku_unavailable: 409,
  node_not_found: 404,
  node_offline: 409,
  node_in_use: 409,
  node_already_exists: 409,
  user_not_found: 404,
  user_already_exists: 409,
  stripe_signature_invalid: 400,
  refund_window_exceeded: 409,
  storage_object_not_found: 404,
  storage_path_traversal: 400,
  storage_already_exists: 409,
  storage_quota_exceeded: 409,
  sku_not_found: 404,
  app_not_found: 404,
  app_version_not_found: 404,
  app_not_entitled: 403,
  app_instance_not_found: 404,
  app_instance_state_invalid: 409,
  app_instance_quota_exceeded: 409,
  rate_limit_exceeded: 429,
  internal_error: 500,
  upstream_error: 503,
  service_unavailable: 503,
};

export interface RefusalDetails {
  /** stable, snake_case: what exactly is wrong where the closed list of codes has no word of its own */
  readonly reason?: string;
  /** the kind of thing that was not found or is in conflict, e.g. `project` */
  readonly resource?: string;
  readonly [key: string]: unknown;
}

/**
 * An expected "no" to a caller: it rolls the transaction back and becomes an ErrorResponse.
 * Only for the way out of a handler; rules return values.
 */
export class Refusal extends Error {
  readonly code: ErrorCode;
  readonly status: number;
  readonly details: RefusalDetails | undefined;
  /** seconds for `Retry-After` */
  readonly retryAfterSeconds: number | undefined;

  constructor(
    code: ErrorCode,
    options: {
      status?: number;
      message?: string;
      details?: RefusalDetails;
      retryAfterSeconds?: number;
      cause?: unknown;
    } = {},
  ) {
    super(options.message ?? defaultMessage(code, options.details), { cause: options.cause });
    this.name = 'Refusal';
    this.code = code;
    this.status = options.status ?? STATUS_OF_CODE[code];
    this.details = options.details;
    this.retryAfterSeconds = options.retryAfterSeconds;
  }
}

/** `throw refuse('allocation_not_found')`; the status follows from the code. */
export function refuse(code: ErrorCode, details?: RefusalDetails, message?: string): Refusal {
  return new Refusal(code, { ...(details && { details }), ...(message && { message }) });
}

/** 404 for a thing whose kind has no code of its own; foreign and unknown look alike. */
export function notFound(resource: string): Refusal {
  return new Refusal('invalid_request', {
    status: 404,
    details: { reason: `${resource}_not_found`, resource },
    message: `no such ${resource.replaceAll('_', ' ')}`,
  });
}

/** 409 for a legal request that meets the wrong state, where no code fits better. */
export function conflict(reason: string, details: RefusalDetails = {}, message?: string): Refusal {
  return new Refusal('invalid_request', { status: 409, details: { reason, ...details }, ...(message && { message }) });
}

/** 400 for a request whose form is right and whose meaning is not. `pointer` names the field (`/body/name`). */
export function badRequest(reason: string, pointer: string, message: string): Refusal {
  return new Refusal('invalid_request', {
    details: { reason, issues: [{ pointer, message }] },
    message: `${pointer.split('/').slice(2).join('.') || pointer.slice(1)}: ${message}`,
  });
}

function defaultMessage(code: ErrorCode, details: RefusalDetails | undefined): string {
  const words = code.replaceAll('_', ' ');
  return details?.reason ? `${words}: ${details.reason.replaceAll('_', ' ')}` : words;
}
