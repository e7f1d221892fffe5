// Generated from zig/exports.zig by `zig build abi`. Do not edit.

/** Differs whenever a function or a struct of the boundary does. */
export const abiHash = 0xe85bcc66;

/** Every exported function, as `dlopen` wants it. */
export const symbols = {
  strata_library_info: { args: ["buffer"], returns: "i32" },
  strata_last_error: { args: ["buffer", "u32", "buffer"], returns: "i32" },
  strata_clock: { args: ["buffer"], returns: "i32" },
  strata_type_info: { args: ["i32", "buffer"], returns: "i32" },
  strata_queue_new: { args: ["buffer", "buffer"], returns: "i32" },
  strata_queue_close: { args: ["u32"], returns: "i32" },
  strata_queue_drain: { args: ["u32", "buffer", "u32", "buffer"], returns: "i32" },
  strata_queue_message: { args: ["u32", "u32", "buffer", "u32", "buffer"], returns: "i32" },
  strata_file_open: { args: ["buffer", "u32", "buffer"], returns: "i32" },
  strata_file_close: { args: ["u32"], returns: "i32" },
  strata_file_info: { args: ["u32", "buffer"], returns: "i32" },
  strata_file_value: { args: ["u32", "u32", "buffer"], returns: "i32" },
  strata_file_read: { args: ["u32", "f64", "buffer", "u32"], returns: "i32" },
  strata_file_tensor: { args: ["u32", "u32", "buffer"], returns: "i32" },
  strata_model_new: { args: ["u32", "u32", "buffer"], returns: "i32" },
  strata_model_free: { args: ["u32"], returns: "i32" },
  strata_model_weight: { args: ["u32", "u32", "i32", "buffer"], returns: "i32" },
  strata_model_load: { args: ["u32", "u32"], returns: "i32" },
  strata_model_cancel: { args: ["u32"], returns: "i32" },
  strata_engine_new: { args: ["u32", "u32", "buffer", "u32", "buffer", "buffer"], returns: "i32" },
  strata_engine_close: { args: ["u32"], returns: "i32" },
  strata_engine_stops: { args: ["u32", "buffer", "u32"], returns: "i32" },
  strata_engine_counters: { args: ["u32", "buffer"], returns: "i32" },
  strata_engine_submit: { args: ["u32", "u32", "buffer", "u32", "buffer", "u32", "buffer", "u32", "u32", "u32"], returns: "i32" },
  strata_engine_task: { args: ["u32", "u32", "buffer"], returns: "i32" },
  strata_engine_stop: { args: ["u32", "u32", "u32"], returns: "i32" },
  strata_engine_logits: { args: ["u32", "u32", "u32", "buffer", "u32"], returns: "i32" },
  strata_sequence_bounds: { args: ["u32", "i32", "buffer"], returns: "i32" },
  strata_sequence_clear: { args: ["u32", "i32"], returns: "i32" },
  strata_sequence_remove: { args: ["u32", "i32", "i32", "i32"], returns: "i32" },
  strata_sequence_copy: { args: ["u32", "i32", "i32", "i32", "i32"], returns: "i32" },
  strata_sequence_keep: { args: ["u32", "i32"], returns: "i32" },
  strata_sequence_tokens: { args: ["u32", "i32", "buffer", "u32", "buffer"], returns: "i32" },
  strata_snapshot_new: { args: ["u32", "buffer"], returns: "i32" },
  strata_snapshot_drop: { args: ["u32", "u32"], returns: "i32" },
  strata_snapshot_restore: { args: ["u32", "u32", "i32"], returns: "i32" },
  strata_snapshot_info: { args: ["u32", "u32", "buffer"], returns: "i32" },
  strata_debug_fault: { args: ["u32", "i32", "i32", "i32"], returns: "i32" },
  strata_memory_measure: { args: ["buffer", "u32", "buffer", "buffer", "buffer"], returns: "i32" },
  strata_sampler_new: { args: ["u32", "buffer", "buffer", "buffer", "u32", "buffer"], returns: "i32" },
  strata_sampler_free: { args: ["u32"], returns: "i32" },
  strata_sampler_accept: { args: ["u32", "buffer", "u32"], returns: "i32" },
  strata_graph_new: { args: ["u32", "u32", "u32", "u32", "buffer"], returns: "i32" },
  strata_graph_abandon: { args: ["u32"], returns: "i32" },
  strata_graph_finish: { args: ["u32", "u32", "i32", "buffer"], returns: "i32" },
  strata_graph_drop: { args: ["u32", "u32", "u32"], returns: "i32" },
  strata_graph_input: { args: ["u32", "i32", "buffer"], returns: "i32" },
  strata_graph_weight: { args: ["u32", "u32", "i32", "buffer"], returns: "i32" },
  strata_graph_op: { args: ["u32", "u32", "buffer", "buffer"], returns: "i32" },
  strata_graph_attend: { args: ["u32", "i32", "i32", "i32", "i32", "f32", "f32", "i32", "buffer"], returns: "i32" },
  strata_graph_convolve: { args: ["u32", "i32", "i32", "i32", "i32", "i32", "u32", "buffer"], returns: "i32" },
  strata_graph_scan: { args: ["u32", "buffer", "buffer"], returns: "i32" },
} as const;

