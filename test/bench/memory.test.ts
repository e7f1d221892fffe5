import { expect, setDefaultTimeout, test } from "bun:test";
import { measureMemoryUse } from "./memory.ts";
import { comparedModels } from "./models.ts";

// A busy machine takes its time to load and read.
setDefaultTimeout(120_000);

test.each(comparedModels)(
  "$name takes no more memory than its file, its plan and 150 MiB, but for a tenth",
  async ({ path }) => {
    const { peakBytes, expectedBytes, fileBytes, ratio } = await measureMemoryUse(path);
    // A peak below the file's size would be one that was read wrongly.
    expect(peakBytes).toBeGreaterThan(fileBytes / 2);
    expect(expectedBytes).toBeGreaterThan(fileBytes);
    expect(ratio).toBeLessThanOrEqual(1.1);
  },
);
