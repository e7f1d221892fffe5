/** Numbers from 0 to 1 that a seed determines. */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * Lines of text of all kinds, the written ones first.
 * @param specials texts of special tokens, which some lines hold
 */
export function variedLines(count: number, seed: number, specials: readonly string[]): string[] {
  const random = randomNumbers(seed);
  const pick = <Item>(items: readonly Item[]): Item => items[Math.floor(random() * items.length)] as Item;
  const repeat = (most: number, make: () => string): string =>
    Array.from({ length: 1 + Math.floor(random() * most) }, make).join("");
  const codePoint = (first: number, last: number): string =>
    String.fromCodePoint(first + Math.floor(random() * (last - first + 1)));
  const fromScript = (): string => {
    const [first, last] = pick(scripts);
    return repeat(24, () => (random() < 0.15 ? pick(spaces) : codePoint(first, last)));
  };
  const anywhere = (): string => {
    const letter = codePoint(0, 0x10ffff);
    return letter.isWellFormed() ? letter : "\u{10ffff}";
  };
  const makers: readonly (() => string)[] = [
    () => repeat(60, () => codePoint(0x20, 0x7e)),
    () => repeat(14, () => pick(words) + pick(joiners)),
    () => repeat(10, () => pick(code)),
    fromScript,
    () => repeat(12, () => pick(emoji) + (random() < 0.3 ? pick(spaces) : "")),
    () => repeat(20, () => pick(spaces)) + (random() < 0.5 ? pick(words) : "") + repeat(6, () => pick(spaces)),
    () =>
      repeat(30, () => (random() < 0.5 ? codePoint(0, 0x1f) : random() < 0.2 ? codePoint(0x7f, 0xa0) : pick(words))),
    () => repeat(30, anywhere),
    () =>
      repeat(20, () =>
        random() < 0.8 ? String(Math.floor(random() * 10 ** Math.floor(random() * 9))) : pick(joiners),
      ),
    () => pick([...words, ...spaces, "=", "-", "aa", "😀"]).repeat(1 + Math.floor(random() * 60)),
    () => repeat(6, () => pick(words) + pick(contractions) + pick(joiners)),
    () => repeat(8, () => (random() < 0.4 ? pick(specials) : random() < 0.5 ? pick(words) : pick(joiners))),
    () => repeat(5, () => pick([fromScript, () => pick(code), () => pick(emoji), () => pick(words)])() + pick(joiners)),
  ];
  const lines = [...written, ...specials.slice(0, 100).flatMap((text) => [text, ` ${text} `, `a${text}b`])];
  while (lines.length < count) lines.push(pick(makers)());
  return lines;
}

/** Scripts, and blocks with odd properties, as ranges of code points. */
const scripts: readonly (readonly [number, number])[] = [
  [0xa1, 0x24f],
  [0x250, 0x36f],
  [0x370, 0x3ff],
  [0x400, 0x52f],
  [0x530, 0x5ff],
  [0x600, 0x6ff],
  [0x700, 0x8ff],
  [0x900, 0x97f],
  [0x980, 0xdff],
  [0xe00, 0xeff],
  [0xf00, 0x109f],
  [0x10a0, 0x11ff],
  [0x1200, 0x139f],
  [0x1400, 0x17ff],
  [0x1c80, 0x1fff],
  [0x2000, 0x206f],
  [0x2070, 0x21ff],
  [0x2200, 0x2bff],
  [0x2c00, 0x2fff],
  [0x3000, 0x30ff],
  [0x3100, 0x33ff],
  [0x4e00, 0x9fff],
  [0xa000, 0xabff],
  [0xac00, 0xd7a3],
  [0xe000, 0xf8ff],
  [0xf900, 0xfaff],
  [0xfb00, 0xfdff],
  [0xfe00, 0xffff],
  [0x10000, 0x10fff],
  [0x11000, 0x13fff],
  [0x16000, 0x18fff],
  [0x1d000, 0x1d7ff],
  [0x1e000, 0x1eeff],
  [0x1f000, 0x1faff],
  [0x20000, 0x20fff],
  [0x323b0, 0x33479],
  [0xe0000, 0xe01ef],
];

const words = (
  "the The THE of and hello Hello HELLO world naïve café Zürich Straße İstanbul fiancée coöperate don can I it she they " +
  "camelCaseName snake_case_name SCREAMING_CASE kebab-case-name x1 2nd 3.14 0x1F 1e-9 http://example.com/a?b=c&d=%20 " +
  "user@example.com C++ F# .NET Привет мир данные γλώσσα שלום مرحبا नमस्ते ভাষা ไทย 日本語 にほんご カタカナ 中文 漢字 " +
  "한국어 Ελλάδα Հայերեն ქართული አማርኛ ᓀᐦᐃᔭᐍᐏᐣ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ﬁne ½ ² ٣٤ Ⅷ ①"
).split(" ");

const joiners = [
  " ",
  " ",
  " ",
  "  ",
  "\n",
  "\n\n",
  "\t",
  ", ",
  ". ",
  "! ",
  "? ",
  "; ",
  ": ",
  "-",
  "—",
  "…",
  "'",
  '"',
  "(",
  ")",
];