/** Byte layout of the structs that cross the boundary; `count` > 1 is an array. */
export const layouts = {
  LibraryInfo: {
    size: 24,
    fields: {
      abiHash: { type: "u32", offset: 0, count: 1 },
      isDebug: { type: "u32", offset: 4, count: 1 },
      ggmlVersion: { type: "u8", offset: 8, count: 16 },
    },
  },
  FileInfo: {
    size: 48,
    fields: {
      parts: { type: "u32", offset: 0, count: 1 },
      values: { type: "u32", offset: 4, count: 1 },
      tensors: { type: "u32", offset: 8, count: 1 },
      padding: { type: "u32", offset: 12, count: 1 },
      fileBytes: { type: "f64", offset: 16, count: 1 },
      tensorBytes: { type: "f64", offset: 24, count: 1 },
      fingerprint: { type: "u8", offset: 32, count: 16 },
    },
  },
  ValueInfo: {
    size: 48,
    fields: {
      type: { type: "u32", offset: 0, count: 1 },
      elementType: { type: "u32", offset: 4, count: 1 },
      keyOffset: { type: "f64", offset: 8, count: 1 },
      keyBytes: { type: "f64", offset: 16, count: 1 },
      offset: { type: "f64", offset: 24, count: 1 },
      sizeBytes: { type: "f64", offset: 32, count: 1 },
      count: { type: "f64", offset: 40, count: 1 },
    },
  },
  FileTensorInfo: {
    size: 112,
    fields: {
      name: { type: "u8", offset: 0, count: 64 },
      type: { type: "i32", offset: 64, count: 1 },
      dims: { type: "i32", offset: 68, count: 1 },
      ne: { type: "f64", offset: 72, count: 4 },
      sizeBytes: { type: "f64", offset: 104, count: 1 },
    },
  },
  TensorInfo: {
    size: 72,
    fields: {
      number: { type: "i32", offset: 0, count: 1 },
      type: { type: "i32", offset: 4, count: 1 },
      ne: { type: "f64", offset: 8, count: 4 },
      nb: { type: "f64", offset: 40, count: 4 },
    },
  },
  OpArguments: {
    size: 104,
    fields: {
      tensors: { type: "i32", offset: 0, count: 8 },
      ints: { type: "i32", offset: 32, count: 10 },
      floats: { type: "f32", offset: 72, count: 8 },
    },
  },
  ScanArguments: {
    size: 52,
    fields: {
      memory: { type: "i32", offset: 0, count: 1 },
      state: { type: "i32", offset: 4, count: 1 },
      x: { type: "i32", offset: 8, count: 1 },
      dt: { type: "i32", offset: 12, count: 1 },
      dtBias: { type: "i32", offset: 16, count: 1 },
      a: { type: "i32", offset: 20, count: 1 },
      b: { type: "i32", offset: 24, count: 1 },
      c: { type: "i32", offset: 28, count: 1 },
      d: { type: "i32", offset: 32, count: 1 },
      shapeHeadDim: { type: "i32", offset: 36, count: 1 },
      shapeHeads: { type: "i32", offset: 40, count: 1 },
      shapeGroups: { type: "i32", offset: 44, count: 1 },
      shapeStateSize: { type: "i32", offset: 48, count: 1 },
    },
  },
  GraphInfo: {
    size: 16,
    fields: {
      nodes: { type: "i32", offset: 0, count: 1 },
      padding: { type: "i32", offset: 4, count: 1 },
      computeBytes: { type: "f64", offset: 8, count: 1 },
    },
  },
  Bounds: {
    size: 8,
    fields: {
      min: { type: "i32", offset: 0, count: 1 },
      end: { type: "i32", offset: 4, count: 1 },
    },
  },
  TypeInfo: {
    size: 24,
    fields: {
      blockElements: { type: "i32", offset: 0, count: 1 },
      blockBytes: { type: "i32", offset: 4, count: 1 },
      name: { type: "u8", offset: 8, count: 16 },
    },
  },
  Event: {
    size: 56,
    fields: {
      kind: { type: "i32", offset: 0, count: 1 },
      source: { type: "u32", offset: 4, count: 1 },
      job: { type: "u32", offset: 8, count: 1 },
      sequence: { type: "i32", offset: 12, count: 1 },
      token: { type: "i32", offset: 16, count: 1 },
      position: { type: "i32", offset: 20, count: 1 },
      status: { type: "i32", offset: 24, count: 1 },
      message: { type: "u32", offset: 28, count: 1 },
      value: { type: "f64", offset: 32, count: 1 },
      total: { type: "f64", offset: 40, count: 1 },
      timeMs: { type: "f64", offset: 48, count: 1 },
    },
  },
  MemoryDeclaration: {
    size: 112,
    fields: {
      layer: { type: "i32", offset: 0, count: 1 },
      kind: { type: "i32", offset: 4, count: 1 },
      sharedFrom: { type: "i32", offset: 8, count: 1 },
      extent: { type: "i32", offset: 12, count: 1 },
      window: { type: "i32", offset: 16, count: 1 },
      heads: { type: "i32", offset: 20, count: 1 },
      keyDim: { type: "i32", offset: 24, count: 1 },
      valueDim: { type: "i32", offset: 28, count: 1 },
      keyType: { type: "i32", offset: 32, count: 1 },
      valueType: { type: "i32", offset: 36, count: 1 },
      stateCount: { type: "i32", offset: 40, count: 1 },
      stateElements: { type: "i32", offset: 44, count: 8 },
      stateTypes: { type: "i32", offset: 76, count: 8 },
      inputs: { type: "i32", offset: 108, count: 1 },
    },
  },
  MemoryShare: {
    size: 48,
    fields: {
      pool: { type: "i32", offset: 0, count: 1 },
      method: { type: "i32", offset: 4, count: 1 },
      cells: { type: "i32", offset: 8, count: 1 },
      padding: { type: "i32", offset: 12, count: 1 },
      bytesPerCell: { type: "f64", offset: 16, count: 1 },
      bytes: { type: "f64", offset: 24, count: 1 },
      rollbackBytes: { type: "f64", offset: 32, count: 1 },
      snapshotBytes: { type: "f64", offset: 40, count: 1 },
    },
  },
  MemoryTotals: {
    size: 24,
    fields: {
      bytes: { type: "f64", offset: 0, count: 1 },
      bytesPerSnapshot: { type: "f64", offset: 8, count: 1 },
      snapshots: { type: "f64", offset: 16, count: 1 },
    },
  },
  Mark: {
    size: 12,
    fields: {
      request: { type: "i32", offset: 0, count: 1 },
      position: { type: "i32", offset: 4, count: 1 },
      snapshot: { type: "u32", offset: 8, count: 1 },
    },
  },
  Task: {
    size: 24,
    fields: {
      kind: { type: "i32", offset: 0, count: 1 },
      sequence: { type: "i32", offset: 4, count: 1 },
      from: { type: "i32", offset: 8, count: 1 },
      to: { type: "i32", offset: 12, count: 1 },
      amount: { type: "i32", offset: 16, count: 1 },
      snapshot: { type: "u32", offset: 20, count: 1 },
    },
  },
  SnapshotInfo: {
    size: 16,
    fields: {
      position: { type: "i32", offset: 0, count: 1 },
      tokens: { type: "i32", offset: 4, count: 1 },
      bytes: { type: "f64", offset: 8, count: 1 },
    },
  },
  Request: {
    size: 20,
    fields: {
      sequence: { type: "i32", offset: 0, count: 1 },
      count: { type: "i32", offset: 4, count: 1 },
      logits: { type: "i32", offset: 8, count: 1 },
      sampler: { type: "u32", offset: 12, count: 1 },
      position: { type: "i32", offset: 16, count: 1 },
    },
  },
  EngineConfig: {
    size: 48,
    fields: {
      threads: { type: "i32", offset: 0, count: 1 },
      sequences: { type: "i32", offset: 4, count: 1 },
      context: { type: "i32", offset: 8, count: 1 },
      batch: { type: "i32", offset: 12, count: 1 },
      vocabulary: { type: "i32", offset: 16, count: 1 },
      poll: { type: "i32", offset: 20, count: 1 },
      rollback: { type: "i32", offset: 24, count: 1 },
      cells: { type: "i32", offset: 28, count: 1 },
      flags: { type: "u32", offset: 32, count: 1 },
      snapshotBytes: { type: "f64", offset: 40, count: 1 },
    },
  },
  SamplerConfig: {
    size: 44,
    fields: {
      temperature: { type: "f32", offset: 0, count: 1 },
      topP: { type: "f32", offset: 4, count: 1 },
      minP: { type: "f32", offset: 8, count: 1 },
      repetitionPenalty: { type: "f32", offset: 12, count: 1 },
      frequencyPenalty: { type: "f32", offset: 16, count: 1 },
      presencePenalty: { type: "f32", offset: 20, count: 1 },
      topK: { type: "i32", offset: 24, count: 1 },
      penaltyLastN: { type: "i32", offset: 28, count: 1 },
      seedLow: { type: "u32", offset: 32, count: 1 },
      seedHigh: { type: "u32", offset: 36, count: 1 },
      logProbability: { type: "u32", offset: 40, count: 1 },
    },
  },
  Counters: {
    size: 88,
    fields: {
      steps: { type: "f64", offset: 0, count: 1 },
      rows: { type: "f64", offset: 8, count: 1 },
      graphsBuilt: { type: "f64", offset: 16, count: 1 },
      graphsReused: { type: "f64", offset: 24, count: 1 },
      memoryBytes: { type: "f64", offset: 32, count: 1 },
      computeBytes: { type: "f64", offset: 40, count: 1 },
      freeBlocks: { type: "f64", offset: 48, count: 1 },
      freeCells: { type: "f64", offset: 56, count: 1 },
      stateBytesMoved: { type: "f64", offset: 64, count: 1 },
      snapshots: { type: "f64", offset: 72, count: 1 },
      snapshotsMax: { type: "f64", offset: 80, count: 1 },
    },
  },
  AttendParameters: {
    size: 12,
    fields: {
      scale: { type: "f32", offset: 0, count: 1 },
      softcap: { type: "f32", offset: 4, count: 1 },
      valueDim: { type: "i32", offset: 8, count: 1 },
    },
  },
} as const;

