import { BlockList, isIPv4 } from 'node:net';

const PRIVATE = new BlockList();
for (const [network, prefix] of [
  ['10.0.0.0', 8],
  ['100.64.0.0', 10],
  ['172.16.0.0', 12],
  ['192.168.0.0', 16],
] as const) {
  PRIVATE.addSubnet(network, prefix);
}

/** A guest as its host reports it. */
export interface GuestReport {
  readonly privateIp: string | null;
  /** in the words of the hypervisor */
  readonly domainState: string;
  readonly sshReachable: boolean;
}

export type GuestProof =
  | { readonly ok: true; readonly host: string }
  | { readonly ok: false; readonly reason: 'readiness' | 'address_unusable' };

/**
 * Whether a guest serves, and where. `declared` are the addresses that operators gave to its slots; without one, a
 * private address is believed. What a host says of itself must not send tenants anywhere else.
 */
export function decideGuestUp(report: GuestReport, declared: readonly string[]): GuestProof {
  if (report.domainState !== 'running' || !report.sshReachable) return { ok: false, reason: 'readiness' };
  const [first] = declared;
  const host = report.privateIp ?? first ?? null;
  const usable = host !== null && (first === undefined ? isPrivate(host) : declared.includes(host));
  return usable ? { ok: true, host } : { ok: false, reason: 'address_unusable' };
}

function isPrivate(address: string): boolean {
  return isIPv4(address) && PRIVATE.check(address);
}

/** Whether every disk of the slots was wiped: named by its WWN where it has one, else by its device. */
export function areWiped(
  slots: readonly { readonly nvme_wwn?: string | undefined; readonly nvme_device?: string | undefined }[],
  wiped: readonly string[],
): boolean {
  return slots.every((slot) => {
    const disk = slot.nvme_wwn ?? slot.nvme_device;
    return disk === undefined || wiped.includes(disk);
  });
}
