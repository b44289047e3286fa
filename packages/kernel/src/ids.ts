import { v7, validate } from 'uuid';

declare const brand: unique symbol;

/** A string that is known to be the id of one kind of thing; kinds cannot be mixed up. */
export type Id<Kind extends string> = string & { readonly [brand]: Kind };

export type AllocationId = Id<'allocation'>;
export type NodeId = Id<'node'>;
export type NodeTaskId = Id<'node-task'>;
export type OperationRunId = Id<'operation'>;
export type ProjectId = Id<'project'>;
export type ServiceAccountId = Id<'service-account'>;
export type SessionId = Id<'session'>;
export type SkuCode = Id<'sku'>;
export type SlotId = Id<'slot'>;
export type SshKeyId = Id<'ssh-key'>;
export type TenantId = Id<'tenant'>;
export type UserId = Id<'user'>;

/** A new time-ordered id (UUIDv7, RFC 9562): neighbours in time are neighbours in an index. */
export function newId<Kind extends string>(): Id<Kind> {
  return v7() as Id<Kind>;
}

/** Whether `value` has the form of a UUID; says nothing about what it names. */
export function isUuid(value: string): boolean {
  return validate(value);
}

/**
 * Brands a string that comes out of the database or out of a validated request.
 * The one place where a brand is asserted: nothing checks that the thing exists.
 */
export function asId<Kind extends string>(value: string): Id<Kind> {
  return value as Id<Kind>;
}