export const Status = {
  ok: 0,
  invalidArgument: -1,
  notFound: -2,
  outOfMemory: -3,
  io: -4,
  badFormat: -5,
  unsupported: -6,
  busy: -7,
  cancelled: -8,
  full: -9,
  closed: -10,
  refused: -11,
  internal: -12,
} as const;

export const EventKind = {
  token: 0,
  done: 1,
  closed: 2,
  progress: 3,
} as const;

export const MemoryKind = {
  attention: 0,
  recurrent: 1,
} as const;

export const Extent = {
  all: 0,
  sliding: 1,
  chunked: 2,
  symmetric: 3,
} as const;

export const Logits = {
  none: 0,
  last: 1,
  all: 2,
} as const;

export const WeightUse = {
  elements: 0,
  product: 1,
  expertProduct: 2,
} as const;

export const GraphInput = {
  tokens: 0,
  positions: 1,
  outputs: 2,
} as const;

export const ValueType = {
  uint8: 0,
  int8: 1,
  uint16: 2,
  int16: 3,
  uint32: 4,
  int32: 5,
  float32: 6,
  bool: 7,
  string: 8,
  array: 9,
  uint64: 10,
  int64: 11,
  float64: 12,
} as const;

export const Method = {
  none: 0,
  kept: 1,
  log: 2,
} as const;

