/** What this agent was built from, as it tells the control plane; null where the build does not say. */
export interface BuildInfo {
  version: string;
  commit: string | null;
  builtAt: string | null;
}
