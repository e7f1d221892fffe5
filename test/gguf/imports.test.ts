/** What reads and writes files, and what makes text of tokens, stands below models. */
import { expect, test } from "bun:test";
import { join } from "node:path";
import { root } from "../model/help.ts";

test.each([
  ["gguf", ["native"]],
  ["text", ["gguf", "native"]],
] as const)("lib/%s imports of the other folders %j at most", async (folder, allowed) => {
  const found = new Set<string>();
  let files = 0;
  for await (const name of new Bun.Glob("*.ts").scan(join(root, "lib", folder))) {
    const text = await Bun.file(join(root, "lib", folder, name)).text();
    for (const [, other = ""] of text.matchAll(/from "\.\.\/([a-z]+)\//g)) found.add(other);
    files += 1;
  }
  expect(files).toBeGreaterThan(3);
  expect([...found].filter((other) => !(allowed as readonly string[]).includes(other))).toEqual([]);
});