export const TaskKind = {
  none: 0,
  shift: 1,
  divide: 2,
  takeSnapshot: 3,
} as const;

/** The graph operations: their numbers and the kinds of their parameters. */
export const operations = {
  add: { code: 0, params: ["tensor", "tensor"] },
  sub: { code: 1, params: ["tensor", "tensor"] },
  mul: { code: 2, params: ["tensor", "tensor"] },
  div: { code: 3, params: ["tensor", "tensor"] },
  scale: { code: 4, params: ["tensor", "float"] },
  scale_bias: { code: 5, params: ["tensor", "float", "float"] },
  sqr: { code: 6, params: ["tensor"] },
  sqrt: { code: 7, params: ["tensor"] },
  log: { code: 8, params: ["tensor"] },
  sin: { code: 9, params: ["tensor"] },
  cos: { code: 10, params: ["tensor"] },
  unary: { code: 11, params: ["tensor", "Unary"] },
  clamp: { code: 12, params: ["tensor", "float", "float"] },
  glu: { code: 13, params: ["tensor", "Glu", "boolean"] },
  glu_split: { code: 14, params: ["tensor", "tensor", "Glu"] },
  norm: { code: 15, params: ["tensor", "float"] },
  rms_norm: { code: 16, params: ["tensor", "float"] },
  l2_norm: { code: 17, params: ["tensor", "float"] },
  group_norm: { code: 18, params: ["tensor", "int", "float"] },
  sum: { code: 19, params: ["tensor"] },
  sum_rows: { code: 20, params: ["tensor"] },
  mean: { code: 21, params: ["tensor"] },
  cumsum: { code: 22, params: ["tensor"] },
  soft_max_ext: { code: 23, params: ["tensor", "optionalTensor", "float", "float"] },
  rope_ext: { code: 24, params: ["tensor", "tensor", "optionalTensor", "int", "RopeMode", "int", "float", "float", "float", "float", "float", "float"] },
  argsort: { code: 25, params: ["tensor", "SortOrder"] },
  argsort_top_k: { code: 26, params: ["tensor", "int"] },
  top_k: { code: 27, params: ["tensor", "int"] },
  arange: { code: 28, params: ["float", "float", "float"] },
  diag_mask_inf: { code: 29, params: ["tensor", "int"] },
  tri: { code: 30, params: ["tensor", "Triangle"] },
  fill: { code: 31, params: ["tensor", "float"] },
  repeat: { code: 32, params: ["tensor", "tensor"] },
  repeat_4d: { code: 33, params: ["tensor", "int", "int", "int", "int"] },
  concat: { code: 34, params: ["tensor", "tensor", "int"] },
  pad: { code: 35, params: ["tensor", "int", "int", "int", "int"] },
  roll: { code: 36, params: ["tensor", "int", "int", "int", "int"] },
  get_rows: { code: 37, params: ["tensor", "tensor"] },
  set_rows: { code: 38, params: ["tensor", "tensor", "tensor"] },
  cpy: { code: 39, params: ["tensor", "tensor"] },
  cast: { code: 40, params: ["tensor", "Type"] },
  cont: { code: 41, params: ["tensor"] },
  dup: { code: 42, params: ["tensor"] },
  reshape: { code: 43, params: ["tensor", "int", "int", "int", "int"] },
  view: { code: 44, params: ["tensor", "int", "int", "int", "int", "int", "int", "int", "int"] },
  permute: { code: 45, params: ["tensor", "int", "int", "int", "int"] },
  transpose: { code: 46, params: ["tensor"] },
  mul_mat: { code: 47, params: ["tensor", "tensor"] },
  mul_mat_id: { code: 48, params: ["tensor", "tensor", "tensor"] },
  out_prod: { code: 49, params: ["tensor", "tensor"] },
  solve_tri: { code: 50, params: ["tensor", "tensor"] },
  flash_attn_ext: { code: 51, params: ["tensor", "tensor", "tensor", "optionalTensor", "float", "float", "float"] },
  ssm_conv: { code: 52, params: ["tensor", "tensor"] },
  ssm_scan: { code: 53, params: ["tensor", "tensor", "tensor", "tensor", "tensor", "tensor", "tensor", "int"] },
  rwkv_wkv6: { code: 54, params: ["tensor", "tensor", "tensor", "tensor", "tensor", "tensor"] },
  rwkv_wkv7: { code: 55, params: ["tensor", "tensor", "tensor", "tensor", "tensor", "tensor", "tensor"] },
  gated_linear_attn: { code: 56, params: ["tensor", "tensor", "tensor", "tensor", "tensor", "float"] },
  gated_delta_net: { code: 57, params: ["tensor", "tensor", "tensor", "tensor", "tensor", "tensor", "int"] },
} as const;

