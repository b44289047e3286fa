import { z } from 'zod';

/** The small values that task params are made of. All of them end up in files or commands of a host: be strict. */

export const timestamp = z.iso.datetime({ offset: true });
export const allocationId = z.guid();
export const sha256 = z.string().regex(/^[0-9a-f]{64}$/, 'must be a SHA-256 in lower-case hex');

/** Accounts that a host has already, by distribution or by habit; no tenant may run as one of them. */
const RESERVED_USERNAMES: ReadonlySet<string> = new Set([
  'adm',
  'admin',
  'administrator',
  'audio',
  'backup',
  'bin',
  'cdrom',
  'daemon',
  'dbus',
  'debian',
  'dialout',
  'disk',
  'docker',
  'ftp',
  'games',
  'gnats',
  'gpuaas',
  'halt',
  'irc',
  'kmem',
  'kvm',
  'libvirt',
  'list',
  'lp',
  'mail',
  'man',
  'messagebus',
  'mysql',
  'news',
  'nobody',
  'nogroup',
  'nvidia',
  'operator',
  'polkitd',
  'postfix',
  'postgres',
  'proxy',
  'render',
  'root',
  'shadow',
  'shutdown',
  'slurm',
  'ssh',
  'sshd',
  'staff',
  'sudo',
  'sync',
  'sys',
  'syslog',
  'tape',
  'tty',
  'ubuntu',
  'users',
  'utmp',
  'uucp',
  'video',
  'voice',
  'wheel',
]);

/** A POSIX account name of a tenant: what every useradd accepts, and no account that a host has by itself. */
export const runtimeUsername = z
  .string()
  .regex(/^[a-z][a-z0-9_-]{0,31}$/, 'must be 1 to 32 of a-z 0-9 _ - and begin with a letter')
  .refine((name) => !RESERVED_USERNAMES.has(name) && !name.startsWith('systemd-'), 'is a reserved account name');

/** A user id above the range of system accounts, without the two that mean "nobody" and "no change". */
export const runtimeUid = z
  .int()
  .min(1000)
  .max(2_000_000_000)
  .refine((uid) => uid !== 65_534 && uid !== 65_535, 'is a reserved user id');

const SSH_KEY_TYPES = [
  'ssh-ed25519',
  'ssh-rsa',
  'ecdsa-sha2-nistp256',
  'ecdsa-sha2-nistp384',
  'ecdsa-sha2-nistp521',
  'sk-ssh-ed25519@openssh.com',
  'sk-ecdsa-sha2-nistp256@openssh.com',
];

/**
 * One line of an OpenSSH public key: type, blob, optional comment. Options before the type (`command=`, …) and line
 * breaks are refused, and the type named in front must be the one inside the blob.
 */
export const sshPublicKey = z
  .string()
  .max(16_384)
  .refine(isSshPublicKey, 'must be one OpenSSH public key without options');

function isSshPublicKey(text: string): boolean {
  const match = /^([a-z0-9@.-]+) ([A-Za-z0-9+/]+={0,2})(?: [\x20-\x7e\u00a0-\u{10ffff}]*)?$/u.exec(text);
  const [, type, encoded] = match ?? [];
  if (type === undefined || encoded === undefined || !SSH_KEY_TYPES.includes(type)) return false;
  const blob = Buffer.from(encoded, 'base64');
  if (blob.length < 4) return false;
  const length = blob.readUInt32BE(0);
  return length <= 64 && blob.subarray(4, 4 + length).toString('latin1') === type && blob.length > 4 + length;
}

export const managedKey = z.strictObject({
  managed_key_id: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$/, 'must be an identifier'),
  public_key: sshPublicKey,
});
export type ManagedKey = z.infer<typeof managedKey>;

/** The full set of keys of one account. A host ignores a set older than the one it has: reordering revives no key. */
export const managedKeys = z
  .array(managedKey)
  .max(500)
  .refine((keys) => new Set(keys.map((key) => key.managed_key_id)).size === keys.length, 'names a key twice');
export const keySetVersion = z.int().nonnegative();

/** Variables of a process: names as a shell takes them, values without NUL or line breaks. */
export const environment = z
  .record(
    z.string().regex(/^[A-Za-z_][A-Za-z0-9_]{0,127}$/, 'must be a variable name'),
    z
      .string()
      .max(32_768)
      .refine((value) => !/[\0\r\n]/.test(value), 'must be one line'),
  )
  .refine((variables) => Object.keys(variables).length <= 500, 'has more than 500 variables');

/** A name that becomes a file name or a part of one. */
export const fileLabel = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/, 'must be a plain name')
  .refine((name) => !name.includes('..'), 'must not contain ".."');

const OWN_DIRECTORIES = /^\/(bin|boot|dev|etc|lib[^/]*|proc|root|run|sbin|sys|usr|var)(\/|$)/;

/** An absolute normalised path outside the directories that belong to the host. */
export const mountPath = z
  .string()
  .max(1024)
  .refine(
    (path) =>
      /^(\/[^/]+)+$/.test(path) &&
      !path.split('/').some((part) => part === '.' || part === '..') &&
      // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is refused
      !/[\0-\x1f\x7f]/.test(path) &&
      !OWN_DIRECTORIES.test(path),
    'must be an absolute normalised path outside the directories of the host',
  );

/** An image pinned by digest; a tag alone may change under a running fleet. */
export const pinnedImage = z
  .string()
  .max(1024)
  .regex(/^[a-z0-9][A-Za-z0-9._:/-]*@sha256:[0-9a-f]{64}$/, 'must be an image reference pinned by sha256 digest');

export const pciAddress = z.string().regex(/^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$/, 'must be a PCI address');
export const wipePolicy = z.enum(['blkdiscard', 'nvme_format']);
export const reason = z.string().max(1000);
