/** Checks of what an architecture's `memory` returns: mistakes are found before anything is measured or allocated. */
import { StrataError } from "../errors.ts";
import { isRecord, isWhole, shown } from "../shown.ts";
import type { Extent, LayerMemory, Rollback, Reuse } from "./declaration.ts";

const layersMax = 4096;
/** Limits of the library. */
const headsMax = 4096;
const headElementsMax = 2 ** 20;
const statesMax = 8;
const countMax = 2 ** 31 - 1;

/**
 * Throws unless `layers` is what a layer of a model can remember, naming architecture, layer and memory, and saying what
 * to write instead.
 */
export function checkMemory(architecture: string, layers: unknown): asserts layers is readonly LayerMemory[] {
  if (!Array.isArray(layers)) {
    const sentence = `memory returned ${shown(layers)}, and an array with the memories of each layer was expected`;
    throw fault(architecture, `${sentence}, such as [{ attn: attention({ ... }) }]`);
  }
  if (layers.length > layersMax) {
    throw fault(architecture, `memory returned ${layers.length} layers; a model has at most ${layersMax}`);
  }
  // By index: an array's holes are mistakes too.
  for (let index = 0; index < layers.length; index += 1) checkLayer(architecture, layers, index);
}

function checkLayer(architecture: string, layers: readonly unknown[], index: number): void {
  const layer = layers[index];
  const where = `${architecture}, layer ${index}`;
  if (!isRecord(layer)) {
    throw fault(
      where,
      `its memories are ${shown(layer)}; give them by name, { attn: ... }, and {} where there are none`,
    );
  }
  if (typeof layer["kind"] === "string") {
    throw fault(where, `its memory has no name; write { attn: ... } around it`);
  }
  for (const [name, memory] of Object.entries(layer)) {
    if (!isName(name)) throw fault(where, `${shown(name)} cannot be a memory's name; ${nameRule}`);
    if (memory !== undefined) checkOne(`${where}, memory "${name}"`, layers, index, memory);
  }
}

const nameRule = "use letters, digits and _, with a letter first";

function isName(name: string): boolean {
  return /^[A-Za-z]\w{0,62}$/.test(name);
}

function checkOne(where: string, layers: readonly unknown[], index: number, memory: unknown): void {
  if (!isRecord(memory)) {
    throw fault(where, `it is ${shown(memory)}; write attention({ ... }), recurrent({ ... }) or shared(layer, name)`);
  }
  switch (memory["kind"]) {
    case "attention":
      return checkAttention(where, memory);
    case "recurrent":
      return checkRecurrent(where, memory);
    case "shared":
      return checkShared(where, layers, index, memory);
    default:
      throw fault(where, `its kind is ${shown(memory["kind"])}; there are "attention", "recurrent" and "shared"`);
  }
}

type Fields = Readonly<Record<string, unknown>>;

const common = ["kind", "extent", "reuse", "rollback", "tensors"];

function checkFields(where: string, what: string, value: Fields, known: readonly string[]): void {
  const unknown = Object.keys(value).find((field) => !known.includes(field));
  if (unknown === undefined) return;
  throw fault(where, `${what} has the field ${shown(unknown)}, which says nothing there; it has ${known.join(", ")}`);
}

function checkCount(where: string, name: string, value: unknown, min: number, max: number): void {
  if (isWhole(value, min, max)) return;
  throw fault(where, `${name} is ${shown(value)}; give a whole number from ${min} to ${max}`);
}

function checkProperty(where: string, name: string, value: unknown, true_: string, because: string): void {
  if (value === true_) return;
  throw fault(where, `${name} is ${shown(value)}, and ${because}; write "${true_}"`);
}

function checkAttention(where: string, memory: Fields): void {
  checkFields(where, "attention", memory, [...common, "heads", "keyDim", "valueDim"]);
  const { heads, keyDim, valueDim } = memory;
  checkCount(where, "heads", heads, 1, headsMax);
  checkCount(where, "keyDim", keyDim, 1, headElementsMax);
  checkCount(where, "valueDim", valueDim, 0, headElementsMax);
  const elements = (heads as number) * Math.max(keyDim as number, valueDim as number);
  if (elements > headElementsMax) {
    throw fault(
      where,
      `${heads} heads of ${keyDim} and ${valueDim} are ${elements} elements; ${headElementsMax} are possible`,
    );
  }
  const extent = checkExtent(where, memory["extent"]);
  const reuse: Reuse = extent.kind === "all" ? "prefix" : "window";
  const because =
    reuse === "prefix" ? "what keeps every position is resumed at any" : "a window is resumed where its tail is held";
  checkProperty(where, "reuse", memory["reuse"], reuse, because);
  checkProperty(where, "rollback", memory["rollback"], "truncate", "attention goes back by cutting cells off");
  const keys = [keyDim, heads];
  checkCells(where, memory["tensors"], valueDim === 0 ? { keys } : { keys, values: [valueDim, heads] });
}

