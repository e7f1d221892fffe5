// The peer that tests compare with: libllama, through node-llama-cpp, under Node. It answers JSON lines: a request is
// {id, op, ...} on standard input, an answer {id, result} or {id, error} on standard output. What each operation takes
// and gives is typed in peer.ts.
import { createInterface } from "node:readline";
import { getLlama } from "node-llama-cpp";

const llama = await getLlama({ gpu: false, build: "never", progressLogs: false, logLevel: "error", maxThreads: 0 });
// The package's own classes trim and merge what they tokenize: the bindings do exactly what libllama does.
const bindings = llama._bindings;
const dataTypes = { f32: 0, f16: 1 };
const models = new Map();

async function openModel(file, vocabularyOnly) {
  const full = models.get(file);
  if (full) return full;
  const key = vocabularyOnly ? `vocabulary of ${file}` : file;
  const known = models.get(key);
  if (known) return known;
  const model = new bindings.AddonModel(file, { addonExports: bindings, gpuLayers: 0, vocabOnly: vocabularyOnly });
  if (!(await model.init())) throw new Error(`libllama could not load ${file}`);
  models.set(key, model);
  return model;
}

async function withContext(model, { contextSize, batchSize, threads, flashAttention, kvType }, use) {
  const type = dataTypes[kvType ?? "f16"];
  const context = new bindings.AddonContext(model, {
    contextSize,
    batchSize,
    sequences: 1,
    flashAttention,
    threads,
    kvCacheKeyType: type,
    kvCacheValueType: type,
  });
  if (!(await context.init())) throw new Error("libllama could not create a context");
  try {
    return await use(context);
  } finally {
    await context.dispose();
  }
}

/** Feeds tokens from a position on and gives the batch indexes of those whose logits were asked for. */
async function feed(context, position, tokens, wanted) {
  context.initBatch(tokens.length);
  const indexes = context.addToBatch(0, position, Uint32Array.from(tokens), Uint32Array.from(wanted));
  await context.decodeBatch();
  return indexes;
}

function greedySampler(model) {
  const sampler = new bindings.AddonSampler(model);
  sampler.applyConfig({ temperature: 0 });
  return sampler;
}

/** Ids and probabilities at a batch index, the most probable first. */
async function distribution(context, sampler, index) {
  const [token, pairs] = await context.sampleToken(index, sampler, true);
  return { token, pairs };
}

const operations = {
  async version() {
    return { systemInfo: bindings.systemInfo() };
  },

  async vocabulary({ model }) {
    const handle = await openModel(model, true);
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
      const contextSize = prompt.length + count;
      const context = { ...settings, contextSize, batchSize: contextSize };
      answers.push(
        await withContext(handle, context, (opened) => continueGreedily(handle, opened, prompt, count, top)),
      );
    }
    return answers;
  },

  async logProbabilities({ model, tokens, from, ...settings }) {
    const handle = await openModel(model, false);
    const context = { ...settings, contextSize: tokens.length, batchSize: tokens.length };
    return withContext(handle, context, async (opened) => {
      const positions = Array.from({ length: tokens.length - 1 - from }, (_, index) => from + index);
      const indexes = await feed(opened, 0, tokens, positions);
      const sampler = greedySampler(handle);
      const result = [];
      for (const [order, position] of positions.entries()) {
        result.push(await logProbability(opened, sampler, indexes[order], tokens[position + 1]));
      }
      sampler.dispose();
      return result;
    });
  },

  async bench({ model, promptTokens, generateTokens, reps, ...settings }) {
    const handle = await openModel(model, false);
    const contextSize = promptTokens + generateTokens;
    return withContext(handle, { ...settings, contextSize, batchSize: promptTokens }, async (context) => {
      const samples = [];
      for (let rep = 0; rep < reps; rep += 1)
        samples.push(await benchOnce(handle, context, promptTokens, generateTokens));
      return samples;
    });
  },

  async unload({ model }) {
    for (const key of [model, `vocabulary of ${model}`]) {
      await models.get(key)?.dispose();
      models.delete(key);
    }
    return null;
  },
};

async function continueGreedily(model, context, prompt, count, top) {
  const sampler = greedySampler(model);
  const steps = [];
  let position = 0;
  let input = prompt;
  for (let step = 0; step < count; step += 1) {
    const [index] = await feed(context, position, input, [input.length - 1]);
    const { token, pairs } = await distribution(context, sampler, index);
    steps.push({
      token,
      top: Array.from({ length: top }, (_, rank) => ({ token: pairs[2 * rank], probability: pairs[2 * rank + 1] })),
    });
    position += input.length;
    input = [token];
  }
  sampler.dispose();
  return steps;
}

/** The logarithm of the softmax at a token, from logits, in double precision. */
async function logProbability(context, sampler, index, token) {
  const [, , , pairs] = await context.sampleToken(index, sampler, false, false, true);
  let highest = -Infinity;
  for (let entry = 1; entry < pairs.length; entry += 2) highest = Math.max(highest, pairs[entry]);
  let sum = 0;
  let chosen = NaN;
  for (let entry = 0; entry < pairs.length; entry += 2) {
    sum += Math.exp(pairs[entry + 1] - highest);
    if (pairs[entry] === token) chosen = pairs[entry + 1];
  }
  return chosen - highest - Math.log(sum);
}

/** Speed of one prompt and one generation from an empty memory, in tokens per second. */
async function benchOnce(model, context, promptTokens, generateTokens) {
  context.disposeSequence(0);
  const sampler = greedySampler(model);
  const prompt = Array.from({ length: promptTokens }, (_, index) => 3 + ((index * 7919) % 1000));
  const prefillStart = performance.now();
  const [index] = await feed(context, 0, prompt, [promptTokens - 1]);
  let token = await context.sampleToken(index, sampler);
  const decodeStart = performance.now();
  for (let step = 0; step < generateTokens; step += 1) {
    const [next] = await feed(context, promptTokens + step, [token], [0]);
    token = await context.sampleToken(next, sampler);
  }
  const end = performance.now();
  sampler.dispose();
  return {
    prefillTokensPerSecond: (promptTokens * 1000) / (decodeStart - prefillStart),
    decodeTokensPerSecond: (generateTokens * 1000) / (end - decodeStart),
  };
}

// One request at a time: answers come in the order of the requests.
for await (const line of createInterface({ input: process.stdin })) {
  const { id, op, ...request } = JSON.parse(line);
  let answer;
  try {
    const operation = operations[op];
    if (!operation) throw new Error(`unknown operation ${op}`);
    answer = { id, result: await operation(request) };
  } catch (error) {
    answer = { id, error: error instanceof Error ? error.message : String(error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
for (const model of models.values()) await model.dispose();
await llama.dispose();
