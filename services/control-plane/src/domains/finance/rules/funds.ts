/** What a wallet has and what is already spoken for; minor units of one currency. */
export interface WalletFunds {
  readonly balanceMinor: bigint;
  readonly creditLimitMinor: bigint;
  /** used and not yet rated */
  readonly unratedMinor: bigint;
  /** first hours of launches that are not yet rated */
  readonly heldMinor: bigint;
}

export type FundsAnswer =
  | { readonly enough: true; readonly availableMinor: bigint }
  | { readonly enough: false; readonly availableMinor: bigint; readonly requiredMinor: bigint };

/** What the wallet may still promise; negative once it is overdrawn. */
export function availableFunds(funds: WalletFunds): bigint {
  return funds.balanceMinor + funds.creditLimitMinor - funds.unratedMinor - funds.heldMinor;
}

/** Whether the wallet covers one hour of what is asked for. What costs nothing needs nothing, also of an empty wallet. */
export function decideFunds(funds: WalletFunds, hourlyMinor: bigint): FundsAnswer {
  const availableMinor = availableFunds(funds);
  return hourlyMinor === 0n || availableMinor >= hourlyMinor
    ? { enough: true, availableMinor }
    : { enough: false, availableMinor, requiredMinor: hourlyMinor };
}
