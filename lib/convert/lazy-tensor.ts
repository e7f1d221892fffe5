/**
 * A tensor whose numbers are read, and computed, when they are asked for: a checkpoint may be larger than memory.
 * Shapes are the checkpoint's, slowest dimension first.
 */
export interface LazyTensor {
  /** The name in the checkpoint, for errors. */
  readonly name: string;
  readonly shape: readonly number[];
  /** Reads of this many elements, at multiples of it, cost least. */
  readonly grain: number;
  /** Elements from `start` on, in the order of the file; the caller owns the array. */
  read(start: number, count: number): Promise<Float32Array<ArrayBuffer>>;
}

/** Elements of a shape. */
export function elementsOf(shape: readonly number[]): number {
  return shape.reduce((product, n) => product * n, 1);
}

/** The same numbers in another shape. */
export function reshape(tensor: LazyTensor, shape: readonly number[]): LazyTensor {
  return { ...delegate(tensor), shape };
}

/** A function of each number. */
export function mapElements(tensor: LazyTensor, change: (value: number) => number): LazyTensor {
  return {
    ...delegate(tensor),
    async read(start, count) {
      const values = await tensor.read(start, count);
      for (let i = 0; i < values.length; i += 1) values[i] = change(values[i] as number);
      return values;
    },
  };
}

/**
 * Exchanges rows within each block of `rows` rows: row `i` of a block is row `source(i)` of the same block before.
 * Blocks are read whole.
 */
export function reorderRows(tensor: LazyTensor, rows: number, source: (row: number) => number): LazyTensor {
  const width = elementsOf(tensor.shape.slice(1));
  return inBlocks(tensor, tensor.shape, rows * width, (from, to) => {
    for (let row = 0; row < rows; row += 1) {
      const start = source(row) * width;
      to.set(from.subarray(start, start + width), row * width);
    }
  });
}

/** The last two dimensions exchanged; each matrix is read whole. */
export function transpose(tensor: LazyTensor): LazyTensor {
  const [rows = 1, columns = 1] = tensor.shape.slice(-2);
  const shape = [...tensor.shape.slice(0, -2), columns, rows];
  return inBlocks(tensor, shape, rows * columns, (from, to) => {
    for (let row = 0; row < rows; row += 1) {
      for (let column = 0; column < columns; column += 1)
        to[column * rows + row] = from[row * columns + column] as number;
    }
  });
}

/** Blocks of `block` elements, each computed from the same block before. */
function inBlocks(
  tensor: LazyTensor,
  shape: readonly number[],
  block: number,
  change: (from: Float32Array, to: Float32Array) => void,
): LazyTensor {
  return {
    name: tensor.name,
    shape,
    grain: block,
    async read(start, count) {
      const first = Math.floor(start / block) * block;
      const end = Math.ceil((start + count) / block) * block;
      const source = await tensor.read(first, end - first);
      const values = new Float32Array(end - first);
      for (let at = 0; at < values.length; at += block) {
        change(source.subarray(at, at + block), values.subarray(at, at + block));
      }
      return values.length === count ? values : values.slice(start - first, start - first + count);
    },
  };
}

/** One of `parts` equal parts of dimension `axis`. */
export function part(tensor: LazyTensor, index: number, parts: number, axis: number): LazyTensor {
  const inner = elementsOf(tensor.shape.slice(axis));
  const length = inner / parts;
  return {
    name: tensor.name,
    shape: tensor.shape.map((n, i) => (i === axis ? n / parts : n)),
    grain: tensor.grain,
    async read(start, count) {
      const values = new Float32Array(count);
      for (let done = 0; done < count;) {
        const row = Math.floor((start + done) / length);
        const column = (start + done) % length;
        const run = Math.min(count - done, length - column);
        values.set(await tensor.read(row * inner + index * length + column, run), done);
        done += run;
      }
      return values;
    },
  };
}

/** Tensors of one shape, one after the other in a new slowest dimension. */
export function concatenate(tensors: readonly LazyTensor[]): LazyTensor {
  const shape = tensors[0]?.shape ?? [];
  const length = elementsOf(shape);
  return {
    name: tensors[0]?.name ?? "",
    shape: [tensors.length, ...shape],
    grain: Math.max(...tensors.map(({ grain }) => grain)),
    async read(start, count) {
      const values = new Float32Array(count);
      for (let done = 0; done < count;) {
        const at = (start + done) % length;
        const run = Math.min(count - done, length - at);
        const tensor = tensors[Math.floor((start + done) / length)] as LazyTensor;
        values.set(await tensor.read(at, run), done);
        done += run;
      }
      return values;
    },
  };
}

/** Numbers that are no checkpoint's. */
export function fromNumbers(values: ArrayLike<number>): LazyTensor {
  const held = Float32Array.from(values);
  return {
    name: "computed",
    shape: [held.length],
    grain: 1,
    read: async (start, count) => held.slice(start, start + count),
  };
}

function delegate(tensor: LazyTensor): LazyTensor {
  const { name, shape, grain } = tensor;
  return { name, shape, grain, read: (start, count) => tensor.read(start, count) };
}
