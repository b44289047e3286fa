import { describe, expectTypeOf, it } from 'vitest';
import type {
  BodyInput,
  ErrorCode,
  OperationId,
  PathParameters,
  QueryParameters,
  RequestBody,
  Schema,
  SuccessResponse,
} from './index.js';

// These hold when they compile: the type check of the package is what runs them.
describe('the types of an operation', () => {
  it('name its path parameters', () => {
    expectTypeOf<PathParameters<'getAllocationById'>>().toEqualTypeOf<{ allocation_id: string }>();
    expectTypeOf<keyof PathParameters<'getMe'>>().toBeNever();
  });

  it('make a query parameter with a default certain, and others optional', () => {
    expectTypeOf<QueryParameters<'listV3AccessMemberships'>['page_size']>().toEqualTypeOf<number>();
    expectTypeOf<QueryParameters<'listV3AccessMemberships'>['search']>().toEqualTypeOf<string | undefined>();
    expectTypeOf<QueryParameters<'listProjects'>['page_size']>().toEqualTypeOf<number | undefined>();
  });

  it('give the body after defaults to the handler and before them to the caller', () => {
    expectTypeOf<RequestBody<'createChargeSession'>['currency']>().toEqualTypeOf<string>();
    expectTypeOf<BodyInput<'createChargeSession'>['currency']>().toEqualTypeOf<string | undefined>();
    expectTypeOf<RequestBody<'createChargeSession'>['amount_minor']>().toEqualTypeOf<number>();
    expectTypeOf<RequestBody<'getMe'>>().toEqualTypeOf<undefined>();
    expectTypeOf<undefined>().toExtend<RequestBody<'logout'>>();
    expectTypeOf<RequestBody<'adminCreateUser'>['role']>().toEqualTypeOf<'user' | 'admin'>();
  });

  it('know each success by its status', () => {
    expectTypeOf<SuccessResponse<'getMe'>>().toEqualTypeOf<{ status: 200; body: Schema<'UserWithBalance'> }>();
    expectTypeOf<SuccessResponse<'deleteV3StorageBucket'>>().toEqualTypeOf<{ status: 204; body: undefined }>();
    expectTypeOf<SuccessResponse<'internalNodeWaitTask'>['status']>().toEqualTypeOf<200 | 204>();
  });

  it('spell null as a union and absence as an optional member', () => {
    expectTypeOf<Schema<'Pagination'>['next_cursor']>().toEqualTypeOf<string | null>();
    expectTypeOf<Schema<'UserWithBalance'>['org_id']>().toEqualTypeOf<string | null | undefined>();
  });

  it('close the sets of ids and codes', () => {
    expectTypeOf<'getMe'>().toExtend<OperationId>();
    expectTypeOf<'getV3AccountOverviewCompat'>().not.toExtend<OperationId>();
    expectTypeOf<ErrorCode>().toEqualTypeOf<Schema<'ErrorResponse'>['code']>();
  });
});
