import { StrataError } from "../errors.ts";
import { startServer } from "../server/index.ts";
import { defineCommand } from "./command.ts";
import { contextOption, countFrom, kvOption, modelOption, name, threadsOption, whole } from "./options.ts";
import { Progress } from "./output.ts";
import { formatBytes } from "./format.ts";

/** Signals that end the server, with the exit code of a second one. */
const endSignals = { SIGINT: 130, SIGTERM: 143 } as const;

/** Resolves at the first signal to end; the second one ends the process. */
function firstSignal(): Promise<void> {
  return new Promise((resolve) => {
    let isEnding = false;
    for (const signal of Object.keys(endSignals) as (keyof typeof endSignals)[]) {
      process.on(signal, () => {
        if (isEnding) process.exit(endSignals[signal]);
        isEnding = true;
        resolve();
      });
    }
  });
}

export const serve = defineCommand({
  name: "serve",
  summary: "Offer a model over HTTP, as OpenAI's API.",
  usage: "-m FILE [--port 8080 --host 127.0.0.1 --ctx N --parallel N]",
  options: {
    ...modelOption,
    port: whole("N", "where to listen; 0 takes any free port; default 8080", { min: 0, max: 65_535 }),
    host: name("ADDRESS", "address to listen on; 0.0.0.0 lets other machines in; default 127.0.0.1"),
    parallel: whole("N", "requests that run together, others wait; default 4", countFrom(1)),
    name: name("NAME", "the model's name in the API; default: the file's name"),
    ...contextOption,
    ...kvOption,
    ...threadsOption,
  },
  notes: `
It answers at once and loads the model meanwhile: GET /health says how far it is, GET /ready gives 200 when it is done.
POST /v1/chat/completions, /v1/completions, /tokenize, /detokenize; GET /v1/models. --ctx is for each request.
Ctrl-C or SIGTERM lets what runs end; a second one does not wait.
JSON: {"url": "http://127.0.0.1:8080"}, as soon as it listens

  strata serve -m model.gguf --port 8080
  curl http://127.0.0.1:8080/v1/completions -d '{"prompt": "Once", "max_tokens": 16}' -H 'content-type: application/json'`,
  async run({ values, output }) {
    using progress = new Progress(output);
    const server = await startServer({
      path: values.model,
      load: {
        plugins: values.plugin,
        sequences: values.parallel ?? 4,
        context: values.ctx,
        kv: values.kv,
        threads: values.threads,
        onProgress: ({ doneBytes, totalBytes }) => {
          progress.update(`Loading: ${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`);
        },
      },
      host: values.host,
      port: values.port,
      modelName: values.name,
      log: (line) => {
        progress.clear();
        void output.note(`strata: ${line}`);
      },
    });
    const ended = firstSignal();
    try {
      if (output.json) await output.document({ url: server.url });
      await Promise.race([ended, server.ready]);
      await ended;
      await output.note("strata: ending; what runs is finished first");
    } catch (error) {
      // A model that cannot be loaded ends the command; the server's log has said why.
      if (!(error instanceof StrataError) || values.debug) throw error;
      return 1;
    } finally {
      await server.stop();
    }
    return 0;
  },
});
