//! Stored values as memory holds them: JSON texts, of which what many of them repeat stands there once.
//!
//! Two fifths of a pod's text, and more than half of a Deployment's, are `managedFields`; yet who owns
//! which fields is said in the same words by all pods of a template, by all Deployments that one
//! controller reports on, and by each version of an object and the one before it. So a text is what it
//! has of its own, in one piece, and pieces that it shares with others ([`Interner`]). What may be shared
//! is only guessed ([`repeats`]): however it is cut, a text is the bytes it was made of.

mod interner;
mod repeats;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use memchr::memmem;

use self::interner::{Interner, Piece};

/// Of everything in the process: pieces are but their content, and what one store holds may well be told
/// again by another, or by a cache that rewrote it.
static INTERNER: LazyLock<Interner> = LazyLock::new(Interner::default);

/// The least part of a text, one in so many bytes, that is worth sharing. A text in one piece goes out to
/// any number of clients without a copy, and that is worth more where the text is large and little of it
/// is repeated.
const WORTH_SHARING: usize = 16;

/// What a text takes besides its bytes: its parts, and how many hold it.
const FRAME_BYTES: usize = size_of::<Parts>() + 2 * size_of::<usize>();

/// The bytes of a value. Cheap to clone.
#[derive(Clone)]
pub struct Text(Arc<Parts>);

struct Parts {
    /// What it does not share.
    own: Box<[u8]>,
    /// By place.
    inserts: Box<[Insert]>,
}

/// A shared piece and where, in the text's own bytes, it belongs.
struct Insert {
    at: u32,
    piece: Arc<Piece>,
}

impl Text {
    /// A copy of these bytes, one part after the other. What stands within a part can be shared.
    pub fn new(parts: &[&[u8]]) -> Self {
        Self::kept_in(&INTERNER, parts)
    }

    fn kept_in(interner: &Interner, parts: &[&[u8]]) -> Self {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let mut repeated: Vec<_> = parts.iter().map(|part| repeats::find(part)).collect();
        let mut shared: usize = repeated.iter().flatten().map(Range::len).sum();
        if shared * WORTH_SHARING < len || u32::try_from(len).is_err() {
            repeated.iter_mut().for_each(Vec::clear);
            shared = 0;
        }
        let mut own = Vec::with_capacity(len - shared);
        let mut inserts = Vec::with_capacity(repeated.iter().map(Vec::len).sum());
        for (part, ranges) in parts.iter().zip(repeated) {
            let mut from = 0;
            for range in ranges {
                own.extend_from_slice(&part[from..range.start]);
                from = range.end;
                // No place is further than `len`, which fits.
                inserts.push(Insert { at: own.len() as u32, piece: interner.piece(&part[range]) });
            }
            own.extend_from_slice(&part[from..]);
        }
        Text(Arc::new(Parts { own: own.into(), inserts: inserts.into() }))
    }

    /// A copy of what says the same as `other` in another form: what stands in both word by word is shared,
    /// where it stands in the same order.
    pub fn like(other: &Text, bytes: &[u8]) -> Self {
        let fits = u32::try_from(bytes.len()).is_ok();
        let others: &[Insert] = if fits { &other.0.inserts } else { &[] };
        let (mut own, mut inserts) = (Vec::new(), Vec::with_capacity(others.len()));
        let mut rest = bytes;
        for insert in others {
            let piece = insert.piece.bytes();
            let Some(at) = memmem::find(rest, piece) else { continue };
            own.extend_from_slice(&rest[..at]);
            // No place is further than the length, which fits.
            inserts.push(Insert { at: own.len() as u32, piece: insert.piece.clone() });
            rest = &rest[at + piece.len()..];
        }
        own.extend_from_slice(rest);
        Text(Arc::new(Parts { own: own.into(), inserts: inserts.into() }))
    }

