//! One input from another: a few small changes, of which some know what the formats find special.

use crate::rng::Rng;

const TOKENS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "null",
    "true",
    "0",
    "-1",
    "1e999",
    "9223372036854775808",
    "0.1",
    "{}",
    "[]",
    "\\u0000",
    "\\",
    "/",
    "~0",
    "~1",
    "-",
    "\n",
    "  ",
    "- ",
    "&a ",
    "*a",
    "<<: ",
    "!!binary ",
    "---\n",
    "|\n",
    "$patch",
    "\"$patch\":\"delete\",",
    "\"$patch\":\"replace\",",
    "$retainKeys",
    "$setElementOrder/",
    "name",
    "containers",
    "metadata",
    "spec",
    "k:{\"name\":\"a\"}",
    "f:",
    "v:",
    "i:",
    ".",
    "=",
    "!=",
    "==",
    "!",
    "(",
    ")",
    " in ",
    "notin",
    ">",
    "<",
    "\u{0}",
    "\u{7f}",
    "é",
    "🦐",
    "Ki",
    "Ei",
    "E",
    "e",
    "+",
    "n",
    "m",
    "Z",
    "T",
    ":60",
    "9999",
    "\r",
    "\t",
    "#",
    "'",
    "%",
    "?",
    "@",
    "`",
];
/// How often a bracket is repeated to nest too deep.
const NESTING: [usize; 3] = [50, 130, 3000];
/// Inputs grow no longer than this by mutation.
const MAX_BYTES: usize = 64 << 10;

pub fn mutant(rng: &mut Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut input = seeds[rng.below(seeds.len())].clone();
    for _ in 0..1 + rng.below(6) {
        change(rng, &mut input, seeds);
        input.truncate(MAX_BYTES);
    }
    input
}

fn range(rng: &mut Rng, length: usize) -> std::ops::Range<usize> {
    let start = rng.below(length + 1);
    start..(start + rng.below(1 + 16.min(length - start))).min(length)
}

fn change(rng: &mut Rng, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    let at = rng.below(input.len() + 1);
    let insert = |input: &mut Vec<u8>, bytes: Vec<u8>| drop(input.splice(at..at, bytes));
    match rng.below(10) {
        0 if at < input.len() => input[at] ^= 1 << rng.below(8),
        1 if at < input.len() => input[at] = rng.next() as u8,
        2 => drop(input.drain(range(rng, input.len()))),
        3 => {
            let copied = input[range(rng, input.len())].to_vec();
            insert(input, copied);
        }
        4 => {
            let other = &seeds[rng.below(seeds.len())];
            let piece = other[range(rng, other.len())].to_vec();
            insert(input, piece);
        }
        5 if rng.one_in(4) => input.truncate(at),
        6 if rng.one_in(4) => {
            let opening = rng.pick(&["[", "{\"a\":", "- ", "\n ", "(", "&a [*a,"]);
            let times = rng.pick(&NESTING);
            insert(input, opening.repeat(times).into_bytes());
        }
        7 => {
            // One token for another: the shape stays.
            let places: Vec<usize> = (0..input.len()).filter(|i| input[*i] == b'"').collect();
            if let [first, second, ..] = places[..] {
                let shift = rng.below(places.len() - 1);
                let (from, to) = (places[shift].max(first), places[shift + 1].max(second));
                input.splice(from + 1..to, rng.pick(TOKENS).bytes());
            }
        }
        _ => insert(input, rng.pick(TOKENS).as_bytes().to_vec()),
    }
}