/** The tensors of an attention memory follow from its other fields. */
function checkCells(where: string, tensors: unknown, expected: Readonly<Record<string, readonly unknown[]>>): void {
  const entries = Object.entries(expected);
  const isAsExpected =
    isRecord(tensors) &&
    Object.keys(tensors).length === entries.length &&
    entries.every(([name, shape]) => {
      const tensor = tensors[name];
      return isRecord(tensor) && tensor["dtype"] === "kv" && Bun.deepEquals(tensor["shape"], shape);
    });
  if (isAsExpected) return;
  const wanted = entries.map(([name, shape]) => `${name}: { shape: [${shape.join(", ")}], dtype: "kv" }`).join(", ");
  throw fault(
    where,
    `its tensors do not fit heads, keyDim and valueDim; write { ${wanted} }, or use attention({ ... })`,
  );
}

const extents = ["all", "window", "chunk", "symmetric"];

function checkExtent(where: string, extent: unknown): Extent {
  const kind = isRecord(extent) ? extent["kind"] : undefined;
  if (!isRecord(extent) || typeof kind !== "string" || !extents.includes(kind)) {
    const found = kind === undefined ? shown(extent) : `{ kind: ${shown(kind)} }`;
    throw fault(
      where,
      `its extent is ${found}; attention's is one of ${extents.map((name) => `"${name}"`).join(", ")}`,
    );
  }
  if (kind !== "all") checkCount(where, kind, extent["size"], 1, countMax);
  return extent as unknown as Extent;
}

function checkRecurrent(where: string, memory: Fields): void {
  checkFields(where, "a recurrent memory", memory, [...common, "inputs"]);
  const { inputs, tensors, extent } = memory;
  if (!isRecord(extent) || extent["kind"] !== "state") {
    throw fault(where, 'its extent is no state; write { kind: "state" }, or use recurrent({ ... })');
  }
  checkCount(where, "inputs", inputs, 0, countMax);
  checkProperty(where, "reuse", memory["reuse"], "exact", "a state stands for exactly one position");
  const rollback: Rollback = inputs === 0 ? "snapshot" : "replay";
  const because =
    inputs === 0 ? "without inputs a state cannot be computed again" : "with inputs a state is computed again";
  checkProperty(where, "rollback", memory["rollback"], rollback, because);
  if (!isRecord(tensors)) throw fault(where, `its tensors are ${shown(tensors)}; give its states by name`);
  const states = Object.entries(tensors);
  if (states.length < 1 || states.length > statesMax) {
    throw fault(where, `a recurrent memory has 1 to ${statesMax} states, not ${states.length}`);
  }
  for (const [name, state] of states) checkState(where, name, state);
}

function checkState(memory: string, name: string, state: unknown): void {
  if (!isName(name)) throw fault(memory, `${shown(name)} cannot be a state's name; ${nameRule}`);
  const where = `${memory}, state "${name}"`;
  if (!isRecord(state))
    throw fault(where, `it is ${shown(state)}; give its shape, such as [stateSize, headDim, heads]`);
  checkFields(where, "a state", state, ["shape", "dtype"]);
  checkShape(where, state["shape"], countMax);
  if (state["dtype"] === "f32" || state["dtype"] === "f16") return;
  throw fault(where, `its dtype is ${shown(state["dtype"])}; write "f32", or "f16" for a convolution's inputs`);
}

/** Throws unless `shape` is 1 to 4 whole numbers from 1 up, of at most so many elements together. */
export function checkShape(where: string, shape: unknown, elementsMax: number): void {
  if (!Array.isArray(shape) || shape.length < 1 || shape.length > 4) {
    throw fault(where, `its shape is ${shown(shape)}; give 1 to 4 whole numbers, the fastest dimension first`);
  }
  // By index: `every` passes over holes.
  const dimensions = Array.from<unknown>(shape);
  const isCounts = dimensions.every((n) => isWhole(n, 1, elementsMax));
  const elements = isCounts ? (dimensions as number[]).reduce((product, n) => product * n, 1) : NaN;
  if (elements <= elementsMax) return;
  const text = dimensions.map(shown).join(", ");
  throw fault(
    where,
    `it has the shape [${text}]; dimensions are whole numbers from 1 up, of at most ${elementsMax} elements`,
  );
}

function checkShared(where: string, layers: readonly unknown[], index: number, memory: Fields): void {
  checkFields(where, "shared", memory, ["kind", "layer", "name"]);
  const { layer, name } = memory;
  const owner = isWhole(layer, 0, index - 1) ? layers[layer] : undefined;
  const found = isRecord(owner) && typeof name === "string" && Object.hasOwn(owner, name) ? owner[name] : undefined;
  const what = `it shares the memory ${shown(name)} of layer ${shown(layer)}`;
  if (!isRecord(found)) {
    const names = isRecord(owner) ? Object.keys(owner).filter((key) => owner[key] !== undefined) : [];
    const known = names.length > 0 ? `; that layer has ${names.map((key) => `"${key}"`).join(", ")}` : "";
    throw fault(where, `${what}, which is no earlier layer with such a memory${known}`);
  }
  if (found["kind"] === "attention") return;
  if (found["kind"] !== "shared") throw fault(where, `${what}, which is a state; only attention can be shared`);
  const { layer: root, name: rootName } = found;
  throw fault(where, `${what}, which is shared itself; write shared(${shown(root)}, ${shown(rootName)})`);
}

function fault(where: string, sentence: string): StrataError {
  return new StrataError("invalid_argument", `${where}: ${sentence}`);
}
