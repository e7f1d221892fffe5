// The peer that tests compare with: libllama, through node-llama-cpp, under Node. It answers JSON lines: a request is
// {id, op, request} on standard input, an answer {id, result} or {id, error} on standard output. What each operation
// takes and gives is typed in peer.ts.
import { createInterface } from "node:readline";
import { getLlama, LlamaLogLevel } from "node-llama-cpp";

/** @import { Addon, AddonContext, AddonModel, AddonSampler } from "./addon.ts" */
/** @import { PeerOperations, PeerContext, PeerSpeed, PeerStep } from "./peer.ts" */

const llama = await getLlama({ gpu: false, build: "never", progressLogs: false, logLevel: LlamaLogLevel.error });
// The package's own classes trim and merge what they tokenize: the bindings do exactly what libllama does.
const bindings = /** @type {Addon} */ (Reflect.get(llama, "_bindings"));
/** ggml's numbers. */
const dataTypes = { f32: 0, f16: 1, q4_0: 2, q8_0: 8, bf16: 30 };
/** @type {Map<string, AddonModel>} */
const models = new Map();

/** @type {{ [Name in keyof PeerOperations]: (request: PeerOperations[Name]["request"]) => Promise<PeerOperations[Name]["result"]> }} */
const operations = {
  async version() {
    return { systemInfo: bindings.systemInfo() };
  },

  async vocabulary({ model }) {
    const handle = await openModel(model, true);
    /** @param {number} id */
    const optional = (id) => (id < 0 ? null : id);
    return {
      bos: optional(handle.tokenBos()),
      eos: optional(handle.tokenEos()),
      eot: optional(handle.eotToken()),
      addBos: handle.shouldPrependBosToken(),
      addEos: handle.shouldAppendEosToken(),
    };
  },

  async attributes({ model, count }) {
    const handle = await openModel(model, true);
    const ids = Array.from({ length: count }, (_, id) => id);
    return { bits: ids.map((id) => handle.getTokenAttributes(id)), ends: ids.filter((id) => handle.isEogToken(id)) };
  },

  async tokenize({ model, lines, special }) {
    const handle = await openModel(model, true);
    return lines.map((line) => Array.from(handle.tokenize(line, special)));
  },

  async detokenize({ model, ids, special }) {
    const handle = await openModel(model, true);
    return ids.map((list) => handle.detokenize(Uint32Array.from(list), special));
  },

  async greedy({ model, prompts, count, top = 2, ...settings }) {
    const handle = await openModel(model, false);
    const answers = [];
    for (const prompt of prompts) {
      const size = prompt.length + count;
      const steps = await withContext(handle, { ...settings, contextSize: size, batchSize: prompt.length }, (context) =>
        continueGreedily(handle, context, prompt, count, top),
      );
      answers.push(steps);
    }
    return answers;
  },

  async logProbabilities({ model, tokens, from, ...settings }) {
    const handle = await openModel(model, false);
    const sizes = { contextSize: tokens.length, batchSize: tokens.length };
    return withContext(handle, { ...settings, ...sizes }, async (context) => {
      const positions = Array.from({ length: tokens.length - 1 - from }, (_, index) => from + index);
      const indexes = await feed(context, 0, tokens, positions);
      const sampler = greedySampler(handle);
      const result = [];
      for (const [order, position] of positions.entries()) {
        result.push(await logProbability(context, sampler, indexes[order] ?? NaN, tokens[position + 1] ?? NaN));
      }
      sampler.dispose();
      return result;
    });
  },

  async logits({ model, tokens, prompt, ...settings }) {
    const handle = await openModel(model, false);
    const sizes = { contextSize: tokens.length, batchSize: prompt };
    return withContext(handle, { ...settings, ...sizes }, async (context) => {
      const sampler = greedySampler(handle);
      const rows = [];
      for (let position = 0; position < tokens.length;) {
        const input = tokens.slice(position, position === 0 ? prompt : position + 1);
        for (const index of await feed(context, position, input, [...input.keys()])) {
          rows.push(await logitsAt(context, sampler, index));
        }
        position += input.length;
      }
      sampler.dispose();
      return rows;
    });
  },

  async bench({ model, promptTokens, generateTokens, reps, ...settings }) {
    const handle = await openModel(model, false);
    const sizes = { contextSize: promptTokens + generateTokens, batchSize: promptTokens };
    return withContext(handle, { ...settings, ...sizes }, async (context) => {
      const samples = [];
      for (let rep = 0; rep < reps; rep += 1) {
        samples.push(await benchOnce(handle, context, promptTokens, generateTokens));
      }
      return samples;
    });
  },

  async unload({ model }) {
    for (const key of [model, vocabularyKey(model)]) {
      await models.get(key)?.dispose();
      models.delete(key);
    }
    return null;
  },
};

/**
 * @param {string} file
 * @param {boolean} vocabularyOnly a whole model serves too
 */
async function openModel(file, vocabularyOnly) {
  const known = models.get(file) ?? (vocabularyOnly ? models.get(vocabularyKey(file)) : undefined);
  if (known) return known;
  const model = new bindings.AddonModel(file, { addonExports: bindings, gpuLayers: 0, vocabOnly: vocabularyOnly });
  if (!(await model.init())) throw new Error(`libllama could not load ${file}`);
  models.set(vocabularyOnly ? vocabularyKey(file) : file, model);
  return model;
}

/** @param {string} file */
function vocabularyKey(file) {
  return `vocabulary of ${file}`;
}

