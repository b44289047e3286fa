/** Failed attempts after which an event is given up and its failing consumers get a dead letter each. */
export const MAXIMUM_ATTEMPTS = 12;

const LONGEST_DELAY_MILLISECONDS = 300_000;

export type AfterFailure =
  | { readonly kind: 'retry'; readonly delayMilliseconds: number }
  | { readonly kind: 'give_up' };

/** What follows the `failures`-th failed attempt (1 = the first): 2, 4, 8 … seconds, at most five minutes. */
export function afterFailure(failures: number): AfterFailure {
  if (failures >= MAXIMUM_ATTEMPTS) return { kind: 'give_up' };
  return { kind: 'retry', delayMilliseconds: Math.min(LONGEST_DELAY_MILLISECONDS, 1_000 * 2 ** failures) };
}

/** The subject that the dead letters of an event type carry. */
export function deadLetterSubject(eventType: string): string {
  return `dlq.${eventType}`;
}
