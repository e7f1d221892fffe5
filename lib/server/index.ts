export { strata, type StrataOptions } from "./plugin.ts";
export { startServer, type RunningServer, type ServerOptions, type StopOptions } from "./serve.ts";
export type { ModelState, ServedModel, ServiceOptions } from "./service.ts";
