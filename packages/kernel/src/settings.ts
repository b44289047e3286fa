import { z } from 'zod';

/** Settings that cannot be used; `problems` has one line a setting, each naming it and the reason. */
export class SettingsError extends Error {
  constructor(readonly problems: readonly string[]) {
    super(`settings cannot be used:\n${problems.map((line) => `  ${line}`).join('\n')}`);
    this.name = 'SettingsError';
  }
}

/**
 * Reads settings from environment variables by a zod object whose keys are the variables' names.
 * An empty variable counts as absent. Throws a SettingsError that names every bad one at once.
 */
export function readSettings<Shape extends z.ZodRawShape>(
  shape: z.ZodObject<Shape>,
  environment: Readonly<Record<string, string | undefined>>,
): z.infer<z.ZodObject<Shape>> {
  const present = Object.fromEntries(
    Object.keys(shape.shape)
      .map((name) => [name, environment[name]] as const)
      .filter(([, value]) => value !== undefined && value !== ''),
  );
  const parsed = shape.safeParse(present);
  if (parsed.success) return parsed.data;
  throw new SettingsError(parsed.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`));
}

/** A whole number written in decimal, within bounds. */
export function integerSetting(minimum: number, maximum: number) {
  return z
    .string()
    .regex(/^\d+$/, 'must be a whole number')
    .transform(Number)
    .refine((value) => value >= minimum && value <= maximum, `must lie in ${minimum}..${maximum}`);
}
