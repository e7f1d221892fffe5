import { gemma3 } from "./gemma3.ts";
import { granitehybrid } from "./granitehybrid.ts";
import { llama } from "./llama.ts";
import { mamba } from "./mamba.ts";
import { mamba2 } from "./mamba2.ts";
import { qwen3 } from "./qwen3.ts";

/** The architectures that come with Strata. */
export const architectures = [gemma3, granitehybrid, llama, mamba, mamba2, qwen3] as const;
