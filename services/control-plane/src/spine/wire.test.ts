import { describe, expect, it } from 'vitest';
import { csvCell } from './wire.js';

describe('a cell of a CSV file', () => {
  it.each([
    '=1+1',
    '+1',
    '-1',
    '@SUM(A1)',
    '\t=1',
    '\r=1',
    '\n=1',
    ' =1',
    '\u00a0=1',
    '\uff1d1',
    '\uff0b1',
    '\uff0d1',
    '\uff20x',
  ])('that a spreadsheet would calculate is text: %j', (value) => {
    expect(csvCell(value).replace(/^"/, '').startsWith("'")).toBe(true);
  });

  it.each(['a=b', '10-20', 'ann@example.test', "o'clock", ''])('that is harmless stays as it is: %j', (value) => {
    expect(csvCell(value)).toBe(value);
  });

  it('is quoted where it holds a separator, a quote or a line break', () => {
    expect(csvCell('a,"b"\nc')).toBe('"a,""b""\nc"');
    expect(csvCell(-5n)).toBe('-5');
    expect(csvCell(null)).toBe('');
  });
});
