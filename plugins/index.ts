import { falconH1 } from "./falcon-h1.ts";
import { gemma3 } from "./gemma3.ts";
import { granitehybrid } from "./granitehybrid.ts";
import { jamba } from "./jamba.ts";
import { kimiLinear } from "./kimi-linear.ts";
import { lfm2 } from "./lfm2.ts";
import { lfm2moe } from "./lfm2moe.ts";
import { llama } from "./llama.ts";
import { mamba } from "./mamba.ts";
import { mamba2 } from "./mamba2.ts";
import { nemotronH } from "./nemotron_h.ts";
import { plamo2 } from "./plamo2.ts";
import { qwen3 } from "./qwen3.ts";
import { qwen35 } from "./qwen35.ts";
import { qwen3next } from "./qwen3next.ts";
import { recurrentgemma } from "./recurrentgemma.ts";
import { rwkv6 } from "./rwkv6.ts";
import { rwkv7 } from "./rwkv7.ts";

/** The architectures that come with Strata. */
export const architectures = [
  falconH1,
  gemma3,
  granitehybrid,
  jamba,
  kimiLinear,
  lfm2,
  lfm2moe,
  llama,
  mamba,
  mamba2,
  nemotronH,
  plamo2,
  qwen3,
  qwen35,
  qwen3next,
  recurrentgemma,
  rwkv6,
  rwkv7,
] as const;
