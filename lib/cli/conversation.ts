import type { ChatMessage, GenerateOptions, Model } from "../index.ts";
import { collect, type Generated, type GenerationWatcher } from "./generate.ts";

/** What a {@link Conversation} needs of a model. */
export type ChatModel = Pick<Model, "chatEvents" | "loadMs">;

/** A chat's history, which grows by a question and an answer at a time. */
export class Conversation {
  private history: ChatMessage[];

  /** @param system what the model is told first, if anything */
  constructor(
    private readonly model: ChatModel,
    private readonly options: GenerateOptions,
    private readonly system?: string,
  ) {
    this.history = this.beginning();
  }

  get messages(): readonly ChatMessage[] {
    return this.history;
  }

  /** Forgets everything but the system's message. */
  clear(): void {
    this.history = this.beginning();
  }

  /**
   * Asks and follows the answer. What was said until `signal` stopped the answer stays in the history; a question that
   * got no answer at all does not, so that the next one can take its place.
   */
  async ask(question: string, signal: AbortSignal, watcher: GenerationWatcher): Promise<Generated> {
    const asked: ChatMessage[] = [...this.history, { role: "user", content: question }];
    const answer = await collect(this.model.chatEvents(asked, { ...this.options, signal }), this.model.loadMs, watcher);
    if (answer.text !== "") this.history = [...asked, { role: "assistant", content: answer.text }];
    return answer;
  }

  private beginning(): ChatMessage[] {
    return this.system === undefined ? [] : [{ role: "system", content: this.system }];
  }
}
