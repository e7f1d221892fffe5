/** A new package for an architecture: the plugin, its test, and what makes them a package. */
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import packageFile from "../../package.json" with { type: "json" };
import { StrataError } from "../errors.ts";
import { fileError } from "./files.ts";

/** Names that GGUF files and npm packages can both have. */
const namePattern = /^[a-z][a-z0-9]*([._-][a-z0-9]+)*$/;

/** Ends of names by which `bun test` takes a file for a test. */
const testPattern = /[._](test|spec)$/;

/** The package of the architecture `name`. */
export function packageName(name: string): string {
  return `ggstrata-arch-${name}`;
}

/**
 * Writes the package into a folder that is empty or not there.
 * @returns the names of its files
 * @throws StrataError `invalid_argument` for a name that is none, or a test's, or a folder with something in it
 */
export async function writePluginPackage(name: string, folder: string): Promise<string[]> {
  if (!namePattern.test(name)) {
    throw new StrataError(
      "invalid_argument",
      `"${name}" cannot be an architecture's name; give small letters and digits, with - or _ between them`,
    );
  }
  if (testPattern.test(name)) {
    const sentence = `"${name}" cannot be an architecture's name: ${name}.ts would be taken for a test; give another end`;
    throw new StrataError("invalid_argument", sentence);
  }
  const files = await packageFiles(name);
  try {
    await mkdir(folder, { recursive: true });
    const [first] = await readdir(folder);
    if (first !== undefined) {
      throw new StrataError("invalid_argument", `${folder}: the folder has ${first} in it already; give another --dir`);
    }
    for (const [file, text] of Object.entries(files)) await writeFile(join(folder, file), text, { flag: "wx" });
  } catch (error) {
    throw fileError(error, folder, "written");
  }
  return Object.keys(files);
}

async function packageFiles(name: string): Promise<Record<string, string>> {
  const template = await readFile(join(import.meta.dir, "plugin-template/architecture.ts"), "utf8");
  const identifier = identifierOf(name, template);
  const file = `${name}.ts`;
  return {
    "package.json": json({
      name: packageName(name),
      version: "0.1.0",
      description: `The architecture ${name} for Strata.`,
      keywords: ["ggstrata-arch"],
      license: "MIT",
      type: "module",
      exports: { ".": `./${file}` },
      files: [file],
      scripts: { test: "bun test" },
      peerDependencies: { ggstrata: `^${packageFile.version}` },
      // As `bun init` writes it.
      devDependencies: { "@types/bun": "latest" },
    }),
    "tsconfig.json": json({
      compilerOptions: {
        lib: ["ESNext"],
        target: "ESNext",
        module: "Preserve",
        moduleResolution: "bundler",
        types: ["bun"],
        strict: true,
        noUncheckedIndexedAccess: true,
        exactOptionalPropertyTypes: true,
        verbatimModuleSyntax: true,
        allowImportingTsExtensions: true,
        skipLibCheck: true,
        noEmit: true,
      },
    }),
    [file]: template.replaceAll("newArchitecture", identifier).replaceAll("new-architecture", name),
    [`${name}.test.ts`]: testFile(identifier, file),
    "README.md": readme(name, identifier),
    ".gitignore": "node_modules/\n",
  };
}

/** Words that no variable of a module can be called. */
const reserved = new Set(
  (
    "arguments await break case catch class const continue debugger default delete do else enum eval export extends false " +
    "finally for function if implements import in instanceof interface let new null package private protected public " +
    "return static super switch this throw true try typeof undefined var void while with yield"
  ).split(" "),
);

/** What the plugin is called in its file: its name, with a word behind it where the file has another use for that. */
function identifierOf(name: string, template: string): string {
  const identifier = name.replaceAll(/[._-]([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
  const imported = template.slice(0, template.indexOf("from ")).match(/\w+/g) ?? [];
  const declared = [...template.matchAll(/^(?:function|const|type) (\w+)/gm)].map(([, own = ""]) => own);
  const taken = new Set([...reserved, ...imported, ...declared, "testArchitecture"]);
  return taken.has(identifier) ? `${identifier}Architecture` : identifier;
}

function json(value: unknown): string {
  return `${JSON.stringify(value, undefined, 2)}\n`;
}

function testFile(identifier: string, file: string): string {
  return `import { testArchitecture } from "ggstrata/testing";
import { ${identifier} } from "./${file}";

// On a tiny model with random weights. Beside it, give a real file and the logits of another implementation:
// testArchitecture(${identifier}, { model: "tiny.gguf", reference: "tiny/reference.json" });
testArchitecture(${identifier});
`;
}

function readme(name: string, identifier: string): string {
  return `# ${packageName(name)}

The architecture \`${name}\` for Strata (npm \`ggstrata\`): one file, [${name}.ts](${name}.ts).

\`\`\`sh
bun install
bun test                                      # the conformance kit, on a tiny model with random weights
strata plugin check . -m model.gguf           # the same on a model file
strata generate -m model.gguf -p "Once" --plugin ./${name}.ts
\`\`\`

From a script, once it is installed as a package:

\`\`\`ts
import { loadModel } from "ggstrata";
import { ${identifier} } from "${packageName(name)}";

await using model = await loadModel("model.gguf", { plugins: [${identifier}] });
\`\`\`
`;
}
