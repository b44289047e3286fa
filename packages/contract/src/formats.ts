import type { Format } from 'ajv';
import { fullFormats } from 'ajv-formats/dist/formats.js';

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
const DATE_TIME = /^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?(?:[Zz]|[+-]\d{2}:\d{2})$/;
const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;
const INT32_MAXIMUM = 2 ** 31 - 1;

/** A date and time the database and the runtime both read as the same instant: no leap second, no year 0. */
function isDateTime(text: string): boolean {
  return (
    DATE_TIME.test(text) && fullFormats.date !== true && isDate(text.slice(0, 10)) && !Number.isNaN(Date.parse(text))
  );
}

/** A day of the calendar from year 1 on. */
function isDate(text: string): boolean {
  const date = /^(\d{4})-(\d{2})-(\d{2})$/.exec(text);
  if (!date || date[1] === '0000') return false;
  const midnight = new Date(`${text}T00:00:00Z`);
  // A day that the month does not have rolls over, and then reads differently.
  return !Number.isNaN(midnight.getTime()) && midnight.toISOString().slice(0, 10) === text;
}

/**
 * Formats of the contract. Integers of 64 bits are accepted as far as a JSON number carries them exactly (2^53 - 1):
 * beyond, the value that arrived may not be the one that was sent.
 */
export const formats: Record<string, Format> = {
  uuid: UUID,
  'date-time': isDateTime,
  date: isDate,
  email: fullFormats.email,
  uri: fullFormats.uri,
  byte: BASE64,
  binary: true,
  int32: { type: 'number', validate: (value: number) => Number.isInteger(value) && Math.abs(value) <= INT32_MAXIMUM },
  int64: { type: 'number', validate: Number.isSafeInteger },
  uint64: { type: 'number', validate: (value: number) => Number.isSafeInteger(value) && value >= 0 },
  double: { type: 'number', validate: Number.isFinite },
};

/** What a value of a format must be, as the end of a sentence that begins with "must be". */
export const formatPhrases: Readonly<Record<string, string>> = {
  uuid: 'a UUID',
  'date-time': 'a date and time with a time zone, such as 2026-01-31T12:00:00Z',
  date: 'a date, such as 2026-01-31',
  email: 'an email address',
  uri: 'an absolute URI',
  byte: 'base64',
  int32: 'a whole number of 32 bits',
  int64: 'a whole number that JSON carries exactly (at most 9007199254740991)',
  uint64: 'a whole number from 0 to 9007199254740991',
  double: 'a finite number',
};
