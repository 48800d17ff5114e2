//! Names as numbers. The scheduler compares label keys, values, namespaces and node names millions of
//! times a second; as symbols each comparison is one of two integers, and a pod kept in memory is
//! small. Symbols are never given back one by one: the snapshot is rebuilt when most are unused
//! (see [`crate::snapshot::Snapshot::is_overgrown`]).

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Symbol(u32);

impl Symbol {
    pub const EMPTY: Symbol = Symbol(0);
    pub const HOSTNAME: Symbol = Symbol(1);
    pub const ZONE: Symbol = Symbol(2);
    pub const UNSCHEDULABLE_TAINT: Symbol = Symbol(3);
}

/// In the order of the constants above.
const WELL_KNOWN: [&str; 4] =
    ["", "kubernetes.io/hostname", "topology.kubernetes.io/zone", "node.kubernetes.io/unschedulable"];

#[derive(Debug)]
pub struct Symbols {
    texts: Vec<Arc<str>>,
    by_text: HashMap<Arc<str>, Symbol>,
}

impl Default for Symbols {
    fn default() -> Self {
        let mut symbols = Symbols { texts: Vec::new(), by_text: HashMap::new() };
        for text in WELL_KNOWN {
            symbols.intern(text);
        }
        symbols
    }
}

impl Symbols {
    pub fn intern(&mut self, text: &str) -> Symbol {
        if let Some(symbol) = self.by_text.get(text) {
            return *symbol;
        }
        let text: Arc<str> = text.into();
        let symbol = Symbol(self.texts.len() as u32);
        self.texts.push(text.clone());
        self.by_text.insert(text, symbol);
        symbol
    }
    /// The symbol of a text that was seen before.
    pub fn find(&self, text: &str) -> Option<Symbol> {
        self.by_text.get(text).copied()
    }
    pub fn text(&self, symbol: Symbol) -> &str {
        &self.texts[symbol.0 as usize]
    }
    /// How many there are.
    pub fn count(&self) -> usize {
        self.texts.len()
    }
}

/// Spreads small numbers that we hand out ourselves; nobody outside can choose them to collide.
#[derive(Clone, Copy, Default)]
pub struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }
    fn write_u64(&mut self, number: u64) {
        // An odd constant near 2^64 divided by the golden ratio.
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}

/// A map keyed by symbols and other numbers of our own.
pub type NumberMap<K, V> = HashMap<K, V, BuildHasherDefault<Mixer>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_one_symbol_each() {
        let mut symbols = Symbols::default();
        assert_eq!(symbols.text(Symbol::ZONE), "topology.kubernetes.io/zone");
        assert_eq!(symbols.find("a"), None);
        let a = symbols.intern("a");
        assert_eq!((symbols.intern("a"), symbols.find("a"), symbols.text(a)), (a, Some(a), "a"));
        assert_eq!(symbols.intern(""), Symbol::EMPTY);
    }
}
