/** Does one operation of a program. */
import { changeSequences } from "./changes.ts";
import { feed } from "./feeds.ts";
import { load, loadElsewhere, save } from "./files.ts";
import type { Operation } from "./operations.ts";
import { corrupt, crowd, hoard, leave } from "./upsets.ts";
import type { World } from "./world.ts";

export async function perform(world: World, one: Operation): Promise<void> {
  switch (one.op) {
    case "feed":
      return feed(world, one);
    case "save":
      return save(world, one);
    case "load":
      return load(world, one);
    case "elsewhere":
      return loadElsewhere(world, one);
    case "hoard":
      return hoard(world, one);
    case "leave":
      return leave(world, one);
    case "crowd":
      return crowd(world, one.slot);
    case "corrupt":
      return corrupt(world, one);
    default:
      return changeSequences(world, one);
  }
}
