import { runControlPlane } from './app/program.js';

await runControlPlane(process.env);