const contractions = ["'s", "'S", "'t", "'re", "'RE", "'ve", "'m", "'ll", "'Ll", "'d", "'x", "’s", " 's", "''", "'"];

const spaces = [
  ..." \t\n\r\v\f\u0085\u00a0\u1680\u2000\u2003\u2009\u200a\u200b\u2028\u2029\u202f\u205f\u3000\ufeff",
  "  ",
  "   ",
  "    ",
  "\r\n",
  "\n\n",
  "\n\n\n",
  " \n",
  "\n ",
  "\t\t",
  "\u2581",
];

const emoji = ["😀", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "🇺🇳", "❤️", "1️⃣", "🧑🏿‍🚀", "☕", "✔︎", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "\u200d", "\ufe0f", "\u{1fae9}"];

const code = [
  "def f(x, *args, **kwargs):\n    return x ** 2  # square\n",
  "for (let i = 0; i < n; i++) { a[i] += b[i] * 0.5; }\n",
  'if (x != null && y >= 10) {\r\n\treturn "a\\n\\t\\"b\\"";\r\n}',
  '#include <stdio.h>\nint main(void) { printf("%d\\n", 42); }\n',
  "SELECT * FROM t WHERE a = 'it''s' AND b <> 3;\n",
  '<div class="a b"><!-- x --><p>Hi &amp; bye</p></div>\n',
  '{"a": [1, 2.5, -3e10, null, true], "b": {"c": "\\u00e9"}}',
  '\t\t\tif err != nil {\n\t\t\t\treturn nil, fmt.Errorf("%w", err)\n\t\t\t}\n',
  "    pub fn new(a: &'a str) -> Self { Self { a } }\n",
  "$x = @{ 'k' = \"v\" }; $x.GetEnumerator() | % { $_.Key }\n",
  "\\begin{align} \\sum_{i=0}^{n} x_i^2 &= \\alpha \\end{align}\n",
  "a = b ? c : d; // 注释 комментарий\n",
  "|---|:-:|\n| a | `b` |\n\n```ts\nconst x = 1;\n```\n",
  "=====================\n----------\n**********\n",
];

/** Lines that were written because something about them is odd. */
const written = [
  "",
  " ",
  "  ",
  "   ",
  "\n",
  "\r",
  "\r\n",
  "\r\r\n\n",
  "\t",
  "\0",
  "a\0b",
  "\0\0\0",
  "\x01\x02\x03\x1b[0m\x7f",
  " a",
  "a ",
  "  a  b  ",
  "a\n\nb\n\n\nc\n\n\n\n",
  "\n a\n  b\n   c",
  "\u0085\u00a0\u3000 a\u2028b\u2029c",
  "\ufeffbyte order mark",
  "zero\u200bwidth\u200cjoiners\u200d",
  "e\u0301 é o\u0308\u0323 ǫ̈",
  "\u0301leading mark",
  "Hello, world! It's a test; they're 100% sure, aren't they?",
  "HELLO IT'S WE'RE I'LL YOU'D",
  "it’s ‘quoted’ “text” — and – dashes…",
  "a , b . c ! d ? e ' f ' 's 'm 're 've 'll 'd 't x",
  "' ' '' ' ' , , . . ",
  " ,",
  " .",
  ".",
  "'",
  " '",
  " ' ",
  "1 12 123 1234 12345 123456 1,234,567.89",
  "٠١٢٣٤٥٦٧٨٩ ०१२३ 一二三 ⅠⅡⅢ ½¾ ²³ ①②",
  "3.14159265358979323846264338327950288",
  "🤷🏽‍♀️🤦‍♂️👨‍👩‍👧‍👦🏳️‍🌈🇺🇸🇬🇧",
  "日本語のテキストです。「括弧」、読点。",
  "这是一个中文句子，包含标点符号！",
  "한국어 문장입니다. 띄어쓰기가 있습니다.",
  "Это русский текст с «кавычками» и — тире.",
  "هذا نص عربي ١٢٣ مع أرقام",
  "זהו טקסט בעברית",
  "यह हिन्दी वाक्य है।",
  "นี่คือข้อความภาษาไทยที่ไม่มีการเว้นวรรค",
  "Đây là tiếng Việt có dấu",
  "Türkçe: İıŞşĞğ",
  "ſK Å ﬀ ﬁ ǅ ǈ",
  "\u1e9e ß ẞ",
  "AB𝐂𝐃 𝒳𝓎 𝟙𝟚",
  "\ue000\uf8ff\u{f0000}\u{10fffd}",
  "\ufffe\uffff\u{1fffe}\u{1ffff}\ufffd",
  "\u0378\u0379\u{e0080}",
  "a".repeat(300),
  " ".repeat(300),
  "\n".repeat(100),
  "ab ".repeat(100),
  "=".repeat(129),
  "\u2581",
  "\u2581\u2581a \u2581b",
  "<0x0A><0xFF>",
  "[UNK_BYTE_0x00]",
  "Ġhello Ċ ĉ",
];
