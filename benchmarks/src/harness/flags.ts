import { parseArgs } from 'node:util';

export interface NumberFlag {
  readonly default: number;
  readonly help: string;
}

export interface SwitchFlag {
  readonly default: false;
  readonly help: string;
}

type Flag = NumberFlag | SwitchFlag;
type FlagValues<Flags extends Record<string, Flag>> = {
  readonly [Name in keyof Flags]: Flags[Name] extends SwitchFlag ? boolean : number;
};

/**
 * Reads `--name=value` and `--name` from the command line. An unknown name or a value that is no number of at least
 * zero throws; `--help` prints what there is and ends the program.
 */
export function readFlags<const Flags extends Record<string, Flag>>(
  flags: Flags,
  argv: readonly string[] = process.argv.slice(2),
): FlagValues<Flags> {
  const parsed = parseArgs({
    args: [...argv],
    options: {
      help: { type: 'boolean' },
      ...Object.fromEntries(
        Object.entries(flags).map(([name, flag]) => [
          name,
          { type: flag.default === false ? ('boolean' as const) : ('string' as const) },
        ]),
      ),
    },
  });
  const values: Readonly<Record<string, unknown>> = parsed.values;
  if (values.help === true) {
    const lines = Object.entries(flags).map(([name, flag]) =>
      flag.default === false ? `  --${name}  ${flag.help}` : `  --${name}=${flag.default}  ${flag.help}`,
    );
    process.stdout.write(`${lines.join('\n')}\n`);
    process.exit(0);
  }
  const read = Object.entries(flags).map(([name, flag]) => [name, flagValue(name, flag, values[name])]);
  return Object.fromEntries(read);
}

function flagValue(name: string, flag: Flag, given: unknown): number | boolean {
  if (flag.default === false) return given === true;
  if (given === undefined) return flag.default;
  const value = Number(given);
  if (!Number.isFinite(value) || value < 0) throw new Error(`--${name}: must be a number of at least 0`);
  return value;
}
