//! Frames and file headers: how bytes on disk prove that they are whole. `docs/store-format.md` shows
//! the layout.
//!
//! One frame is one write and one sync. A frame is written only after the one before it is durable;
//! so a broken frame with a whole one after it is damage, and a broken frame with none after it is a
//! write that the crash interrupted.

/// Version of the format that this code writes; it reads this and all older ones.
pub(super) const FORMAT_VERSION: u32 = 1;
pub(super) const SEGMENT_MAGIC: [u8; 8] = *b"AMPHLOG\n";
pub(super) const SNAPSHOT_MAGIC: [u8; 8] = *b"AMPHSNP\n";
pub(super) const HEADER_BYTES: usize = 32;
pub(super) const FRAME_HEADER_BYTES: usize = 24;
/// Frames begin at multiples of this, so that looking for one after a break is quick.
const ALIGNMENT: usize = 8;
const FRAME_MAGIC: [u8; 4] = *b"frm\n";
/// Upper bound of a body: a full batch and the largest transaction fit well.
pub(super) const MAX_BODY_BYTES: usize = 64 << 20;

/// The start of every file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub store_id: u64,
    /// Segment: sequence of its first frame. Snapshot: sequence of the last frame it holds.
    pub sequence: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    Invalid,
    Newer(u32),
}

impl Header {
    pub fn encode(self, magic: [u8; 8]) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..8].copy_from_slice(&magic);
        out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[12..20].copy_from_slice(&self.store_id.to_le_bytes());
        out[20..28].copy_from_slice(&self.sequence.to_le_bytes());
        let sum = crc32c::crc32c(&out[..28]);
        out[28..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8], magic: [u8; 8]) -> Result<Self, HeaderError> {
        let bytes = bytes.get(..HEADER_BYTES).ok_or(HeaderError::Invalid)?;
        if bytes[..8] != magic || u32_at(bytes, 28) != crc32c::crc32c(&bytes[..28]) {
            return Err(HeaderError::Invalid);
        }
        match u32_at(bytes, 8) {
            FORMAT_VERSION => Ok(Header { store_id: u64_at(bytes, 12), sequence: u64_at(bytes, 20) }),
            version => Err(HeaderError::Newer(version)),
        }
    }
}

/// Where a body is being gathered: room for the frame header is left in front.
pub(super) fn begin(out: &mut Vec<u8>) {
    out.clear();
    out.resize(FRAME_HEADER_BYTES, 0);
}

/// Completes a frame begun with [`begin`]: fills the header in and pads to the alignment.
pub(super) fn finish(frame: &mut Vec<u8>, store_id: u64, sequence: u64) {
    let body = &frame[FRAME_HEADER_BYTES..];
    // Bodies are bounded by MAX_BODY_BYTES, which fits.
    let len = body.len() as u32;
    let body_sum = crc32c::crc32c(body);
    frame[..4].copy_from_slice(&FRAME_MAGIC);
    frame[4..8].copy_from_slice(&len.to_le_bytes());
    frame[8..16].copy_from_slice(&sequence.to_le_bytes());
    frame[16..20].copy_from_slice(&body_sum.to_le_bytes());
    let header_sum = header_sum(&frame[..20], store_id);
    frame[20..24].copy_from_slice(&header_sum.to_le_bytes());
    frame.resize(frame.len().next_multiple_of(ALIGNMENT), 0);
}

/// The store's id goes into the sum, so that a frame of another store, or one hidden in a value, is
/// never taken for one of ours.
fn header_sum(header: &[u8], store_id: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&store_id.to_le_bytes()), header)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub sequence: u64,
    pub body_len: usize,
    body_sum: u32,
}

impl FrameHeader {
    pub fn decode(bytes: &[u8], store_id: u64) -> Option<Self> {
        let bytes = bytes.get(..FRAME_HEADER_BYTES)?;
        if bytes[..4] != FRAME_MAGIC || u32_at(bytes, 20) != header_sum(&bytes[..20], store_id) {
            return None;
        }
        let body_len = u32_at(bytes, 4) as usize;
        (body_len <= MAX_BODY_BYTES).then(|| FrameHeader {
            sequence: u64_at(bytes, 8),
            body_len,
            body_sum: u32_at(bytes, 16),
        })
    }

    pub fn matches(&self, body: &[u8]) -> bool {
        crc32c::crc32c(body) == self.body_sum
    }

    /// Bytes of header, body and padding.
    pub fn frame_len(&self) -> usize {
        (FRAME_HEADER_BYTES + self.body_len).next_multiple_of(ALIGNMENT)
    }
}

/// A whole frame at `offset`, or `None`.
pub(super) fn parse(bytes: &[u8], offset: usize, store_id: u64) -> Option<(FrameHeader, &[u8])> {
    let header = FrameHeader::decode(bytes.get(offset..)?, store_id)?;
    let start = offset + FRAME_HEADER_BYTES;
    let body = bytes.get(start..start + header.body_len)?;
    header.matches(body).then_some((header, body))
}

/// The place of the first whole frame at or after `from` whose sequence is at least `sequence`.
pub(super) fn find_later(bytes: &[u8], from: usize, store_id: u64, sequence: u64) -> Option<usize> {
    (from.next_multiple_of(ALIGNMENT)..bytes.len())
        .step_by(ALIGNMENT)
        .filter(|offset| bytes[*offset..].starts_with(&FRAME_MAGIC))
        .find(|offset| parse(bytes, *offset, store_id).is_some_and(|(header, _)| header.sequence >= sequence))
}

/// Callers have checked the length.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

/// Callers have checked the length.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(body: &[u8], sequence: u64) -> Vec<u8> {
        let mut out = Vec::new();
        begin(&mut out);
        out.extend_from_slice(body);
        finish(&mut out, 42, sequence);
        out
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = frame(b"hello world", 5);
        assert_eq!(good.len() % ALIGNMENT, 0);
        let (header, body) = parse(&good, 0, 42).unwrap();
        assert_eq!((header.sequence, body), (5, &b"hello world"[..]));
        assert!(parse(&good, 0, 43).is_none(), "another store's frame");
        for bit in 0..(FRAME_HEADER_BYTES + body.len()) * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&bad, 0, 42).is_none(), "bit {bit}");
        }
        let header = Header { store_id: 1, sequence: 2 };
        let bytes = header.encode(SEGMENT_MAGIC);
        assert_eq!(Header::decode(&bytes, SEGMENT_MAGIC), Ok(header));
        for bit in 0..HEADER_BYTES * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&bad, SEGMENT_MAGIC), Err(HeaderError::Invalid));
        }
    }

    #[test]
    fn finds_a_whole_frame_behind_a_broken_one() {
        let mut bytes = frame(b"first", 1);
        let second = bytes.len();
        bytes.extend(frame(b"second", 2));
        bytes[FRAME_HEADER_BYTES] ^= 1;
        bytes.extend([0; 100]);
        assert_eq!(find_later(&bytes, 8, 42, 2), Some(second));
        assert_eq!(find_later(&bytes, 8, 42, 3), None);
        assert_eq!(find_later(&bytes, second + 8, 42, 2), None);
    }
}
