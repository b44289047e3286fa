import { type Logger, pino } from 'pino';
import { redactText } from './redactor.js';

export type { Logger } from 'pino';

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/**
 * A JSON logger on standard output (or `destination`). Every line carries `program`;
 * secrets in known places and in messages are replaced before they leave the process.
 */
export function createLogger(options: {
  program: string;
  level: LogLevel;
  destination?: { write(line: string): void };
}): Logger {
  return pino(
    {
      level: options.level,
      base: { program: options.program },
      timestamp: pino.stdTimeFunctions.isoTime,
      redact: {
        paths: [
          'password',
          'token',
          'secret',
          'authorization',
          '*.password',
          '*.token',
          '*.secret',
          '*.authorization',
          'req.headers.authorization',
          'req.headers.cookie',
        ],
        censor: '[redacted]',
      },
      formatters: { level: (label) => ({ level: label }) },
      hooks: {
        logMethod(args, method) {
          const safe = args.map((argument) => (typeof argument === 'string' ? redactText(argument) : argument));
          method.apply(this, safe as Parameters<typeof method>);
        },
      },
    },
    ...(options.destination ? [options.destination] : []),
  );
}
