//! Completion indexes of an Indexed job: a set of numbers written as "0-2,4".

use std::collections::BTreeSet;
use std::fmt;

/// Sorted, distinct, non-adjacent closed ranges; small for any job that runs its indexes in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Indexes {
    ranges: Vec<(i32, i32)>,
}

impl Indexes {
    /// Reads the notation; what is beyond `completions` (a job scaled down) or unreadable is dropped.
    pub fn parse(text: &str, completions: i32) -> Self {
        let mut indexes = Indexes::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) else { continue };
            let last = last.min(completions - 1);
            if first >= 0 && first <= last {
                indexes.ranges.push((first, last));
            }
        }
        indexes.normalise();
        indexes
    }
    fn normalise(&mut self) {
        self.ranges.sort_unstable();
        let mut merged: Vec<(i32, i32)> = Vec::with_capacity(self.ranges.len());
        for (first, last) in self.ranges.drain(..) {
            match merged.last_mut() {
                Some(range) if first <= range.1.saturating_add(1) => range.1 = range.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        self.ranges = merged;
    }
    pub fn with(&self, more: impl IntoIterator<Item = i32>) -> Self {
        let mut indexes = self.clone();
        indexes.ranges.extend(more.into_iter().map(|index| (index, index)));
        indexes.normalise();
        indexes
    }
    pub fn contains(&self, index: i32) -> bool {
        let at = self.ranges.partition_point(|(first, _)| *first <= index);
        at > 0 && index <= self.ranges[at - 1].1
    }
    pub fn len(&self) -> i32 {
        self.ranges.iter().map(|(first, last)| last - first + 1).sum()
    }
    /// The lowest `count` indexes below `completions` neither here nor in `taken`.
    pub fn missing(&self, taken: &BTreeSet<i32>, completions: i32, count: usize) -> Vec<i32> {
        let free = |index: &i32| !self.contains(*index) && !taken.contains(index);
        (0..completions).filter(free).take(count).collect()
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (first, last)) in self.ranges.iter().enumerate() {
            if position > 0 {
                f.write_str(",")?;
            }
            match last - first {
                0 => write!(f, "{first}")?,
                1 => write!(f, "{first},{last}")?,
                _ => write!(f, "{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notation() {
        for (text, completions, expected, len) in [
            ("", 5, "", 0),
            ("1,3-5,7", 10, "1,3-5,7", 5),
            ("1,3-5,7", 5, "1,3,4", 3),
            ("0,1,2", 10, "0-2", 3),
            ("4-3,x,2", 10, "2", 1),
        ] {
            let indexes = Indexes::parse(text, completions);
            assert_eq!((indexes.to_string().as_str(), indexes.len()), (expected, len), "{text}");
        }
        let indexes = Indexes::parse("0,2", 9).with([1, 7]);
        assert_eq!(indexes.to_string(), "0-2,7");
        assert!(indexes.contains(7) && !indexes.contains(3));
        assert_eq!(indexes.missing(&BTreeSet::from([3]), 9, 3), [4, 5, 6]);
    }
}
