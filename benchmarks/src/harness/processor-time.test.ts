import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { expect, it } from 'vitest';
import { ProcessorMeter, processorMilliseconds } from './processor-time.js';

it.runIf(process.platform === 'linux')('counts what a process uses, by unit of work', () => {
  const meter = new ProcessorMeter({ self: { processId: process.pid } });
  const start = process.cpuUsage();
  meter.start();
  for (let round = 0; round < 3e7; round += 1) Math.sqrt(Math.random());
  const { self = 0 } = meter.each(2);
  const { user, system } = process.cpuUsage(start);
  expect(self).toBeGreaterThan(0);
  // Both count the same; one in ticks of 10 ms.
  expect(Math.abs(self * 2 - (user + system) / 1000)).toBeLessThan(100);
});

it.runIf(process.platform === 'linux')('counts the children of a family, while they live and after', async () => {
  const before = processorMilliseconds(process.pid, true);
  const child = spawn(process.execPath, [
    '-e',
    'const s=process.cpuUsage(); while(process.cpuUsage(s).user<300000); process.stdout.write("x"); process.stdin.resume()',
  ]);
  await once(child.stdout, 'data');
  const alive = processorMilliseconds(process.pid, true);
  expect(alive - before).toBeGreaterThan(250);
  child.stdin.end();
  await once(child, 'exit');
  expect(processorMilliseconds(process.pid, true)).toBeGreaterThanOrEqual(alive);
});

it('knows nothing of a process that is not there', () => {
  expect(processorMilliseconds(2 ** 22 + 1)).toBe(0);
});
