const MINIMUM_LENGTH = 8;
/** A hash reads all of it: more than this is an attack on the processor, not a password. */
const MAXIMUM_BYTES = 1024;

export type PasswordDecision =
  | { readonly ok: true }
  | { readonly ok: false; readonly reason: 'password_too_short' | 'password_too_long' | 'password_equals_username' };

/** Whether a new password may be set. Length is the only strength that is asked for (NIST SP 800-63B, 5.1.1.2). */
export function decidePassword(password: string, username: string): PasswordDecision {
  if ([...password].length < MINIMUM_LENGTH) return { ok: false, reason: 'password_too_short' };
  if (Buffer.byteLength(password, 'utf8') > MAXIMUM_BYTES) return { ok: false, reason: 'password_too_long' };
  if (password.toLowerCase() === username.toLowerCase()) return { ok: false, reason: 'password_equals_username' };
  return { ok: true };
}

/** Whether a presented password is worth the work of a hash. */
export function mayBePassword(password: string): boolean {
  return password.length > 0 && Buffer.byteLength(password, 'utf8') <= MAXIMUM_BYTES;
}
