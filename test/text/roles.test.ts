import { afterAll, beforeAll, setDefaultTimeout, test } from "bun:test";
import { randomNumbers } from "./lines.ts";
import { MadeUp, madeUpSeed } from "./made-up.ts";
import type { HeaderValue } from "./vocabulary-file.ts";

// Which tokens end a turn, a message, or a generation, and which files' marks are corrected, as libllama does it.

setDefaultTimeout(120_000);

let madeUp: MadeUp;
beforeAll(() => {
  madeUp = new MadeUp();
});
afterAll(() => madeUp[Symbol.asyncDispose]());

/** Of each list a vocabulary gets any, or one where libllama would take the one that its hash table has first. */
const any =
  "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> <|endoftext|> </s> <|eom_id|> <EOT> " +
  "_<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance> <eos> <turn|> <|tool_response> <｜end▁of▁sentence｜> [e~[ " +
  "<|channel|> <|message|> <|start|> <|constrain|> <|assistant|> <unused1> <|plamo:eos|> <SPECIAL_12> <|im_start|>";
const one = [
  "<|fim_prefix|> <fim-prefix> <fim_prefix> <｜fim▁begin｜> <PRE> ▁<PRE> <|code_prefix|> <|prefix|>",
  "<|fim_suffix|> <fim-suffix> <fim_suffix> <｜fim▁hole｜> <SUF> ▁<SUF> <|code_suffix|> <|suffix|>",
  "<|fim_middle|> <fim-middle> <fim_middle> <｜fim▁end｜> <MID> ▁<MID> <|code_middle|> <|middle|>",
  "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]",
  "<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame>",
  "<|file_sep|>",
];
const roles =
  "bos eos eot eom unknown padding fim_pre fim_suf fim_mid fim_pad fim_rep fim_sep prefix suffix middle".split(" ");
const types = [1, 1, 3, 3, 4, 5, 2, 9];

function vocabulary(random: () => number, model: string): Map<string, HeaderValue> {
  const pick = <Item>(items: readonly Item[]): Item => items[Math.floor(random() * items.length)] as Item;
  const share = random();
  const texts = any.split(" ").filter(() => random() < share);
  for (const list of one) if (random() < 0.7) texts.push(pick(list.split(" ")));
  while (texts.length < 20) texts.push(`word${texts.length}`);
  if (model === "rwkv") texts.push("\\n");
  const marks = texts.map(() => pick(types));
  if (model === "plamo2" || model === "llama") {
    for (let byte = 0; byte < 256; byte += 1) {
      texts.push(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
      marks.push(6);
    }
  }
  const values = new Map<string, HeaderValue>([
    ["general.architecture", "llama"],
    ["tokenizer.ggml.model", model],
    ["tokenizer.ggml.tokens", texts],
    ["tokenizer.ggml.token_type", Int32Array.from(marks)],
    ["tokenizer.ggml.scores", new Float32Array(texts.length)],
  ]);
  if (model === "gpt2") values.set("tokenizer.ggml.merges", ["a b"]).set("tokenizer.ggml.pre", "qwen2");
  for (const role of roles) {
    // Sometimes an id that is no token.
    if (random() < 0.2) values.set(`tokenizer.ggml.${role}_token_id`, Math.floor(random() * (texts.length + 2)));
  }
  for (const flag of ["bos", "eos"]) if (random() < 0.5) values.set(`tokenizer.ggml.add_${flag}_token`, random() < 0.5);
  return values;
}

test.each(["gpt2", "llama", "rwkv", "plamo2"])(
  "vocabularies of kind %s give tokens libllama's roles",
  async (model) => {
    const random = randomNumbers(madeUpSeed);
    const count = process.env["STRATA_SOAK"] === "1" ? 1_000 : 60;
    for (let round = 0; round < count; round += 1) {
      const { file, tokenizer } = madeUp.open(`roles-${model}-${round}`, vocabulary(random, model));
      await madeUp.compareRoles(file, tokenizer);
    }
  },
);
