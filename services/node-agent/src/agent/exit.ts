/** Why an agent ended. */
export interface AgentExit {
  reason: 'stopped' | 'uninstalled' | 'configuration' | 'identity_refused' | 'identity_expired' | 'state_unusable';
  message: string;
}

/**
 * Exit codes of the program, in the numbers of sysexits.h where one fits. A service manager restarts the agent on any
 * code but these: a restart would not help with what they stand for.
 */
export const EXIT_CODES: Readonly<Record<AgentExit['reason'], number>> = {
  stopped: 0,
  uninstalled: 0,
  configuration: 64,
  state_unusable: 74,
  /** The control plane refuses this host: an operator has to reissue the enrolment. */
  identity_refused: 77,
  identity_expired: 77,
};

/** Ends the agent with a reason. */
export class AgentExitError extends Error {
  constructor(
    readonly exit: AgentExit,
    options?: ErrorOptions,
  ) {
    super(exit.message, options);
    this.name = 'AgentExitError';
  }
}