    /// How long the whole text is.
    pub fn len(&self) -> usize {
        self.0.own.len() + self.0.inserts.iter().map(|insert| insert.piece.bytes().len()).sum::<usize>()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// About the memory that this text takes beside `other`, which has some of its pieces anyway; of the
    /// rest it may be the only one that has them.
    pub fn held_bytes(&self, other: Option<&Text>) -> usize {
        let others: &[Insert] = other.map_or(&[], |other| &other.0.inserts);
        let stays = |insert: &&Insert| !others.iter().any(|kept| Arc::ptr_eq(&kept.piece, &insert.piece));
        let pieces = self.0.inserts.iter().filter(stays).map(|insert| insert.piece.bytes().len());
        FRAME_BYTES + self.0.own.len() + size_of_val(&*self.0.inserts) + pieces.sum::<usize>()
    }

    /// The text from front to back.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.0.chunk_count()).map(|index| self.0.chunk(index)).filter(|chunk| !chunk.is_empty())
    }

    /// A part of the text.
    pub fn chunks_in(&self, range: Range<usize>) -> impl Iterator<Item = &[u8]> {
        self.0.cut(range).map(|(index, range)| &self.0.chunk(index)[range])
    }

    /// The same, kept alive by each of the chunks: for what goes out later.
    pub fn slices_in(&self, range: Range<usize>) -> impl Iterator<Item = Bytes> {
        let slice = |(index, range)| Bytes::from_owner(Slice { of: self.0.clone(), index, range });
        self.0.cut(range).map(slice)
    }

    /// The whole text in one piece; copied only where it is not.
    pub fn contiguous(&self) -> Cow<'_, [u8]> {
        if self.0.inserts.is_empty() { Cow::Borrowed(&self.0.own) } else { Cow::Owned(self.concat()) }
    }

    /// The same, to keep.
    pub fn to_bytes(&self) -> Bytes {
        if self.0.inserts.is_empty() {
            let range = 0..self.0.own.len();
            return Bytes::from_owner(Slice { of: self.0.clone(), index: 0, range });
        }
        self.concat().into()
    }

    fn concat(&self) -> Vec<u8> {
        let mut whole = Vec::with_capacity(self.len());
        self.chunks().for_each(|chunk| whole.extend_from_slice(chunk));
        whole
    }

    pub fn starts_with(&self, prefix: &[u8]) -> bool {
        let mut rest = prefix;
        for chunk in self.chunks_in(0..prefix.len()) {
            let Some(behind) = rest.strip_prefix(chunk) else { return false };
            rest = behind;
        }
        rest.is_empty()
    }

    fn is_same(&self, other: &Text) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Where it lies in memory: no other text does as long as this one lives.
    pub fn place(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }
}

impl Parts {
    /// Own bytes and pieces in turn, of which the own ones may be empty.
    fn chunk_count(&self) -> usize {
        2 * self.inserts.len() + 1
    }

    fn chunk(&self, index: usize) -> &[u8] {
        let nth = index / 2;
        if index % 2 == 1 {
            return self.inserts[nth].piece.bytes();
        }
        let place = |insert: &Insert| insert.at as usize;
        let start = nth.checked_sub(1).map_or(0, |before| place(&self.inserts[before]));
        let end = self.inserts.get(nth).map_or(self.own.len(), place);
        &self.own[start..end]
    }

    /// The chunks that lie in a range of the whole text, and what of each does.
    fn cut(&self, range: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
        let mut end = 0;
        (0..self.chunk_count()).filter_map(move |index| {
            let start = end;
            end += self.chunk(index).len();
            let (from, to) = (range.start.max(start), range.end.min(end));
            (from < to).then(|| (index, from - start..to - start))
        })
    }
}

/// A part of one chunk.
struct Slice {
    of: Arc<Parts>,
    index: usize,
    range: Range<usize>,
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        &self.of.chunk(self.index)[self.range.clone()]
    }
}

impl<T: AsRef<[u8]>> From<T> for Text {
    fn from(bytes: T) -> Self {
        Text::new(&[bytes.as_ref()])
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other) || (self.len() == other.len() && self.contiguous() == other.contiguous())
    }
}

impl Eq for Text {}

impl<T: AsRef<[u8]> + ?Sized> PartialEq<T> for Text {
    fn eq(&self, other: &T) -> bool {
        *self.contiguous() == *other.as_ref()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_bytes().fmt(f)
    }
}

#[cfg(test)]
mod tests;
