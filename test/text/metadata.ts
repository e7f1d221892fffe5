import { Metadata, type MetadataValue } from "../../lib/gguf/metadata.ts";

/** Metadata of a file that exists only here. */
export function metadataOf(file: string, values: ReadonlyMap<string, MetadataValue>): Metadata {
  return new Metadata(file, [...values.keys()], (key) => values.get(key));
}
