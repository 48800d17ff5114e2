//! Protobuf's wire format: varints, fixed numbers and length-delimited bytes.

use super::Error;

pub(super) const VARINT: u64 = 0;
pub(super) const FIXED64: u64 = 1;
pub(super) const BYTES: u64 = 2;
pub(super) const FIXED32: u64 = 5;

/// One field as it stands on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) enum Item<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    pub fn varint(&mut self) -> Result<u64, Error> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.rest.split_first().ok_or(Error::Truncated)?;
            self.rest = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Error::Truncated)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Error> {
        if count > self.rest.len() {
            return Err(Error::Truncated);
        }
        let (taken, rest) = self.rest.split_at(count);
        self.rest = rest;
        Ok(taken)
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next field's tag and content, `None` at the end.
    pub fn next(&mut self) -> Result<Option<(u32, Item<'a>)>, Error> {
        if self.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let tag = u32::try_from(key >> 3).map_err(|_| Error::Truncated)?;
        let item = match key & 7 {
            VARINT => Item::Varint(self.varint()?),
            FIXED64 => Item::Fixed64(u64::from_le_bytes(self.array()?)),
            FIXED32 => Item::Fixed32(u32::from_le_bytes(self.array()?)),
            BYTES => {
                let length = usize::try_from(self.varint()?).map_err(|_| Error::Truncated)?;
                Item::Bytes(self.take(length)?)
            }
            other => return Err(Error::WireType(other)),
        };
        Ok(Some((tag, item)))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        self.take(N)?.try_into().map_err(|_| Error::Truncated)
    }
}

pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub fn put_number(out: &mut Vec<u8>, tag: u32, value: i64) {
    put_varint(out, u64::from(tag) << 3 | VARINT);
    // Negative numbers are ten bytes long in two's complement.
    put_varint(out, value as u64);
}

pub fn put_double(out: &mut Vec<u8>, tag: u32, value: f64) {
    put_varint(out, u64::from(tag) << 3 | FIXED64);
    out.extend(value.to_le_bytes());
}

pub fn put_bytes(out: &mut Vec<u8>, tag: u32, bytes: &[u8]) {
    put_bytes_head(out, tag, bytes.len());
    out.extend(bytes);
}

/// Tag and length of a field whose content follows.
pub fn put_bytes_head(out: &mut Vec<u8>, tag: u32, length: usize) {
    put_varint(out, u64::from(tag) << 3 | BYTES);
    put_varint(out, length as u64);
}

/// Opens a field whose length is not known yet; what follows is its content until [`finish`].
pub(super) fn begin(out: &mut Vec<u8>, tag: u32) -> usize {
    put_varint(out, u64::from(tag) << 3 | BYTES);
    // Most lengths fit one byte; `finish` makes room for more.
    out.push(0);
    out.len()
}

/// Closes the field that [`begin`] opened, writing its length in front of its content.
pub(super) fn finish(out: &mut Vec<u8>, start: usize) {
    let length = out.len() - start;
    let mut digits = Vec::with_capacity(varint_len(length));
    put_varint(&mut digits, length as u64);
    let more = digits.len() - 1;
    if more > 0 {
        let end = out.len();
        out.resize(end + more, 0);
        out.copy_within(start..end, start + more);
    }
    out[start - 1..start + more].copy_from_slice(&digits);
}

/// Bytes a number takes as a varint.
pub(super) fn varint_len(value: usize) -> usize {
    let bits = usize::BITS - (value | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// Bytes a length-delimited field takes.
pub(super) fn field_len(tag: u32, length: usize) -> usize {
    varint_len((tag as usize) << 3) + varint_len(length) + length
}
