/** The container of saved states (zig/state_file.zig), taken apart and put together again with right checksums. */

export interface Section {
  kind: number;
  index: number;
  bytes: Uint8Array;
}

export interface Container {
  /** Magic, version, sizes, identity; what depends on the sections is worked out anew. */
  header: Uint8Array;
  sections: Section[];
}

/** The kinds of sections (zig/memory_state.zig). */
export const kinds = { holders: 0, tokens: 1, pieces: 2, blocks: 3, cells: 4 } as const;

const headerBytes = 144;
const entryBytes = 32;
const [fileBytesAt, tableOffsetAt, sectionCountAt, tableChecksumAt, headerChecksumAt] = [16, 24, 32, 128, 136];

const aligned = (offset: number) => Math.ceil(offset / 64) * 64;
const view = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
const checksum = (bytes: Uint8Array) => Bun.hash.xxHash64(bytes, 0n);

/** Takes a file apart. The sections are copies. */
export function takeApart(bytes: Uint8Array): Container {
  // What a Buffer calls a slice is none.
  const file = new Uint8Array(bytes);
  const data = view(file);
  const table = Number(data.getBigUint64(tableOffsetAt, true));
  const sections: Section[] = [];
  for (let entry = table; entry < file.length; entry += entryBytes) {
    const offset = Number(data.getBigUint64(entry + 8, true));
    const size = Number(data.getBigUint64(entry + 16, true));
    const [kind, index] = [data.getUint32(entry, true), data.getUint32(entry + 4, true)];
    sections.push({ kind, index, bytes: file.slice(offset, offset + size) });
  }
  return { header: file.slice(0, headerBytes), sections };
}

/** Puts a file together that differs from a true one in nothing but what its sections say. */
export function putTogether({ header, sections }: Container): Uint8Array {
  const table = sections.reduce((end, { bytes }) => aligned(end + bytes.length), aligned(headerBytes));
  const file = new Uint8Array(table + sections.length * entryBytes);
  const data = view(file);
  file.set(header);
  let offset = aligned(headerBytes);
  for (const [i, { kind, index, bytes }] of sections.entries()) {
    file.set(bytes, offset);
    const entry = table + i * entryBytes;
    data.setUint32(entry, kind, true);
    data.setUint32(entry + 4, index, true);
    data.setBigUint64(entry + 8, BigInt(offset), true);
    data.setBigUint64(entry + 16, BigInt(bytes.length), true);
    data.setBigUint64(entry + 24, checksum(bytes), true);
    offset = aligned(offset + bytes.length);
  }
  data.setBigUint64(fileBytesAt, BigInt(file.length), true);
  data.setBigUint64(tableOffsetAt, BigInt(table), true);
  data.setUint32(sectionCountAt, sections.length, true);
  data.setBigUint64(tableChecksumAt, checksum(file.subarray(table)), true);
  data.setBigUint64(headerChecksumAt, checksum(file.subarray(0, headerChecksumAt)), true);
  return file;
}

const mask = (1n << 64n) - 1n;

/** What tokens are known by (zig/history.zig). */
function stampOf(tokens: Int32Array): bigint {
  let hash = 0x5bd1e9955bd1e995n;
  for (const token of tokens) {
    const mixed = ((hash ^ BigInt(token >>> 0)) * 0x9e3779b97f4a7c15n) & mask;
    hash = mixed ^ (mixed >> 29n);
  }
  return hash;
}

/** Writes into what every pool holds of a text that it stands for the tokens that the file has now. */
export function stampAgain({ sections }: Container, pools: number): void {
  for (const { kind, index, bytes } of sections) {
    if (kind !== kinds.pieces || bytes.length < 32) continue;
    const holder = Math.floor(index / pools);
    const tokens = sections.find((one) => one.kind === kinds.tokens && one.index === holder)?.bytes;
    if (tokens === undefined || tokens.length % 8 !== 0) continue;
    const data = view(bytes);
    data.setUint32(16, tokens.length / 8, true);
    data.setBigUint64(24, stampOf(new Int32Array(tokens.slice(0, tokens.length / 2).buffer)), true);
  }
}