/**
 * @template Result
 * @param {AddonModel} model
 * @param {PeerContext & { contextSize: number, batchSize: number }} settings
 * @param {(context: AddonContext) => Promise<Result>} use
 */
async function withContext(model, { kvType = "f16", ...settings }, use) {
  const types = { kvCacheKeyType: dataTypes[kvType], kvCacheValueType: dataTypes[kvType] };
  const context = new bindings.AddonContext(model, { sequences: 1, ...types, ...settings });
  if (!(await context.init())) throw new Error("libllama could not create a context");
  try {
    return await use(context);
  } finally {
    await context.dispose();
  }
}

/**
 * Feeds tokens from a position on and gives the batch indexes of those whose logits are wanted.
 *
 * @param {AddonContext} context
 * @param {number} position
 * @param {readonly number[]} tokens
 * @param {readonly number[]} wanted indexes in `tokens`
 */
async function feed(context, position, tokens, wanted) {
  context.initBatch(tokens.length);
  const indexes = context.addToBatch(0, position, Uint32Array.from(tokens), Uint32Array.from(wanted));
  await context.decodeBatch();
  return indexes;
}

/** @param {AddonModel} model */
function greedySampler(model) {
  const sampler = new bindings.AddonSampler(model);
  sampler.applyConfig({ temperature: 0 });
  return sampler;
}

/**
 * @param {AddonModel} model
 * @param {AddonContext} context
 * @param {readonly number[]} prompt
 * @param {number} count
 * @param {number} top
 */
async function continueGreedily(model, context, prompt, count, top) {
  const sampler = greedySampler(model);
  /** @type {PeerStep[]} */
  const steps = [];
  let position = 0;
  let input = prompt;
  while (steps.length < count) {
    const [index = NaN] = await feed(context, position, input, [input.length - 1]);
    const [token, pairs = []] = await context.sampleToken(index, sampler, true);
    const best = Array.from({ length: top }, (_, rank) => ({
      token: pairs[2 * rank] ?? NaN,
      probability: pairs[2 * rank + 1] ?? NaN,
    }));
    steps.push({ token, top: best });
    position += input.length;
    input = [token];
  }
  sampler.dispose();
  return steps;
}

/**
 * The logarithm of the softmax at a token, in double precision.
 *
 * @param {AddonContext} context
 * @param {AddonSampler} sampler
 * @param {number} index of the batch
 * @param {number} token
 */
async function logProbability(context, sampler, index, token) {
  const [, , , pairs = []] = await context.sampleToken(index, sampler, false, false, true);
  const logits = pairs.filter((_, entry) => entry % 2 === 1);
  const chosen = pairs.findIndex((value, entry) => entry % 2 === 0 && value === token);
  const highest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const sum = logits.reduce((total, logit) => total + Math.exp(logit - highest), 0);
  return (pairs[chosen + 1] ?? NaN) - highest - Math.log(sum);
}

/**
 * All logits at one index of the batch, in the order of their tokens.
 *
 * @param {AddonContext} context
 * @param {AddonSampler} sampler
 * @param {number} index
 */
async function logitsAt(context, sampler, index) {
  const [, , , pairs = []] = await context.sampleToken(index, sampler, false, false, true);
  /** @type {number[]} */
  const row = Array(pairs.length / 2).fill(NaN);
  for (let entry = 0; entry < pairs.length; entry += 2) row[pairs[entry] ?? NaN] = pairs[entry + 1] ?? NaN;
  return row;
}

/**
 * One prompt and one generation from an empty memory.
 *
 * @param {AddonModel} model
 * @param {AddonContext} context
 * @param {number} promptTokens
 * @param {number} generateTokens
 * @returns {Promise<PeerSpeed>}
 */
async function benchOnce(model, context, promptTokens, generateTokens) {
  context.disposeSequence(0);
  const sampler = greedySampler(model);
  const prompt = Array.from({ length: promptTokens }, (_, index) => 3 + ((index * 7919) % 300));
  const prefillStart = performance.now();
  const [index = NaN] = await feed(context, 0, prompt, [promptTokens - 1]);
  let token = await context.sampleToken(index, sampler);
  const decodeStart = performance.now();
  for (let step = 0; step < generateTokens; step += 1) {
    const [next = NaN] = await feed(context, promptTokens + step, [token], [0]);
    token = await context.sampleToken(next, sampler);
  }
  const end = performance.now();
  sampler.dispose();
  return {
    prefillTokensPerSecond: (promptTokens * 1000) / (decodeStart - prefillStart),
    decodeTokensPerSecond: (generateTokens * 1000) / (end - decodeStart),
  };
}

/** @param {string} line */
async function answer(line) {
  const { id, op, request } = JSON.parse(line);
  try {
    const operation = /** @type {((request: unknown) => Promise<unknown>) | undefined} */ (Reflect.get(operations, op));
    if (!operation) throw new Error(`unknown operation ${op}`);
    return { id, result: await operation(request) };
  } catch (error) {
    return { id, error: error instanceof Error ? error.message : String(error) };
  }
}

// One request at a time: answers come in the order of the requests.
for await (const line of createInterface({ input: process.stdin })) {
  const text = JSON.stringify(await answer(line));
  // Line readers end lines at these two as well, and JSON does not escape them.
  process.stdout.write(`${text.replaceAll("\u2028", "\\u2028").replaceAll("\u2029", "\\u2029")}\n`);
}
for (const model of models.values()) await model.dispose();
await llama.dispose();
