import { StrataError } from "../errors.ts";
import { alignedTo, ByteSink } from "./bytes.ts";
import { tensorBytes, typeNumber, type TensorHead } from "./tensor.ts";
import { writeValue, type GgufMetadata } from "./value.ts";

/** What a GGUF file holds besides the tensors' data. */
export interface GgufContents {
  readonly metadata: GgufMetadata;
  readonly tensors: readonly TensorHead[];
}

/** Where a tensor's data lie in a file. */
export interface Placement {
  /** From the start of the file. */
  readonly offset: number;
  readonly bytes: number;
}

/** A file's first bytes, up to where the tensors' data start, and where those lie. */
export interface GgufHeader {
  readonly bytes: Uint8Array;
  readonly places: ReadonlyMap<string, Placement>;
  readonly fileBytes: number;
}

const version = 3;
const defaultAlignment = 32;

/** A reader of ggml's takes no longer names. */
const longestName = 63;

/**
 * Encodes the header of a GGUF file, version 3. `general.alignment` (a number of the metadata) places the tensors' data,
 * which lie in the order of `tensors`.
 * @throws StrataError `invalid_argument` for what the format cannot say: two tensors of one name, a wrong shape or number
 */
export function encodeHeader({ metadata, tensors }: GgufContents): GgufHeader {
  const values = Object.entries(metadata).flatMap(([key, value]) => (value === undefined ? [] : [{ key, value }]));
  const alignment = alignmentOf(metadata);
  const out = new ByteSink();
  out.bytes(new TextEncoder().encode("GGUF"));
  out.uint32(version);
  out.uint64(tensors.length);
  out.uint64(values.length);
  for (const { key, value } of values) {
    out.string(key);
    writeValue(out, key, value);
  }
  const offsets = layOut(tensors, alignment);
  for (const { name, type, shape } of tensors) {
    out.string(name);
    out.uint32(shape.length);
    for (const n of shape) out.uint64(n);
    out.uint32(typeNumber(type));
    out.uint64((offsets.places.get(name) as Placement).offset);
  }
  out.align(alignment);
  const start = out.length;
  const places = [...offsets.places].map(
    ([name, { offset, bytes }]) => [name, { offset: start + offset, bytes }] as const,
  );
  return { bytes: out.written(), places: new Map(places), fileBytes: start + offsets.end };
}

/** Offsets from where the data start. The last tensor is padded too, as ggml's own writer does. */
function layOut(tensors: readonly TensorHead[], alignment: number): { places: Map<string, Placement>; end: number } {
  const places = new Map<string, Placement>();
  let end = 0;
  for (const tensor of tensors) {
    const { name } = tensor;
    const length = new TextEncoder().encode(name).length;
    if (places.has(name)) throw new StrataError("invalid_argument", `two tensors have the name "${name}"`);
    if (length > longestName) {
      const sentence = `the tensor's name "${name}" has ${length} bytes, and ggml reads at most ${longestName}`;
      throw new StrataError("invalid_argument", sentence);
    }
    const bytes = tensorBytes(tensor);
    places.set(name, { offset: end, bytes });
    end = alignedTo(end + bytes, alignment);
  }
  return { places, end };
}

function alignmentOf(metadata: GgufMetadata): number {
  const alignment = metadata["general.alignment"] ?? defaultAlignment;
  if (
    typeof alignment === "number" &&
    alignment >= 8 &&
    alignment <= 2 ** 20 &&
    Number.isInteger(Math.log2(alignment))
  ) {
    return alignment;
  }
  throw new StrataError(
    "invalid_argument",
    `"general.alignment" is ${String(alignment)}; give a power of two from 8 up`,
  );
}
