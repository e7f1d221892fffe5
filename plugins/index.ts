import { gemma3 } from "./gemma3.ts";
import { granitehybrid } from "./granitehybrid.ts";
import { llama } from "./llama.ts";
import { mamba2 } from "./mamba2.ts";

/** The architectures that come with Strata. */
export const architectures = [gemma3, granitehybrid, llama, mamba2] as const;
