import { constants, gzipSync } from 'node:zlib';

const BLOCK = 512;

/**
 * A gzip tarball (POSIX ustar) of the given files. Owner, times and order are fixed, so equal files give equal bytes.
 * Each entry is {path, mode, content}; paths are at most 100 bytes.
 */
export function createTarball(entries) {
  const sorted = [...entries].sort((left, right) => (left.path < right.path ? -1 : 1));
  const blocks = sorted.flatMap(({ path, mode, content }) => {
    const data = Buffer.from(content);
    const padding = Buffer.alloc((BLOCK - (data.length % BLOCK)) % BLOCK);
    return [header(path, mode, data.length), data, padding];
  });
  const archive = Buffer.concat([...blocks, Buffer.alloc(2 * BLOCK)]);
  const packed = gzipSync(archive, { level: constants.Z_BEST_COMPRESSION });
  // Byte 9 names the system that packed; it must not tell one machine's output from another's.
  packed[9] = 255;
  return packed;
}

function header(path, mode, size) {
  if (Buffer.byteLength(path) > 100) throw new Error(`${path} is too long for a tar header`);
  const block = Buffer.alloc(BLOCK);
  const octal = (value, length) => `${value.toString(8).padStart(length - 1, '0')}\0`;
  block.write(path, 0);
  block.write(octal(mode, 8), 100);
  block.write(octal(0, 8), 108);
  block.write(octal(0, 8), 116);
  block.write(octal(size, 12), 124);
  block.write(octal(0, 12), 136);
  block.write('        ', 148);
  block.write('0', 156);
  block.write('ustar\x0000', 257);
  block.write('root', 265);
  block.write('root', 297);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return block;
}
