//! Header blocks: name/value pairs, compressed with one zlib stream per direction.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary::dictionary;
use crate::Error;

/// Names (lower case) and values.
pub type Headers = Vec<(String, String)>;

/// Largest header block accepted; ours are a few dozen bytes.
const MAX_BLOCK_BYTES: usize = 64 * 1024;
const MAX_HEADERS: u32 = 256;

/// Value of a header, by lower-case name.
pub fn find<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// Compresses the blocks of one direction.
pub struct Encoder(Compress);

/// Decompresses the blocks of one direction.
pub struct Decoder {
    inflate: Decompress,
    dictionary: Vec<u8>,
}

impl Encoder {
    pub fn new() -> Result<Encoder, Error> {
        let mut deflate = Compress::new(Compression::default(), true);
        deflate.set_dictionary(&dictionary()).map_err(|error| Error::Spdy(error.to_string()))?;
        Ok(Encoder(deflate))
    }

    pub fn encode(&mut self, headers: &Headers) -> Result<Vec<u8>, Error> {
        let plain = write(headers);
        let start = self.0.total_in();
        let mut block = Vec::with_capacity(plain.len() + 64);
        loop {
            let consumed = (self.0.total_in() - start) as usize;
            block.reserve(256);
            self.0
                .compress_vec(&plain[consumed..], &mut block, FlushCompress::Sync)
                .map_err(|error| Error::Spdy(error.to_string()))?;
            let everything = (self.0.total_in() - start) as usize == plain.len();
            if everything && block.len() < block.capacity() {
                return Ok(block);
            }
        }
    }
}

impl Decoder {
    pub fn new() -> Decoder {
        Decoder { inflate: Decompress::new(true), dictionary: dictionary() }
    }

    pub fn decode(&mut self, block: &[u8]) -> Result<Headers, Error> {
        let mut plain: Vec<u8> = Vec::with_capacity(1024);
        let mut rest = block;
        loop {
            let before = self.inflate.total_in();
            plain.reserve(1024);
            let outcome = self.inflate.decompress_vec(rest, &mut plain, FlushDecompress::Sync);
            let consumed = (self.inflate.total_in() - before) as usize;
            rest = &rest[consumed..];
            match outcome {
                Ok(Status::StreamEnd) => break,
                // All input is used and the output has room left: this block is done.
                Ok(_) if rest.is_empty() && plain.len() < plain.capacity() => break,
                Ok(_) if plain.len() > MAX_BLOCK_BYTES => {
                    return Err(Error::Spdy("header block too large".into()));
                }
                Ok(Status::BufError) if consumed == 0 && plain.len() < plain.capacity() => break,
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate
                        .set_dictionary(&self.dictionary)
                        .map_err(|error| Error::Spdy(error.to_string()))?;
                }
                Err(error) => return Err(Error::Spdy(format!("header block: {error}"))),
            }
        }
        read(&plain)
    }
}

fn write(headers: &Headers) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut put = |bytes: &[u8]| {
        plain.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        plain.extend_from_slice(bytes);
    };
    for (name, value) in headers {
        put(name.as_bytes());
        put(value.as_bytes());
    }
    let mut all = (headers.len() as u32).to_be_bytes().to_vec();
    all.extend_from_slice(&plain);
    all
}

fn read(plain: &[u8]) -> Result<Headers, Error> {
    let broken = || Error::Spdy("broken header block".into());
    let mut rest = plain;
    let number = |rest: &mut &[u8]| -> Result<u32, Error> {
        let (head, tail) = rest.split_first_chunk::<4>().ok_or_else(broken)?;
        *rest = tail;
        Ok(u32::from_be_bytes(*head))
    };
    let count = number(&mut rest)?;
    if count > MAX_HEADERS {
        return Err(broken());
    }
    let text = |rest: &mut &[u8]| -> Result<String, Error> {
        let length = number(rest)? as usize;
        let (head, tail) = rest.split_at_checked(length).ok_or_else(broken)?;
        *rest = tail;
        Ok(String::from_utf8_lossy(head).into_owned())
    };
    let mut headers = Headers::new();
    for _ in 0..count {
        let name = text(&mut rest)?.to_ascii_lowercase();
        // Several values of one name are separated by zero bytes; the first is the one meant.
        let value = text(&mut rest)?;
        headers.push((name, value.split('\0').next().unwrap_or_default().to_string()));
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_one_direction_depend_on_each_other() {
        let mut encoder = Encoder::new().unwrap();
        let mut decoder = Decoder::new();
        for number in 0..50 {
            let headers: Headers = vec![
                ("streamtype".into(), "data".into()),
                ("port".into(), "8080".into()),
                ("requestid".into(), number.to_string()),
                ("long".into(), "x".repeat(number * 100)),
            ];
            let block = encoder.encode(&headers).unwrap();
            assert_eq!(decoder.decode(&block).unwrap(), headers, "{number}");
        }
        assert!(decoder.decode(b"garbage").is_err());
    }
}
