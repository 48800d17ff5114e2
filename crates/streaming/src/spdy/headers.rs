//! SPDY header blocks: name-value pairs, compressed by one zlib stream per direction of a connection.

use bytes::{Buf, BufMut, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary::{CHECKSUM, DICTIONARY};
use super::frame::FrameError;

/// Names (lower case) and values of one header block.
pub type Headers = Vec<(String, String)>;

/// The most a header block may take once uncompressed; stream headers are a few dozen bytes.
const MAX_BLOCK: usize = 64 << 10;
/// The most pairs one block may hold.
const MAX_PAIRS: u32 = 256;
/// Room the compressor and the decompressor grow their output by.
const STEP: usize = 1024;

/// The value of a header, if the block has it.
#[must_use]
pub fn find<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers.iter().find(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// Compresses header blocks in the order they go out.
#[derive(Debug)]
pub struct HeaderWriter(Compress);

impl HeaderWriter {
    /// # Errors
    /// When the compressor refuses the dictionary.
    pub fn new() -> Result<Self, FrameError> {
        let mut compress = Compress::new(Compression::default(), true);
        compress.set_dictionary(DICTIONARY).map_err(|_| FrameError::Compression)?;
        Ok(Self(compress))
    }

    /// Appends the compressed block to `out`.
    ///
    /// # Errors
    /// When the compressor fails.
    pub fn write(&mut self, headers: &Headers, out: &mut BytesMut) -> Result<(), FrameError> {
        let plain = plain_block(headers)?;
        let mut packed = Vec::with_capacity(plain.len() + STEP);
        let start = self.0.total_in();
        loop {
            let done = usize::try_from(self.0.total_in() - start).map_err(|_| FrameError::Compression)?;
            self.0
                .compress_vec(&plain[done..], &mut packed, FlushCompress::Sync)
                .map_err(|_| FrameError::Compression)?;
            let all_in = self.0.total_in() - start == plain.len() as u64;
            if all_in && packed.len() < packed.capacity() {
                break; // room was left over: the flush is complete
            }
            packed.reserve(STEP);
        }
        out.extend_from_slice(&packed);
        Ok(())
    }
}

fn plain_block(headers: &Headers) -> Result<Vec<u8>, FrameError> {
    let length = |value: usize| u32::try_from(value).map_err(|_| FrameError::TooLarge);
    let mut plain = Vec::new();
    plain.put_u32(length(headers.len())?);
    for (name, value) in headers {
        for text in [name, value] {
            plain.put_u32(length(text.len())?);
            plain.extend_from_slice(text.as_bytes());
        }
    }
    Ok(plain)
}

/// Uncompresses header blocks in the order they come in.
#[derive(Debug)]
pub struct HeaderReader(Decompress);

impl Default for HeaderReader {
    fn default() -> Self {
        Self(Decompress::new(true))
    }
}

impl HeaderReader {
    /// Reads one whole compressed block.
    ///
    /// # Errors
    /// When the block is not well-formed, or larger than any honest one.
    pub fn read(&mut self, packed: &[u8]) -> Result<Headers, FrameError> {
        let mut plain = Vec::with_capacity(STEP);
        let start = self.0.total_in();
        loop {
            let done = usize::try_from(self.0.total_in() - start).map_err(|_| FrameError::Compression)?;
            let status = match self.0.decompress_vec(&packed[done..], &mut plain, FlushDecompress::Sync) {
                Ok(status) => status,
                Err(error) if error.needs_dictionary() == Some(CHECKSUM) => {
                    self.0.set_dictionary(DICTIONARY).map_err(|_| FrameError::Compression)?;
                    continue;
                }
                Err(_) => return Err(FrameError::Compression),
            };
            let all_in = self.0.total_in() - start == packed.len() as u64;
            if (all_in && plain.len() < plain.capacity()) || status == Status::StreamEnd {
                break;
            }
            if plain.len() > MAX_BLOCK {
                return Err(FrameError::TooLarge);
            }
            plain.reserve(STEP);
        }
        parse_block(&plain)
    }
}

fn parse_block(mut plain: &[u8]) -> Result<Headers, FrameError> {
    let pairs = plain.try_get_u32().map_err(|_| FrameError::Malformed("header block"))?;
    if pairs > MAX_PAIRS {
        return Err(FrameError::TooLarge);
    }
    (0..pairs).map(|_| Ok((take_text(&mut plain)?.to_ascii_lowercase(), take_text(&mut plain)?))).collect()
}

fn take_text(plain: &mut &[u8]) -> Result<String, FrameError> {
    let malformed = || FrameError::Malformed("header text");
    let length = plain.try_get_u32().map_err(|_| malformed())? as usize;
    let (text, rest) = plain.split_at_checked(length).ok_or_else(malformed)?;
    *plain = rest;
    String::from_utf8(text.to_vec()).map_err(|_| malformed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_survive_the_round_trip_in_order() {
        let (mut writer, mut reader) = (HeaderWriter::new().unwrap(), HeaderReader::default());
        let long = "x".repeat(5000);
        for headers in [vec![], vec![("streamtype", "error")], vec![("port", "80"), ("long", &long)], vec![]]
        {
            let headers: Headers = headers.into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
            let mut packed = BytesMut::new();
            writer.write(&headers, &mut packed).unwrap();
            assert_eq!(reader.read(&packed).unwrap(), headers);
        }
    }

    #[test]
    fn broken_blocks_are_errors() {
        assert!(HeaderReader::default().read(b"not zlib").is_err());
        assert!(parse_block(&[0, 0, 0, 1, 0, 0, 0, 9, b'a']).is_err());
        assert!(parse_block(&[0xff, 0, 0, 1]).is_err());
        assert_eq!(find(&vec![("requestid".into(), "7".into())], "requestID"), Some("7"));
    }
}
