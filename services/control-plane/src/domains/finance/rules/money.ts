/** What one request may move at most, in minor units: far below what a JSON number carries exactly. */
export const MAXIMUM_AMOUNT_MINOR = 10n ** 12n;

/** What one unit may cost an hour at most, in minor units; the database holds to the same. */
export const MAXIMUM_UNIT_PRICE_MINOR = 1_000_000_000;

/** An amount of a request as minor units, or null where it is not a whole number of 1 to 10^12. */
export function parseAmount(value: number): bigint | null {
  if (!Number.isSafeInteger(value) || value < 1) return null;
  const amount = BigInt(value);
  return amount <= MAXIMUM_AMOUNT_MINOR ? amount : null;
}

/** Minor units as a decimal of the currency's major unit: 1234 is `12.34` in USD, `1234` in JPY. */
export function decimalAmount(amountMinor: bigint, currency: string): string {
  const digits = minorDigits(currency);
  const sign = amountMinor < 0n ? '-' : '';
  const text = (amountMinor < 0n ? -amountMinor : amountMinor).toString().padStart(digits + 1, '0');
  return digits === 0 ? `${sign}${text}` : `${sign}${text.slice(0, -digits)}.${text.slice(-digits)}`;
}

/** How many decimals a currency has; two for one that nobody knows. */
function minorDigits(currency: string): number {
  return new Intl.NumberFormat('en', { style: 'currency', currency }).resolvedOptions().maximumFractionDigits ?? 2;
}
