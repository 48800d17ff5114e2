//! When those who are refused are to come again. The more are refused, the later: doubled while many
//! come back too soon, taken back a second at a time when they do not. Pure.

use std::collections::VecDeque;

/// Longest that anybody is sent away for, and as long is remembered how many were.
const MOST_SECONDS: u64 = 32;
/// Refused in each second of the present wait, these are too many.
const TOO_MANY: u64 = 3;

#[derive(Debug)]
pub struct RetryAfter {
    seconds: u64,
    /// When it was last raised.
    raised: Option<u64>,
    /// Seconds in which somebody was refused, and how many; the newest is last.
    refused: VecDeque<(u64, u64)>,
}

impl Default for RetryAfter {
    fn default() -> Self {
        RetryAfter { seconds: 1, raised: None, refused: VecDeque::new() }
    }
}

impl RetryAfter {
    /// One more is refused in this second; the answer is when it is to come again.
    pub fn refused(&mut self, now: u64) -> u64 {
        match self.refused.back_mut() {
            Some((second, count)) if *second >= now => *count += 1,
            _ => {
                self.adjust(now);
                self.refused.push_back((now, 1));
            }
        }
        self.seconds
    }

    /// Looks back over as long as the wait is, once for each second in which somebody is refused.
    fn adjust(&mut self, now: u64) {
        while self.refused.front().is_some_and(|(second, _)| now - second > MOST_SECONDS) {
            self.refused.pop_front();
        }
        let recent = self.refused.iter().filter(|(second, _)| now - second <= self.seconds);
        let recent: u64 = recent.map(|(_, count)| count).sum();
        let is_settled = self.raised.is_none_or(|raised| now - raised >= self.seconds);
        if is_settled && recent >= TOO_MANY * self.seconds {
            self.seconds = (self.seconds * 2).min(MOST_SECONDS);
            self.raised = Some(now);
        } else if recent < self.seconds && self.seconds > 1 {
            self.seconds -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_sent_away_for_longer_and_longer() {
        let mut wait = RetryAfter::default();
        let mut seen = Vec::new();
        for second in 100..200 {
            for _ in 0..1000 {
                seen.push(wait.refused(second));
            }
        }
        seen.dedup();
        assert_eq!(seen, [1, 2, 4, 8, 16, 32]);
        assert!(wait.refused.len() <= MOST_SECONDS as usize + 2, "no more is kept than is looked at");
        // Somebody now and then: it becomes short again.
        let later: Vec<u64> = (0..40).map(|step| wait.refused(1000 + 40 * step)).collect();
        assert_eq!((later[0], later[39]), (31, 1));
    }

    #[test]
    fn a_few_wait_a_second() {
        let mut wait = RetryAfter::default();
        assert!((0..100).all(|second| wait.refused(second) == 1));
        assert_eq!(wait.refused(50), 1, "a clock set back breaks nothing");
    }
}
