const MAXIMUM_LENGTH = 254;
/** Control, format (zero-width, bidirectional), surrogate, private-use and unassigned characters, and any space. */
const FORBIDDEN = /[\p{C}\p{Z}]/u;
const EMAIL = /^[^\s@"<>]{1,64}@(?=.{1,189}$)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)+$/;

export type UsernameDecision =
  | {
      readonly ok: true;
      /** as shown: normalised by NFKC and trimmed, its case kept */
      readonly username: string;
      /** as compared: two spellings of one name are equal here */
      readonly normalised: string;
      /** where the name has the form of an e-mail address; never verified by that alone */
      readonly email: string | null;
    }
  | { readonly ok: false; readonly reason: 'username_empty' | 'username_too_long' | 'username_characters' };

/** Whether `input` can name a user. Lower-casing is followed by NFKC again, so that the result is a fixed point. */
export function decideUsername(input: string): UsernameDecision {
  const username = input.normalize('NFKC').trim();
  const normalised = normaliseUsername(username);
  if (normalised.length === 0) return { ok: false, reason: 'username_empty' };
  if (username.length > MAXIMUM_LENGTH || normalised.length > MAXIMUM_LENGTH) {
    return { ok: false, reason: 'username_too_long' };
  }
  if (FORBIDDEN.test(username) || FORBIDDEN.test(normalised)) return { ok: false, reason: 'username_characters' };
  return { ok: true, username, normalised, email: EMAIL.test(normalised) ? normalised : null };
}

/** The form by which a name is looked up. Total: also names that could never be registered have one. */
export function normaliseUsername(input: string): string {
  return input.normalize('NFKC').trim().toLowerCase().normalize('NFKC').trim();
}
