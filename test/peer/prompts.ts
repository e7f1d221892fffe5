/** Beginnings of several kinds of text, for models to go on with. */
export const prompts: readonly string[] = [
  "The old king was very angry, and took up his knight and carried",
  "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
  "1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, ",
  "Il était une fois, dans une petite maison au bord de la mer, une vieille femme qui",
  "Question: Which planet of the solar system is the largest one?\nAnswer:",
  "| name | age | city |\n|------|-----|------|\n| Anna | 31 | Berlin |\n| Boris |",
];
