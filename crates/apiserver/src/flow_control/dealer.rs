//! Shuffle sharding: each flow is dealt a small hand of a level's queues, the same each time. A flow
//! that fills its hand leaves almost every other flow a queue that it has not filled.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Cards of a hand that are kept without an allocation; larger hands are legal and rare.
const USUAL_HAND: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dealer {
    deck: usize,
    hand: usize,
}

impl Dealer {
    /// `None`: no hand of that size can be dealt from that deck.
    pub fn new(deck: usize, hand: usize) -> Option<Self> {
        (deck > 0 && (1..=deck).contains(&hand)).then_some(Dealer { deck, hand })
    }

    pub fn deck(&self) -> usize {
        self.deck
    }

    pub fn hand(&self) -> usize {
        self.hand
    }

    /// Calls `each` with the cards of this flow's hand, all different, all hands equally likely.
    ///
    /// The flow's number is read as digits whose bases are the sizes of the deck as it shrinks. A digit
    /// says which of the cards that are left is next: each card taken before that is not above it moves it up
    /// by one.
    pub fn deal(&self, flow: u64, mut each: impl FnMut(usize)) {
        let (mut few, mut many) = ([0; USUAL_HAND], Vec::new());
        let taken: &mut [usize] = match self.hand {
            0..=USUAL_HAND => &mut few,
            hand => {
                many.resize(hand, 0);
                &mut many
            }
        };
        let mut rest = flow;
        for dealt in 0..self.hand {
            let left = (self.deck - dealt) as u64;
            // Below the deck's size.
            let mut card = (rest % left) as usize;
            rest /= left;
            let mut at = 0;
            while at < dealt && taken[at] <= card {
                card += 1;
                at += 1;
            }
            taken.copy_within(at..dealt, at + 1);
            taken[at] = card;
            each(card);
        }
    }
}

/// The number of a flow: the same as long as the process lives.
pub fn flow_number(schema: &str, distinguisher: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (schema, distinguisher).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn hand(dealer: Dealer, flow: u64) -> Vec<usize> {
        let mut cards = Vec::new();
        dealer.deal(flow, |card| cards.push(card));
        cards
    }

    #[test]
    fn impossible_hands_are_refused() {
        assert!(Dealer::new(0, 0).is_none() && Dealer::new(4, 0).is_none() && Dealer::new(4, 5).is_none());
        assert!(Dealer::new(4, 4).is_some());
    }

    #[test]
    fn every_hand_is_dealt_equally_often() {
        let dealer = Dealer::new(5, 3).expect("possible");
        let mut seen: HashMap<Vec<usize>, usize> = HashMap::new();
        for flow in 0..5 * 4 * 3 {
            *seen.entry(hand(dealer, flow)).or_default() += 1;
        }
        assert_eq!(seen.len(), 60, "each ordered choice of three of five");
        assert!(seen.values().all(|times| *times == 1));
        for cards in seen.keys() {
            assert!(cards[0] != cards[1] && cards[1] != cards[2] && cards[0] != cards[2], "{cards:?}");
            assert!(cards.iter().all(|card| *card < 5));
        }
    }

    #[test]
    fn large_hands_are_dealt_too() {
        let dealer = Dealer::new(20, 12).expect("possible");
        let mut cards = hand(dealer, flow_number("schema", "jane"));
        cards.sort_unstable();
        cards.dedup();
        assert_eq!(cards.len(), 12);
        assert_ne!(flow_number("a", "bc"), flow_number("ab", "c"));
    }
}
