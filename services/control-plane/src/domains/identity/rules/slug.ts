const MAXIMUM_LENGTH = 63;
const SUFFIX_ROOM = 8;

/**
 * A slug for a name: ASCII letters and digits with single hyphens, 2 to 63 characters, starting with a letter or digit.
 * A name without any usable character gives `fallback`, which must be a slug itself.
 */
export function deriveSlug(name: string, fallback: string): string {
  const base = name
    .normalize('NFKD')
    .replace(/\p{M}/gu, '')
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-+/, '')
    .slice(0, MAXIMUM_LENGTH)
    .replace(/-+$/, '');
  if (base.length === 0) return fallback;
  return base.length === 1 ? `${base}-${fallback}`.slice(0, MAXIMUM_LENGTH) : base;
}

/** The `attempt`-th spelling of a derived slug: itself, then with `-2`, `-3`, … within the length. */
export function slugCandidate(base: string, attempt: number): string {
  if (attempt <= 1) return base;
  const suffix = `-${attempt}`;
  return `${base.slice(0, MAXIMUM_LENGTH - suffix.length).replace(/-+$/, '')}${suffix}`;
}

/** The first spelling of `base` that is not in `taken`. */
export function firstFreeSlug(base: string, taken: ReadonlySet<string>): string {
  for (let attempt = 1; ; attempt += 1) {
    const candidate = slugCandidate(base, attempt);
    if (!taken.has(candidate)) return candidate;
  }
}

/** What every suffixed spelling of `base` begins with: narrows the search for taken ones. */
export function slugStem(base: string): string {
  return base.slice(0, MAXIMUM_LENGTH - SUFFIX_ROOM).replace(/-+$/, '');
}