export const Unary = {
  abs: 0,
  sgn: 1,
  neg: 2,
  step: 3,
  tanh: 4,
  elu: 5,
  relu: 6,
  sigmoid: 7,
  gelu: 8,
  gelu_quick: 9,
  silu: 10,
  hardswish: 11,
  hardsigmoid: 12,
  exp: 13,
  expm1: 14,
  softplus: 15,
  gelu_erf: 16,
  floor: 18,
  ceil: 19,
  round: 20,
  trunc: 21,
} as const;

export const Glu = {
  reglu: 0,
  geglu: 1,
  swiglu: 2,
  geglu_erf: 4,
  geglu_quick: 5,
} as const;

export const RopeMode = {
  normal: 0,
  neox: 2,
} as const;

export const SortOrder = {
  asc: 0,
  desc: 1,
} as const;

export const Triangle = {
  upper_diag: 0,
  upper: 1,
  lower_diag: 2,
  lower: 3,
} as const;

export const Type = {
  f32: 0,
  f16: 1,
  q4_0: 2,
  q4_1: 3,
  q5_0: 6,
  q5_1: 7,
  q8_0: 8,
  q8_1: 9,
  q2_k: 10,
  q3_k: 11,
  q4_k: 12,
  q5_k: 13,
  q6_k: 14,
  q8_k: 15,
  iq2_xxs: 16,
  iq2_xs: 17,
  iq3_xxs: 18,
  iq1_s: 19,
  iq4_nl: 20,
  iq3_s: 21,
  iq2_s: 22,
  iq4_xs: 23,
  i8: 24,
  i16: 25,
  i32: 26,
  i64: 27,
  f64: 28,
  iq1_m: 29,
  bf16: 30,
  tq1_0: 34,
  tq2_0: 35,
  mxfp4: 39,
  nvfp4: 40,
  q1_0: 41,
  q2_0: 42,
} as const;
